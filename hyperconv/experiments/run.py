"""The loop over an experiment's arms, seeds and folds, written once."""

import math
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .. import plotting
from ..data import batch_loader
from ..errors import InputError
from ..files import check_writable, locked, remove_leftovers
from ..training.fit import BEST, Loaders, Report, fit
from ..training.learner import Learner, NonFiniteLoss
from ..training.objectives import Batch, Objective
from . import results
from .asked import Asked, Training
from .experiment import Experiment, Figure
from .folders import begun, check_name, file_name, hint, new_folder, place_of, write_yaml
from .results import FAILED, Result
from .settings import Run, plain
from .trained import load_trained

METRICS = "metrics.csv"


@dataclass(frozen=True)
class Outcome:
    """A finished run: its folder, and the rows of all its trainings."""

    folder: Path
    experiment: Experiment
    rows: list[Result]


def run(settings: Run, options: object = None) -> Outcome:
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
        settings, options = began.settings, began.options
    asked = Asked(settings, options)
    check_writable(Path(settings.out))
    splits = asked.splits(asked.folds[0])
    if began and splits.name != began.data:
        raise InputError(
            f"{began.folder} began with the data {began.data}, but {settings.data} now gives {splits.name}"
        )
    folder = began.folder if began else new_folder(settings, asked.options, splits.name)
    with locked(folder):
        remove_leftovers(folder.parent, deep=False)
        remove_leftovers(folder)
        print(splits.note, flush=True)
        print(f"logs in {folder}; if interrupted: {hint(settings, folder)}", flush=True)
        rows: list[Result] = []
        for training in product(asked.experiment.arms, settings.all_seeds, asked.folds):
            place = place_of(folder, settings, *training)
            test = not settings.validation_only
            rows += rows_of(asked.training(*training), settings, folder / "results.csv", place, test=test)
        if not settings.validation_only:
            _draw(asked, folder, rows)
    return Outcome(folder, asked.experiment, rows)


def rows_of(training: Training, settings: Run, path: Path, folder: Path, *, test: bool = True) -> list[Result]:
    """The rows of one training in the results ``path``; unless they are there, it is run first, in ``folder``.

    Args:
        test: measure the network on test data too.
    """
    key, experiment, _, _, splits = training
    done = [row for row in results.read(path) if row.training == key]
    if done:
        return done
    learner, loaders = prepared(training, folder, test=test)
    operations = operations_a_sample(learner.network, experiment.objective, loaders.validation)
    title = f"{key.arm}, seed {key.seed}" + ("" if key.fold is None else f", fold {key.fold}")
    report, figures = None, []
    try:
        options = {"title": title, "resume": settings.resume, "compile": settings.compile, **settings.trainer}
        report = fit(learner, loaders, folder, **options)
    except NonFiniteLoss as failure:
        print(f"{title} failed: {failure}", flush=True)
    else:
        names = {metric.column: metric.name for metric in experiment.objective.all_metrics}
        figures = [(split, Figure(names[column], value)) for (split, column), value in report.figures.items()]
        if test:
            figures += [("test", figure) for figure in experiment.measure(learner.network.eval(), splits)]
    finite = [(split, figure) for split, figure in figures if math.isfinite(figure.value)]
    if len(finite) < len(figures) or _has_failed(report, experiment):
        finite.append(("validation", Figure(FAILED, 1.0)))
    of_training: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in learner.network.parameters()),
        "operations": operations,
        "epochs": report.epochs if report else 0,
        "seconds": round(report.seconds, 1) if report else 0.0,
        **results.provenance(),
    }
    rows = [
        Result(**key._asdict(), split=split, metric=metric, at=at, value=float(f"{value:.7g}"), **of_training)
        for split, (metric, value, at) in finite
    ]
    results.append(path, rows)
    return rows


def prepared(training: Training, folder: Path, *, test: bool = True) -> tuple[Learner, Loaders]:
    """The network, untrained, and its data; the folder then says in ``hparams.yaml`` what they are."""
    key, experiment, options, recipe, splits = training
    described = {**key._asdict(), "options": plain(options), "recipe": asdict(recipe)}
    del described["noise_seed"]
    seed = (key.seed or 0) + (key.fold or 0) * experiment.begun_by_fold
    pl.seed_everything(seed, workers=True, verbose=False)
    learner = Learner(experiment.arms[key.arm].network(), experiment.objective, recipe, described)
    write_yaml(folder / "hparams.yaml", {**described, "loss": experiment.objective.loss})
    loader = partial(batch_loader, collate=experiment.collate)
    return learner, Loaders(
        train=loader(splits.train, recipe.batch_size, shuffle=recipe.shuffle, seed=seed, shared=True),
        validation=loader(splits.validation, experiment.evaluation_batch),
        test=loader(splits.test, experiment.evaluation_batch) if test else None,
    )


def _has_failed(report: Report | None, experiment: Experiment) -> bool:
    if report is None or experiment.failed_at is None:
        return report is None
    headline = experiment.objective.metrics[0]
    return not headline.is_better(report.figures["validation", headline.column], experiment.failed_at)


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


def _draw(asked: Asked, folder: Path, rows: list[Result]) -> None:
    """The figure of the first seed and fold, where these did not fail; or that of all trainings' logs."""
    experiment, settings, splits = asked.experiment, asked.settings, asked.splits(asked.folds[0])
    title = f"{experiment.name} ({splits.name})"
    first = settings.all_seeds[0], asked.folds[0]
    failed = {row.training for row in rows if row.metric == FAILED}
    good = [row for row in rows if (row.seed, row.fold) == first and row.training not in failed]
    if experiment.figure is None:
        good = [row for row in good if row.parameters]
    places = {row.arm: place_of(folder, settings, row.arm, *first) for row in good}
    if experiment.curves:
        figure = experiment.curves(_logs(folder, settings, rows), title)
    elif not places:
        return
    elif experiment.figure:
        figure = experiment.figure({arm: load_trained(place / BEST) for arm, place in places.items()}, splits)
    else:
        logs = {arm: plotting.read_losses(place / METRICS) for arm, place in places.items()}
        figure = plotting.training_curves(logs, title, experiment.objective.loss)
    ending = "-mnist5k" if splits.name == "mnist5k" else ""
    plotting.save(figure, Path(settings.out) / f"{file_name(settings, asked.options)}{ending}.png")


def _logs(folder: Path, settings: Run, rows: list[Result]) -> dict[str, list[pd.DataFrame]]:
    """By arm, of every training that logged losses."""
    logs: dict[str, list[pd.DataFrame]] = {}
    for training in dict.fromkeys(row.training for row in rows):
        place = place_of(folder, settings, training.arm, training.seed or 0, training.fold)
        with suppress(InputError):
            logs.setdefault(training.arm, []).append(plotting.read_losses(place / METRICS))
    return logs
