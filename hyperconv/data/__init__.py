"""Digits, and the tasks made of them. Nothing here knows a model."""

from .batches import Splits, batch_loader
from .digits import DigitDataset, load_digits
from .images import as_float
from .turned import turned_digits

__all__ = ["DigitDataset", "Splits", "as_float", "batch_loader", "load_digits", "turned_digits"]
