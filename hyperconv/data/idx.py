"""The idx file format of MNIST and its descendants (http://yann.lecun.com/exdb/mnist)."""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files import MOST_BYTES, read_at_most, refuse_lfs_pointer

_UNSIGNED_BYTE = 0x08


def find_idx(folder: Path, stem: str) -> Path | None:
    """The idx file called ``stem`` in ``folder``, its ``-idx`` perhaps ``.idx``, gzipped or not."""
    names = (name + ending for name in (stem, stem.replace("-idx", ".idx")) for ending in ("", ".gz"))
    return next((path for name in names if (path := folder / name).is_file()), None)


def read_idx(path: Path, dims: int) -> Tensor:
    """Read an idx file of unsigned bytes with ``dims`` axes, taking no more memory than its header promises.

    Returns:
        uint8, of the shape that the header states.

    Raises:
        InputError: unreadable, corrupt, truncated or too large, or not bytes with that many axes.
    """
    refuse_lfs_pointer(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            shape = _shape(path, file.read(4 + 4 * dims), dims)
            promised = math.prod(shape)
            content = read_at_most(file, promised + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error}); fetch it again") from error
    if len(content) != promised:
        held = len(content) if len(content) < promised else "more"
        raise InputError(
            f"{path} is truncated or corrupt: its header promises {promised} bytes for shape {shape}, it holds {held}; "
            "fetch it again"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8)).reshape(shape)


def _shape(path: Path, header: bytes, dims: int) -> tuple[int, ...]:
    if len(header) < 4 + 4 * dims:
        raise InputError(
            f"{path} is truncated: {len(header)} bytes, its header alone takes {4 + 4 * dims}; fetch it again"
        )
    if header[:4] != bytes([0, 0, _UNSIGNED_BYTE, dims]):
        raise InputError(
            f"{path} does not hold bytes in {dims} axes (it starts {header[:4].hex()}, "
            f"not 000008{dims:02x}); is it another file under this name?"
        )
    shape = struct.unpack(f">{dims}I", header[4:])
    if math.prod(shape) > MOST_BYTES:
        raise InputError(
            f"{path} promises {math.prod(shape):,} bytes for shape {shape}; at most {MOST_BYTES:,} are read"
        )
    return shape
