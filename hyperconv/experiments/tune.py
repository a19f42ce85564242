"""Settings chosen on validation data: every arm with every combination of its grid."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

from ..data import Splits
from ..errors import InputError
from ..files import locked
from ..training import Recipe
from . import results
from .experiment import Arm, Experiment
from .results import FAILED, Result
from .run import Training, asked_for, check_machine, figures_of, recipe_for, rows_of, splits_loader, train
from .settings import Run, as_text, changes

TUNING_SEEDS = (100, 101)
TUNING_FILE = "tuning.csv"
_RECIPE_FIELDS = tuple(field.name for field in fields(Recipe))

Trial = Mapping[str, Any]


@dataclass(frozen=True)
class Chosen:
    """The best trial of an arm.

    Attributes:
        value: the headline metric on validation data, a mean over the tuning seeds.
        ends: for each setting whose value is the first or the last of those tried, what the arm declares about it.
    """

    arm: str
    trial: Trial
    value: float
    trials: int
    failed: int
    ends: Mapping[str, str]


def tune(settings: Run, options: Any = None) -> tuple[Experiment, list[Chosen]]:
    """Run the trials that are not in ``--logs``' tuning.csv yet, and choose the best for each arm.

    Raises:
        InputError: as `run`; or there is nothing to choose, or a flag sets what is to be chosen.
    """
    experiment, options = asked_for(settings, options)
    tuned = {name: arm for name, arm in experiment.arms.items() if arm.grid}
    if not tuned:
        raise InputError(f"no arm of {experiment.name} that is asked for has a grid to be tuned on")
    for name in {name for arm in tuned.values() for name in arm.grid}:
        if getattr(settings, name, None) is not None:
            raise InputError(f"--{name} is among what --tune tries; leave it out")
    check_machine(settings)
    splits = splits_loader(experiment, settings)(0 if experiment.folds else None)
    print(splits.note, flush=True)
    path = Path(settings.logs) / TUNING_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    chosen = []
    for name, arm in tuned.items():
        trials = combinations(arm)
        rows = [_rows(name, trial, experiment, settings, options, splits, path) for trial in trials]
        best = _best(name, arm, list(zip(trials, rows, strict=True)), experiment)
        if best:
            chosen.append(best)
    return experiment, chosen


def combinations(arm: Arm) -> list[Trial]:
    """Every combination of the values in the arm's grid.

    >>> from torch import nn
    >>> combinations(Arm(nn.Identity, grid={"learning_rate": (0.1, 0.2), "epochs": (3,)}))
    [{'learning_rate': 0.1, 'epochs': 3}, {'learning_rate': 0.2, 'epochs': 3}]
    """
    return [dict(zip(arm.grid, values, strict=True)) for values in product(*arm.grid.values())]


def _rows(
    arm: str, trial: Trial, experiment: Experiment, settings: Run, options: Any, splits: Splits, path: Path
) -> list[Result]:
    """The rows of one trial with all tuning seeds."""
    of_recipe = {name: value for name, value in trial.items() if name in _RECIPE_FIELDS}
    of_options = {name: value for name, value in trial.items() if name not in _RECIPE_FIELDS}
    ignored = (*experiment.arms[arm].ignores, *trial)
    if of_options:
        options = replace(options, **of_options)
        experiment = experiment.with_options(options)
    told = f"{changes(settings, options, ignored)} {as_text(dict(trial))}".strip()
    rows = []
    for seed in TUNING_SEEDS:
        origin = {
            "experiment": experiment.name,
            "settings": told,
            "arm": arm,
            "seed": seed,
            "noise_seed": None,
            "fold": 0 if experiment.folds else None,
            "data": splits.name,
        }
        key = results.TrainingKey(**origin)
        done = [row for row in results.read(path) if row.training == key]
        if not done:
            recipe = replace(recipe_for(experiment, arm, settings, len(splits.train)), **of_recipe)
            training = Training(arm, seed, origin["fold"])
            print(f"{arm}: {told}, seed {seed}", flush=True)
            with TemporaryDirectory() as folder:
                trained = train(training, experiment, recipe, settings, options, splits, Path(folder), test=False)
            done = rows_of(figures_of(trained, experiment), origin, trained)
            with locked(path.parent):
                results.append(path, done)
        rows += done
    return rows


def _best(name: str, arm: Arm, tried: list[tuple[Trial, list[Result]]], experiment: Experiment) -> Chosen | None:
    """The best of the trials none of whose trainings failed; None if there is none."""
    metric = experiment.objective.metrics[0]
    best: tuple[Trial, float] | None = None
    failed = 0
    for trial, rows in tried:
        failures = sum(row.metric == FAILED for row in rows)
        failed += failures
        if failures:
            continue
        value = mean(row.value for row in rows if (row.split, row.metric) == ("validation", metric.name))
        if best is None or metric.is_better(value, best[1]):
            best = trial, value
    if best is None:
        return None
    trial, value = best
    ends = {
        setting: arm.at_range_end.get(setting, "widen its grid")
        for setting, values in arm.grid.items()
        if len(values) > 1 and trial[setting] in (values[0], values[-1])
    }
    return Chosen(name, trial, value, len(tried), failed, ends)
