"""Files that are whole or not there, text that is UTF-8 wherever it is read, and one process at a time."""

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import yaml

from .errors import InputError

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked and no leftover removed
    fcntl = None  # type: ignore[assignment]

# more than this no file of data is let take of the memory
MOST_BYTES = 1 << 30
_PIECE = 1 << 20
_PARTIAL = ".partial-"
_LOCK = ".lock"
_LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\n"
_MOST_YAML_BYTES = 1 << 16


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


@contextlib.contextmanager
def renamed_into_place(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """A path beside ``path`` to write to, which takes its place once everything is written.

    Whenever the process is killed or the power fails, ``path`` is what it was before or all that was written; after
    a power cut it may be what it was before even though the block had ended. What a killed process leaves is removed
    by `remove_leftovers`.

    Args:
        folder: whether it is a folder, made empty, that takes the place of none or an empty one. Its files should be
            written through this function too, or a power cut may empty them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{_PARTIAL}{secrets.token_hex(4)}-{path.name}")
    if folder:
        beside.mkdir()
    else:
        beside.touch(exist_ok=False)
    try:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                stack.enter_context(_claimed(beside))
            yield beside
            if not folder:
                _flush(beside)
            os.replace(beside, path)
    finally:
        _remove(beside)


def remove_leftovers(folder: Path, *, deep: bool = True) -> None:
    """Remove what processes that live no more left half-written by `renamed_into_place`.

    Args:
        deep: in the folders within too.
    """
    for path in list(folder.glob(f"{'**/' if deep else ''}{_PARTIAL}*")):
        with contextlib.suppress(OSError), _claimed(path):  # else being written, or gone by now
            _remove(path)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from using a folder, until the block ends or this process does, however that comes.

    On a file system, or a system, that has no locks, it keeps nobody out.

    Raises:
        InputError: another process is using it.
    """
    lock = folder / _LOCK
    lock.touch()
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_claimed(lock))
        except BlockingIOError as error:
            raise InputError(f"another process is using {folder}; wait until it is done, or stop it") from error
        except OSError:
            pass
        yield


def write_whole(path: Path, text: str) -> None:
    """Write a text file in UTF-8, so that no reader ever sees half of it."""
    with renamed_into_place(path) as beside:
        # paths as a process that knows ASCII only reads them from the command line
        beside.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Raises:
        InputError: a file that is missing, unreadable, too large, no UTF-8, or that git-lfs would have to fetch.
    """
    if not path.is_file():
        raise InputError(f"{path} cannot be read (there is no such file)")
    refuse_lfs_pointer(path)
    try:
        with path.open("rb") as file:
            content = read_at_most(file, most_bytes + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    if len(content) > most_bytes:
        raise InputError(f"{path} is larger than {most_bytes:,} bytes; is it another file under this name?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no UTF-8 text: {error}") from error


def read_at_most(file: _Readable, count: int) -> bytearray:
    """The next ``count`` bytes, or all there are, in memory that grows as they come, whatever a header has promised."""
    content = bytearray()
    while piece := file.read(min(_PIECE, count - len(content))):
        content += piece
    return content


def read_yaml(path: Path) -> dict[str, Any]:
    """Read plain values by name.

    Raises:
        InputError: as `read_text`; or no YAML of plain values, aliases included, whose expansion has no bound.
    """
    text = read_text(path, _MOST_YAML_BYTES)
    try:
        content = yaml.load(text, _PlainLoader)
    # odd dates, numbers of too many digits, brackets in brackets
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"{path} holds no YAML of plain values: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise InputError(f"{path} does not hold values by name")
    return content


def is_lfs_pointer(path: Path) -> bool:
    """Whether git-lfs has left this small text in place of the file that it names."""
    with path.open("rb") as file:
        return file.read(len(_LFS_POINTER)) == _LFS_POINTER


def refuse_lfs_pointer(path: Path) -> None:
    """Raise InputError for what `is_lfs_pointer` knows; OSError where the file cannot be read is for others."""
    with contextlib.suppress(OSError):
        if is_lfs_pointer(path):
            raise InputError(f"{path} is a git-lfs pointer, not the file itself; fetch that with 'git lfs pull'")


def check_writable(folder: Path) -> None:
    """Make the folder and raise OSError where no file can be made in it; for before long work."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


class _PlainLoader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has aliases")
        return super().compose_node(parent, index)


@contextlib.contextmanager
def _claimed(path: Path) -> Iterator[None]:
    """Claim a file or folder for this block; the kernel ends the claim of a process that is killed.

    Raises:
        BlockingIOError: another process, or another block of this one, has claimed it.
        OSError: nothing can be claimed on this system, or on the file system that holds it.
    """
    if fcntl is None:
        raise OSError("no locks on this system")
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # in processes forked meanwhile too
    finally:
        os.close(descriptor)


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
