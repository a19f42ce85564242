"""Data too few for one split: every sample is tested on once, in turns."""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.model_selection import KFold, StratifiedGroupKFold, StratifiedKFold
from torch import Tensor

from ..errors import InputError

_FEWEST = 3


def fold_of(
    count: int,
    fold: int,
    folds: int,
    seed: int = 0,
    *,
    labels: Tensor | Sequence | None = None,
    groups: Tensor | Sequence | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Which samples to train on, to choose by, and to test on, in one of several folds.

    The samples are cut once into ``folds`` parts. One part is the test split, the next one the validation split, the
    others are trained on: over all folds, every sample is in each of the two held-out splits once.

    Args:
        count: of samples.
        fold: 0 ... ``folds`` - 1.
        folds: 3 or more.
        seed: of the cut.
        labels: ``(count,)``; every part has about the same share of each.
        groups: ``(count,)``, such as patients; samples of one are never in two splits.

    Returns:
        Ascending indices for training, validation and test: disjoint, together 0 ... ``count`` - 1.

    Raises:
        InputError: numbers that allow no such cut.

    >>> [split.tolist() for split in fold_of(6, fold=1, folds=3)]
    [[2, 5], [0, 4], [1, 3]]
    """
    if not 0 <= fold < folds or folds < _FEWEST:
        raise InputError(f"there is no fold {fold} of {folds}; folds count from 0, and there are at least {_FEWEST}")
    for name, each in {"labels": labels, "groups": groups}.items():
        if each is not None and len(each) != count:
            raise InputError(f"there are {len(each)} {name} for {count} samples to cut into folds")
    options = {"n_splits": folds, "shuffle": True, "random_state": seed}
    kinds = np.zeros(count) if labels is None else np.asarray(labels)
    if groups is not None:
        cut = StratifiedGroupKFold(**options).split(kinds, kinds, np.asarray(groups))
    elif labels is not None:
        cut = StratifiedKFold(**options).split(kinds, kinds)
    else:
        cut = KFold(**options).split(kinds)
    try:
        parts = [torch.from_numpy(part) for _, part in cut]
    except ValueError as error:
        raise InputError(f"{count} samples cannot be cut into {folds} folds: {error}") from error
    test, validation = parts[fold], parts[(fold + 1) % folds]
    trained = torch.ones(count, dtype=torch.bool)
    trained[torch.cat([test, validation])] = False
    return trained.nonzero().flatten(), validation, test
