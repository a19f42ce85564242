"""Digits to be turned by any angle: training draws the angles, held-out digits have theirs."""

import math
from dataclasses import replace

import torch
from torch.utils.data import TensorDataset

from .batches import Samples, Splits
from .digits import load_digits

_BLOCK = 500


def turned_digits(source: str = "auto") -> Splits:
    """`load_digits`, whose held-out digits come with the angles to turn them by.

    Args:
        source: as of `load_digits`.

    Returns:
        Training digits as they are; of validation and test, images ``(B, 1, 28, 28)``, uint8, labels ``(B,)``, and
        angles ``(B,)``, evenly drawn from 0 ... 2 pi, whatever the batches.

    Raises:
        InputError: as `load_digits`.
    """
    digits = load_digits(source)
    return replace(digits, validation=_with_angles(digits.validation), test=_with_angles(digits.test))


def _with_angles(digits: Samples) -> TensorDataset:
    blocks = range(math.ceil(len(digits) / _BLOCK))
    turns = torch.cat([torch.rand(_BLOCK, generator=torch.Generator().manual_seed(block)) for block in blocks])
    return TensorDataset(*digits[:], turns[: len(digits)] * (2 * math.pi))
