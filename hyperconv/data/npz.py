"""Arrays from numpy's npz files, of which nothing is believed before it is checked."""

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from ..errors import InputError
from ..files import MOST_BYTES, read_at_most, refuse_lfs_pointer

# what numpy writes; other methods unpack without a bound, and other versions have headers without one
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_VERSION = (1, 0)


def read_npz(path: Path, expected: Mapping[str, tuple[type, int]]) -> dict[str, np.ndarray]:
    """Read arrays by name. Neither are objects unpickled, nor more bytes unpacked than an array's header says it takes.

    Args:
        path: of the file.
        expected: name to numpy's kind of number (``np.uint8``, ``np.integer``, ``np.str_``, ...) and number of axes.

    Returns:
        The arrays, in this machine's byte order.

    Raises:
        InputError: a file that is missing or damaged, an array that is missing or larger than 1 GiB, or of another
            kind or number of axes; the message names both.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    refuse_lfs_pointer(path)
    try:
        with zipfile.ZipFile(path) as file:
            return {name: _array(path, file, name, *kind) for name, kind in expected.items()}
    except InputError:
        raise
    except Exception as error:  # a damaged archive can raise anything
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is damaged or no npz file ({reason}); get it anew") from error


def _array(path: Path, archive: zipfile.ZipFile, name: str, kind: type, axes: int) -> np.ndarray:
    member = f"{name}.npy"
    if member not in archive.namelist():
        there = ", ".join(each.removesuffix(".npy") for each in archive.namelist()[:10]) or "nothing"
        raise InputError(f"{path} holds no array {name}; it holds {there}")
    if archive.getinfo(member).compress_type not in _METHODS:
        raise InputError(f"the array {name} in {path} is packed in a way that numpy does not; save it anew with numpy")
    with archive.open(member) as file:
        shape, columns_first, dtype = _header(path, name, file)
        if not np.issubdtype(dtype, kind) or dtype.hasobject or len(shape) != axes or min(shape, default=0) < 0:
            raise InputError(
                f"the array {name} in {path} is {dtype} of shape {shape}; expected {kind.__name__} in {axes} axes"
            )
        promised = math.prod(shape) * dtype.itemsize
        if promised > MOST_BYTES:
            raise InputError(
                f"the array {name} in {path} promises {promised:,} bytes for shape {shape}; at most {MOST_BYTES:,} are "
                "read"
            )
        content = read_at_most(file, promised + 1)
    if len(content) != promised:
        held = f"{len(content):,}" if len(content) < promised else "more"
        raise InputError(
            f"the array {name} in {path} promises {promised:,} bytes for shape {shape}, but {held} are there; get it "
            "anew"
        )
    array = np.frombuffer(content, dtype).reshape(shape, order="F" if columns_first else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)


def _header(path: Path, name: str, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        if npy.read_magic(file) == _VERSION:
            return npy.read_array_header_1_0(file)
        reason = "another version of the npy format"
    except Exception as error:  # as above
        reason = " ".join(str(error).split())[:200]
    raise InputError(f"the array {name} in {path} has no header that can be read ({reason}); save it anew with numpy")
