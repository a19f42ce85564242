"""Settings chosen on validation data: every arm with every combination of its grid."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

from ..errors import InputError
from ..files import locked
from ..training import Recipe
from .asked import Asked, Training
from .experiment import Arm, Experiment
from .results import FAILED
from .run import rows_of
from .settings import Run, as_text, changes

TUNING_SEEDS = (100, 101)
TUNING_FILE = "tuning.csv"
_RECIPE_FIELDS = tuple(field.name for field in fields(Recipe))

Trial = Mapping[str, Any]


@dataclass(frozen=True)
class Chosen:
    """The best trial of an arm.

    Attributes:
        trial: None where a training of each trial failed.
        value: the headline metric on validation data, a mean over the tuning seeds.
        trials: how many there were; ``failed`` counts trainings.
        ends: for each setting whose value is the first or the last of those tried, what the arm declares about it.
    """

    arm: str
    trial: Trial | None
    value: float | None
    trials: int
    failed: int
    ends: Mapping[str, str]


def tune(settings: Run, options: Any = None) -> tuple[Experiment, list[Chosen]]:
    """Run the trials that are not in ``--logs``' tuning.csv yet, and choose the best for each arm.

    Raises:
        InputError: as `run`; or there is nothing to choose, or a flag sets what is to be chosen.
    """
    asked = Asked(settings, options)
    tuned = {name: arm for name, arm in asked.experiment.arms.items() if arm.grid}
    if not tuned:
        raise InputError(f"no arm of {settings.experiment} that is asked for has a grid to be tuned on")
    for name in {name for arm in tuned.values() for name in arm.grid}:
        given, default = (
            getattr(each, name, None) for each in (asked.options, asked.options and type(asked.options)())
        )
        if getattr(settings, name, None) is not None or given != default:
            raise InputError(f"--{name} is among what --tune tries; leave it out")
    print(asked.splits(_fold(asked)).note, flush=True)
    logs = Path(settings.logs)
    logs.mkdir(parents=True, exist_ok=True)
    with locked(logs):
        return asked.experiment, [_best(name, arm, asked, logs / TUNING_FILE) for name, arm in tuned.items()]


def _fold(asked: Asked) -> int | None:
    declared = asked.experiment.tuning_fold
    return asked.folds[0] if declared is None else declared


def combinations(arm: Arm) -> list[Trial]:
    """Every combination of the values in the arm's grid.

    >>> from torch import nn
    >>> combinations(Arm(nn.Identity, grid={"learning_rate": (0.1, 0.2), "epochs": (3,)}))
    [{'learning_rate': 0.1, 'epochs': 3}, {'learning_rate': 0.2, 'epochs': 3}]
    """
    return [dict(zip(arm.grid, values, strict=True)) for values in product(*arm.grid.values())]


def _best(name: str, arm: Arm, asked: Asked, path: Path) -> Chosen:
    """The best of the trials none of whose trainings failed."""
    metric = asked.experiment.objective.metrics[0]
    trials = combinations(arm)
    best: tuple[Trial, float] | None = None
    failed = 0
    for trial in trials:
        rows = []
        for seed in TUNING_SEEDS:
            training = _as_tried(asked.training(name, seed, _fold(asked)), trial, asked.settings)
            print(f"{name}: {training.key.settings}, seed {seed}", flush=True)
            with TemporaryDirectory() as folder:
                rows += rows_of(training, asked.settings, path, Path(folder), test=False)
        failures = sum(row.metric == FAILED for row in rows)
        failed += failures
        value = mean([row.value for row in rows if row.metric == metric.name] or [0.0])
        if not failures and (best is None or metric.is_better(value, best[1])):
            best = trial, value
    chosen, reached = best or (None, None)
    ends = {
        setting: arm.at_range_end.get(setting, "widen its grid")
        for setting, values in arm.grid.items()
        if chosen and len(values) > 1 and chosen[setting] in (values[0], values[-1])
    }
    return Chosen(name, chosen, reached, len(trials), failed, ends)


def _as_tried(training: Training, trial: Trial, settings: Run) -> Training:
    """A training with the trial's values in its recipe and options, all of which its results tell."""
    of_recipe = {name: value for name, value in trial.items() if name in _RECIPE_FIELDS}
    of_options = {name: value for name, value in trial.items() if name not in _RECIPE_FIELDS}
    experiment, options = training.experiment, training.options
    ignored = (*experiment.arms[training.key.arm].ignores, *trial)
    told = f"{changes(settings, options, ignored)} {as_text(dict(trial))}".strip()
    if of_options:
        options = replace(options, **of_options)
        experiment = experiment.with_options(options)
    return training._replace(
        key=training.key._replace(settings=told),
        experiment=experiment,
        options=options,
        recipe=replace(training.recipe, **of_recipe),
    )
