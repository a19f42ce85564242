"""English text as sequences of ASCII codes, split into three stretches."""

import inspect
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from ..errors import InputError
from ..files import read_text
from .batches import Splits
from .digits import LOCAL_FOLDER

SYMBOLS = 128
LENGTH = 100
_FILE = "input.txt"
_LOCAL_FILE = LOCAL_FOLDER / "tinyshakespeare" / _FILE
_HELD_OUT = 0.05
_MOST_REPLACED = 0.1


def load_text(source: str = "auto") -> Splits:
    """Load and split a text.

    Args:
        source: a text file, or a folder with ``input.txt``, or ``auto``: ``data/tinyshakespeare/input.txt``, else the
            English text that comes with Python, its help on the language.

    Returns:
        The first 90 % of the characters to train on, 5 % and 5 % for validation and test, each as sequences
        ``(101,)`` of ASCII codes, uint8, that share one character with the next: 100 inputs, each the answer to
        the one before. Characters outside ASCII are read as ``?``.

    Raises:
        InputError: a text that is missing, no UTF-8, mostly outside ASCII, or too short.
    """
    if source == "auto" and not _LOCAL_FILE.is_file():
        import pydoc_data.topics

        topics = pydoc_data.topics.topics
        text = "\n".join(inspect.cleandoc(topics[name]) for name in sorted(topics))
        return _split(text, "python_help", f"no {_LOCAL_FILE}: using Python's own help on the language")
    path = _LOCAL_FILE if source == "auto" else Path(source)
    path = path / _FILE if path.is_dir() else path
    name = path.resolve().parent.name if path.name == _FILE else path.stem
    return _split(_read(path), "".join(c if c.isalnum() else "_" for c in name.lower()) or "text", f"text from {path}")


def as_text(codes: Tensor) -> str:
    """ASCII codes ``(N,)`` as the characters they stand for."""
    return bytes(codes.tolist()).decode("ascii")


def _read(path: Path) -> str:
    try:
        return read_text(path).replace("\r\n", "\n")
    except InputError as error:
        raise InputError(f"--data: {error}; give a text file, a folder with {_FILE}, or 'auto'") from error


def _split(text: str, name: str, origin: str) -> Splits:
    replaced = sum(character > "\x7f" for character in text)
    if replaced > _MOST_REPLACED * len(text):
        raise InputError(f"{origin}: {replaced} of {len(text)} characters are not ASCII; give an English text")
    held_out = int(_HELD_OUT * len(text))
    if held_out <= LENGTH:
        shortest = round((LENGTH + 1) / _HELD_OUT)
        raise InputError(f"{origin}: {len(text)} characters are too few; give a text of at least {shortest}")
    codes = torch.frombuffer(bytearray(text.encode("ascii", "replace")), dtype=torch.uint8)
    stretches = codes.split([len(codes) - 2 * held_out, held_out, held_out])
    train, validation, test = (TensorDataset(stretch.unfold(0, LENGTH + 1, LENGTH)) for stretch in stretches)
    return Splits(
        name=name,
        train=train,
        validation=validation,
        test=test,
        note=f"{origin}: {len(train)} training, {len(validation)} validation, {len(test)} test sequences of {LENGTH} "
        f"characters, each begun without memory of the one before; {replaced} characters outside ASCII read as ?",
    )
