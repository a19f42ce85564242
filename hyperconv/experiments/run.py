"""The loop over an experiment's arms, seeds and folds, written once."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .. import plotting
from ..data import Splits, batch_loader
from ..errors import InputError
from ..files import check_writable, locked, remove_leftovers
from ..training import Recipe
from ..training.fit import BEST, Loaders, Report, check_trainer, fit
from ..training.learner import Learner, NonFiniteLoss
from ..training.objectives import Batch, Objective
from . import results
from .declared import experiments
from .experiment import Experiment
from .extras import check_extras, command_for
from .folders import begun, check_name, file_name, hint, new_folder, write_yaml
from .results import FAILED, Result
from .settings import Run, changes, plain
from .trained import load_trained, outline

METRICS = "metrics.csv"
# of Lightning's strategies for several devices, the ones that do not run main.py again
_SPAWNING = ("auto", "ddp_spawn", "ddp_fork", "ddp_notebook")
# of a network, whatever its options
_MOST_PARAMETERS, _MOST_NUMBERS = 100_000, 10**9
_SplitsOf = Callable[[int | None], Splits]


class Training(NamedTuple):
    """One network to train."""

    arm: str
    seed: int
    fold: int | None = None


@dataclass(frozen=True)
class Outcome:
    """A finished run: its folder, and the rows of all its trainings."""

    folder: Path
    experiment: Experiment
    rows: list[Result]


def run(settings: Run, options: Any = None) -> Outcome:
    """Train the arms that are asked for, with every seed, on every fold.

    The run's folder holds ``settings.yaml``, ``results.csv`` and, for each training, a folder of ``metrics.csv``,
    ``hparams.yaml``, ``best.ckpt`` and ``last.ckpt``. The experiment's figure is in ``settings.out``.

    Args:
        options: an instance of what the experiment declares as its options; None for the defaults.

    Raises:
        InputError: unusable data, settings, folders or checkpoints.
    """
    check_name(settings)
    began = begun(settings, options) if settings.resume else None
    if began:
        _, settings, options, _ = began
    experiment, options = asked_for(settings, options)
    check_machine(settings)
    check_writable(Path(settings.out))
    splits_of = splits_loader(experiment, settings)
    trainings = _trainings(experiment, settings)
    splits = splits_of(trainings[0].fold)
    if began and splits.name != began.data:
        raise InputError(
            f"{began.folder} began with the data {began.data}, but {settings.data} now gives {splits.name}"
        )
    folder = began.folder if began else new_folder(settings, options, splits.name)
    with locked(folder):
        remove_leftovers(folder.parent, deep=False)
        remove_leftovers(folder)
        print(splits.note, flush=True)
        print(f"logs in {folder}; if interrupted: {hint(settings, folder)}", flush=True)
        rows = []
        for training in trainings:
            place = _place(folder, training, settings)
            rows += _result(training, experiment, settings, options, splits_of, folder / "results.csv", place)
        _draw(experiment, settings, options, splits, folder, [row for row in rows if row.metric != FAILED])
    return Outcome(folder, experiment, rows)


def asked_for(settings: Run, options: Any) -> tuple[Experiment, Any]:
    """The experiment as it is asked for, its arms narrowed to those, and its options.

    Raises:
        InputError: no such experiment or arm, a missing extra, or options that no network can be made of.
    """
    declared = experiments()
    if settings.experiment not in declared:
        raise InputError(f"there is no experiment {settings.experiment}; there are {', '.join(declared)}")
    experiment = declared[settings.experiment]
    check_extras(experiment)
    if options is None and experiment.options is not None:
        options = experiment.options()
    experiment = experiment.with_options(options)
    unknown = [arm for arm in settings.arms if arm not in experiment.arms]
    if unknown:
        raise InputError(f"{experiment.name} has no arm {unknown[0]}; it has {', '.join(experiment.arms)}")
    wanted = settings.arms or tuple(experiment.arms)
    experiment = replace(experiment, arms={arm: experiment.arms[arm] for arm in wanted})
    for arm in experiment.arms.values():
        check_network(arm.network)
    return experiment, options


def check_network(network: Callable[[], nn.Module]) -> None:
    """
    Raises:
        InputError: no network can be made so.
    """
    try:
        outline(network, _MOST_PARAMETERS, _MOST_NUMBERS)
    except ValueError as error:
        raise InputError(f"no network can be made of these settings: {error}") from error


def check_machine(settings: Run) -> None:
    """
    Raises:
        InputError: what is asked for cannot be trained with here.
    """
    if settings.devices > 1 and settings.strategy not in _SPAWNING:
        raise InputError(
            f"--strategy {settings.strategy} would start main.py again for each of {settings.devices} devices; "
            f"choose one of {', '.join(_SPAWNING)}"
        )
    check_trainer(**settings.trainer)


def splits_loader(experiment: Experiment, settings: Run) -> _SplitsOf:
    """From a fold, or None where there are none, to its splits."""

    @cache
    def splits_of(fold: int | None) -> Splits:
        load = experiment.load if fold is None else partial(experiment.load, fold=fold)
        try:
            splits = load(settings.data)
        except ModuleNotFoundError as error:
            if not experiment.extras:
                raise
            command = command_for(list(experiment.extras))
            raise InputError(f"{experiment.name} needs the package {error.name}: {command}") from error
        return splits.shortened(experiment.quick_samples) if settings.quick else splits

    return splits_of


def _trainings(experiment: Experiment, settings: Run) -> list[Training]:
    folds = range(experiment.folds) or (None,)
    return [Training(arm, seed, fold) for arm in experiment.arms for seed in settings.all_seeds for fold in folds]


def _place(folder: Path, training: Training, settings: Run) -> Path:
    """Where a training's files lie; its seed and fold are told only where there are others."""
    place = folder / training.arm
    if len(settings.all_seeds) > 1 or training.fold is not None:
        place /= f"seed{training.seed}"
    return place if training.fold is None else place / f"fold{training.fold}"


