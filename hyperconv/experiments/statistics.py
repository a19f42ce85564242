"""Means of a few trainings, and how well they are known."""

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from scipy.stats import t

Key = TypeVar("Key", bound=Hashable)
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


def paired_interval(a: Mapping[Key, float], b: Mapping[Key, float]) -> Interval:
    """Mean of the differences between values of ``a`` and ``b`` under one key, two or more: of folds, which both share.

    Raises:
        ValueError: other keys.

    >>> round(paired_interval({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.5, 1: 1.0, 2: 2.5}).half_width, 3)
    0.717
    """
    if a.keys() != b.keys():
        raise ValueError("values to pair have the same keys")
    return mean_interval([a[key] - b[key] for key in a])


def difference_interval(a: Sequence[float], b: Sequence[float]) -> Interval:
    """Mean of ``a`` less that of ``b``, two values or more each, by Welch's t (Biometrika 1947).

    It tells the two apart where it leaves out zero.

    >>> round(difference_interval([1.0, 2.0, 3.0], [5.0, 7.0, 9.0]).half_width, 3)
    4.155
    """
    errors = [statistics.variance(values) / len(values) for values in (a, b)]
    difference = statistics.mean(a) - statistics.mean(b)
    if not any(errors):
        return Interval(difference, 0.0)
    freedom = sum(errors) ** 2 / sum(error**2 / (len(values) - 1) for error, values in zip(errors, (a, b), strict=True))
    return Interval(difference, float(t.ppf((1 + _LEVEL) / 2, freedom)) * math.sqrt(sum(errors)))
