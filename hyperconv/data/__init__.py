"""Digits, and the tasks made of them. Nothing here knows a model."""

from .digits import DigitDataset, Digits, digit_loader, load_digits

__all__ = ["DigitDataset", "Digits", "digit_loader", "load_digits"]