def _result(
    training: Training,
    experiment: Experiment,
    settings: Run,
    options: Any,
    splits_of: _SplitsOf,
    path: Path,
    place: Path,
) -> list[Result]:
    """The rows of one training, which is run unless ``path`` has them already."""
    arm, seed, fold = training
    done = [row for row in results.read(path) if (row.arm, row.seed, row.fold) == training]
    if done:
        return done
    splits = splits_of(fold)
    recipe = recipe_for(experiment, arm, settings, len(splits.train))
    trained = train(training, experiment, recipe, settings, options, splits, place)
    figures = figures_of(trained, experiment)
    if trained.report:
        measured = experiment.measure(trained.network.eval(), splits)
        figures |= {("test", figure.metric, figure.at): figure.value for figure in measured}
    origin = {
        "experiment": experiment.name,
        "settings": changes(settings, options, experiment.arms[arm].ignores),
        "arm": arm,
        "seed": seed,
        "noise_seed": None,
        "fold": fold,
        "data": splits.name,
    }
    rows = rows_of(figures, origin, trained)
    results.append(path, rows)
    return rows


class Trained(NamedTuple):
    """What came of a training; no report if it diverged."""

    network: nn.Module
    report: Report | None
    operations: int


def train(
    training: Training,
    experiment: Experiment,
    recipe: Recipe,
    settings: Run,
    options: Any,
    splits: Splits,
    folder: Path,
    *,
    test: bool = True,
) -> Trained:
    """Train one network, in a folder that then has its files.

    Args:
        test: measure it on test data too.
    """
    arm, seed, fold = training
    folder.mkdir(parents=True, exist_ok=True)
    pl.seed_everything(seed, workers=True, verbose=False)
    described = {
        "experiment": experiment.name,
        "arm": arm,
        "options": options and plain(options),
        "settings": changes(settings, options, experiment.arms[arm].ignores),
        "data": splits.name,
        "recipe": asdict(recipe),
        "seed": seed,
        "fold": fold,
    }
    objective = experiment.objective
    learner = Learner(experiment.arms[arm].network(), objective, recipe, described)
    write_yaml(folder / "hparams.yaml", {**described, "loss": objective.loss})
    loader = partial(batch_loader, collate=experiment.collate)
    validation = loader(splits.validation, experiment.evaluation_batch)
    loaders = Loaders(
        train=loader(splits.train, recipe.batch_size, shuffle=recipe.shuffle, seed=seed, shared=True),
        validation=validation,
        test=loader(splits.test, experiment.evaluation_batch) if test else None,
    )
    operations = operations_a_sample(learner.network, objective, validation)
    title = " ".join([arm, *([f"seed {seed}"] if len(settings.all_seeds) > 1 else [])])
    title += "" if fold is None else f", fold {fold}"
    try:
        report = fit(
            learner,
            loaders,
            folder,
            title=title,
            resume=settings.resume,
            compile=settings.compile,
            **settings.trainer,
        )
    except NonFiniteLoss as failure:
        print(f"{title} failed: {failure}", flush=True)
        report = None
    return Trained(learner.network, report, operations)


