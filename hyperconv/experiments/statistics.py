"""Means of a few trainings, and how well they are known."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from scipy.stats import t

_LEVEL = 0.95


class Interval(NamedTuple):
    """A mean and half the width of its 95 % interval."""

    mean: float
    half_width: float


def mean_interval(values: Sequence[float]) -> Interval:
    """Of two values or more, by Student's t.

    >>> round(mean_interval([1.0, 2.0, 3.0]).half_width, 3)
    2.484
    """
    freedom = len(values) - 1
    error = statistics.stdev(values) / math.sqrt(len(values))
    return Interval(statistics.mean(values), float(t.ppf((1 + _LEVEL) / 2, freedom)) * error)
