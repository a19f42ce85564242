"""Files that are whole or not there."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def renamed_into_place(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to, which takes its place once everything is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file, so that no reader ever sees half of it."""
    with renamed_into_place(path) as beside:
        beside.write_text(text)


def check_writable(folder: Path) -> None:
    """Make the folder and raise OSError where no file can be made in it; for before long work."""
    write_whole(folder / ".writable", "")
    (folder / ".writable").unlink()