def recipe_for(experiment: Experiment, arm: str, settings: Run, samples: int) -> Recipe:
    """How an arm is trained on so many samples in this run."""
    recipe = experiment.recipe_of(arm)
    if settings.quick:
        recipe = replace(recipe, epochs=min(recipe.epochs, experiment.quick_epochs))
    return settings.overridden(recipe, samples)


def figures_of(trained: Trained, experiment: Experiment) -> dict[tuple[str, str, str], float]:
    """A training's figures by split, the metric's name in results, and no condition; and whether it failed."""
    if trained.report is None:
        return {("validation", FAILED, ""): 1}
    names = {metric.column: metric.name for metric in experiment.objective.all_metrics}
    figures = {(split, names[column], ""): value for (split, column), value in trained.report.figures.items()}
    headline = experiment.objective.metrics[0]
    reached = figures["validation", headline.name, ""]
    if experiment.failed_at is not None and not headline.is_better(reached, experiment.failed_at):
        figures["validation", FAILED, ""] = 1
    return figures


def rows_of(figures: Mapping[tuple[str, str, str], float], origin: Mapping[str, Any], trained: Trained) -> list[Result]:
    """A row a figure; a training with a figure that is no number has failed."""
    if not all(map(math.isfinite, figures.values())):
        figures = {
            ("validation", FAILED, ""): 1,
            **{key: value for key, value in figures.items() if math.isfinite(value)},
        }
    of_training = {
        "parameters": sum(parameter.numel() for parameter in trained.network.parameters()),
        "operations": trained.operations,
        "epochs": trained.report.epochs if trained.report else 0,
        "seconds": round(trained.report.seconds, 1) if trained.report else 0.0,
        **results.provenance(),
    }
    return [
        Result(**origin, split=split, metric=metric, at=at, value=round(float(value), 6), **of_training)
        for (split, metric, at), value in figures.items()
    ]


@torch.no_grad()
def operations_a_sample(network: nn.Module, objective: Objective, batches: Iterable[Batch]) -> int:
    """Multiplications and additions of products and convolutions in evaluating the first batch, for each sample."""
    was_training = network.training
    with torch.random.fork_rng(devices=[]):  # a loader draws from it
        batch = next(iter(batches))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*TF32 acceleration on top of oneDNN.*")
        # oneDNN's recurrent cells are not counted, torch's own are
        with FlopCounterMode(display=False) as counter, torch.backends.mkldnn.flags(enabled=False):
            objective.score(network.eval(), batch, None)
    network.train(was_training)
    return round(counter.get_total_flops() / objective.samples(batch))


def _draw(
    experiment: Experiment, settings: Run, options: Any, splits: Splits, folder: Path, rows: list[Result]
) -> None:
    """The figure of the first seed and fold, where these did not fail."""
    first = _trainings(experiment, settings)[0]
    shown = [arm for arm in experiment.arms if any((row.arm, row.seed, row.fold) == (arm, *first[1:]) for row in rows)]
    places = {arm: _place(folder, first._replace(arm=arm), settings) for arm in shown}
    if experiment.figure is None:
        places = {arm: place for arm, place in places.items() if any(r.parameters for r in rows if r.arm == arm)}
    if not places:
        return
    if experiment.figure:
        networks = {arm: load_trained(place / BEST) for arm, place in places.items()}
        figure = experiment.figure(networks, splits)
    else:
        logs = {arm: plotting.read_losses(place / METRICS) for arm, place in places.items()}
        figure = plotting.training_curves(logs, f"{experiment.name} ({splits.name})", experiment.objective.loss)
    ending = "-mnist5k" if splits.name == "mnist5k" else ""
    plotting.save(figure, Path(settings.out) / f"{file_name(settings, options)}{ending}.png")
