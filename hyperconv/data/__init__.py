"""Digits, and the tasks made of them. Nothing here knows a model."""

from .batches import Splits, batch_loader
from .digits import DigitDataset, load_digits

__all__ = ["DigitDataset", "Splits", "batch_loader", "load_digits"]
