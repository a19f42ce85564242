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

_UNSIGNED_BYTE = 0x08


def find_idx(folder: Path, stem: str) -> Path | None:
    """The idx file called ``stem`` in ``folder``, gzipped or not."""
    return next((path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()), None)


def read_idx(path: Path, dims: int) -> Tensor:
    """Read an idx file of unsigned bytes with ``dims`` axes.

    Returns:
        uint8, of the shape that the header states.

    Raises:
        InputError: unreadable, corrupt or truncated, or not bytes with that many axes.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error}); fetch it again") from error
    header = 4 + 4 * dims
    if len(content) < header:
        raise InputError(f"{path} is truncated: {len(content)} bytes, its header alone takes {header}; fetch it again")
    kind, axes = content[2], content[3]
    if content[:2] != b"\0\0" or kind != _UNSIGNED_BYTE or axes != dims:
        raise InputError(
            f"{path} does not hold bytes in {dims} axes (it starts {content[:4].hex()}, "
            f"not 000008{dims:02x}); is it another file under this name?"
        )
    shape = struct.unpack(f">{dims}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise InputError(
            f"{path} is truncated or corrupt: its header promises {math.prod(shape)} bytes for shape {shape}, "
            f"it holds {len(content) - header}; fetch it again"
        )
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).copy()).reshape(shape)
