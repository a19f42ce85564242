"""What an experiment is: a task, its arms, metrics and a figure. The loop over them is in `run`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from ..data import Splits, load_digits
from ..training import Recipe
from ..training.objectives import CLASSIFICATION, Objective

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure as Drawing

# of ten classes; a training whose accuracy is no better has failed
TWICE_CHANCE = 0.2
Networks = Mapping[str, nn.Module]
Logs = Mapping[str, Sequence["pd.DataFrame"]]


class Figure(NamedTuple):
    """A test figure beside the metrics.

    Attributes:
        metric: what is measured.
        value: how much of it.
        at: the condition that it was measured in, e.g. ``λ=0.1``; empty if there is one only.
    """

    metric: str
    value: float
    at: str = ""


@dataclass(frozen=True)
class Arm:
    """One of the networks that an experiment compares.

    Attributes:
        network: makes it, untrained. One without parameters (persistence, bicubic interpolation) is evaluated, not
            trained.
        recipe: how it is trained, where not as the experiment says.
        grid: fields of its recipe or options, and the values of each that ``--tune`` tries, in all combinations; of
            equal size for every arm that is trained.
        at_range_end: for each tuned setting whose chosen value ends its range, why the range ends there.
        group: arms of one group share a line in tables by condition. Default: the arm's own name.
        ignores: options that change nothing about this arm, and so are left out of what its results were got with.
    """

    network: Callable[[], nn.Module]
    recipe: Recipe | None = None
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    at_range_end: Mapping[str, str] = field(default_factory=dict)
    group: str = ""
    ignores: tuple[str, ...] = ()


def rates_around(recipe: Recipe) -> dict[str, tuple[float, ...]]:
    """A grid: the recipe's learning rate, the next two halves of it, and the next two doubles."""
    return {"learning_rate": tuple(recipe.learning_rate * 2.0**power for power in range(-2, 3))}


@dataclass(frozen=True)
class Experiment:
    """A published system trained on a task beside its baselines.

    Attributes:
        name: of ``main.py --experiment``.
        paper: who published it, where.
        task: what is learned from what, in a line.
        minutes: that all arms take on two cores, about, for one seed.
        arms: name to network, recipe and grid.
        recipe: how every arm is trained that has no recipe of its own.
        objective: what is minimised, what is measured, and what chooses the checkpoint.
        options: a documented dataclass of the experiment's own flags, all with defaults, or None.
        adapted: the experiment as some options make it: arms, recipe, objective, what they are to change.
        load: from the ``--data`` flag to the task's splits; called with ``fold=`` where there are folds.
        folds: into how many folds the data come; 0: they come in splits of their own.
        tuning_fold: that settings are chosen on; None for the first of those that are reported.
        begun_by_fold: folds are draws of the data, and each has an initialisation and order of its own, too.
        collate: from a list of samples to a batch; None: data sets are indexed by whole batches.
        evaluation_batch: samples in a batch of evaluation.
        quick_epochs: at most so many with ``--quick``.
        quick_samples: at most so many training samples with ``--quick``.
        extras: of the package's, that it needs beyond ``experiments``.
        failed_at: a training whose headline figure on validation data is no better has failed; None: none has.
        measure: further test figures of a trained arm.
        figure: of all trained arms; None for their training curves.
        curves: in place of it, a figure of the rows of ``metrics.csv`` that each of an arm's trainings left, those that
            failed too; called with a title as well.
    """

    name: str
    paper: str
    task: str
    minutes: int
    arms: Mapping[str, Arm]
    recipe: Recipe
    objective: Objective = CLASSIFICATION
    options: type | None = None
    adapted: Callable[["Experiment", Any], "Experiment"] | None = None
    load: Callable[..., Splits] = load_digits
    folds: int = 0
    tuning_fold: int | None = None
    begun_by_fold: bool = False
    collate: Callable[[list[Any]], Any] | None = None
    evaluation_batch: int = 500
    quick_epochs: int = 1
    quick_samples: int = 4000
    extras: tuple[str, ...] = ()
    failed_at: float | None = None
    measure: Callable[[nn.Module, Splits], Sequence[Figure]] = lambda network, splits: ()
    figure: Callable[[Networks, Splits], "Drawing"] | None = None
    curves: Callable[[Logs, str], "Drawing"] | None = None

    def with_options(self, options: Any) -> "Experiment":
        """The experiment as ``options``, an instance of its own or None, make it."""
        return self if options is None or self.adapted is None else self.adapted(self, options)

    def recipe_of(self, arm: str) -> Recipe:
        return self.arms[arm].recipe or self.recipe
