"""What an experiment is: a task, its arms, a metric and a figure. The loop over them is in `run`."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ..data import Splits, load_digits
from ..training import Recipe
from ..training.learner import Learner, Objective
from ..training.objectives import ACCURACY, Metric, classification

Networks = Mapping[str, nn.Module]


@dataclass(frozen=True)
class Experiment:
    """A published system trained on a task beside its baselines.

    Attributes:
        name: of ``main.py --experiment``.
        paper: who published it, where.
        task: what is learned from what, in a line.
        minutes: that all arms take on two cores, about.
        arms: name to a function that makes an untrained network.
        recipe: how every arm is trained.
        load: from the ``--data`` flag to the task's splits.
        objective: what is minimised, and the metric.
        metric: reported beside the loss.
        quick_epochs: at most so many with ``--quick``.
        arm_recipes: for arms that are trained in another way.
        measure: further test figures of a trained arm, by name.
        figure: draws all trained arms into a file; None for their training curves.
        learner: from an arm, a recipe and the data's name to the module, where its checkpoints must tell more than
            the experiment and the arm.
    """

    name: str
    paper: str
    task: str
    minutes: int
    arms: Mapping[str, Callable[[], nn.Module]]
    recipe: Recipe
    load: Callable[[str], Splits] = load_digits
    objective: Objective = classification
    metric: Metric = ACCURACY
    quick_epochs: int = 1
    arm_recipes: Mapping[str, Recipe] = field(default_factory=dict)
    measure: Callable[[nn.Module, Splits], Mapping[str, float]] = lambda network, splits: {}
    figure: Callable[[Networks, Splits, Path], None] | None = None
    learner: Callable[[Any, Recipe, str], Learner] | None = None

    def untrained(self, arm: str, recipe: Recipe, data: str) -> Learner:
        """An arm's module with new parameters."""
        if self.learner is not None:
            return self.learner(arm, recipe, data)
        described = {"experiment": self.name, "arm": arm, "data": data, "recipe": asdict(recipe)}
        return Learner(self.arms[arm](), self.objective, recipe, described)
