"""The loop over an experiment's arms, written once."""

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import yaml

from .. import plotting
from ..cli import from_stored
from ..data import Splits, batch_loader
from ..errors import InputError
from ..files import check_writable, write_whole
from ..training.fit import BEST, Loaders, Report, check_trainer, fit
from ..training.learner import read_checkpoint
from ..training.objectives import Metric
from . import results
from .declared import EXPERIMENTS
from .digits import digits
from .experiment import Experiment
from .settings import OF_DIGITS, Run

_EVALUATION_BATCH = 500
_QUICK_SAMPLES = 4000
_SETTINGS_FILE = "settings.yaml"
_ONLY_5K = "-mnist5k"
_MAY_CHANGE = ("logs", "name", "resume", "accelerator", "strategy", "compile", "out", "list")
# of Lightning's strategies for several devices, the ones that do not run main.py again
_SPAWNING = ("auto", "ddp_spawn", "ddp_fork", "ddp_notebook")


@dataclass(frozen=True)
class ArmReport:
    """One arm's figures and where its best checkpoint lies."""

    arm: str
    metric: Metric
    report: Report
    checkpoint: Path


def run(settings: Run) -> tuple[Path, list[ArmReport]]:
    """Train the arms that ``settings`` ask for.

    Returns:
        The run's folder, and a report for each arm. The folder holds a folder an arm (``metrics.csv``,
        ``hparams.yaml``, ``best.ckpt``, ``last.ckpt``), ``settings.yaml`` and ``results.csv``. The figure of
        an experiment other than digits is in ``settings.out``.

    Raises:
        InputError: unusable data, settings, folders or checkpoints; or training diverged.
    """
    if settings.seed >= 2**32:
        raise InputError(f"--seed {settings.seed} is too large; seeds go up to {2**32 - 1}")
    if settings.resume:
        folder, settings, data = _resumed(settings)
    _check_devices(settings)
    experiment = experiment_of(settings)
    if experiment.name != "digits":
        check_writable(Path(settings.out))
    splits = _load(experiment, settings)
    if settings.resume:
        if splits.name != data:
            raise InputError(f"{folder} began with the data {data}, but {settings.data} now gives {splits.name}")
    else:
        folder = _new_folder(settings, splits.name)
    print(splits.note, flush=True)
    print(f"logs in {folder}; if interrupted: --resume --name {folder.name}", flush=True)
    reports = [_train_arm(arm, experiment, settings, splits, folder) for arm in experiment.arms]
    if experiment.name != "digits":
        name = f"{_as_file_name(settings)}{_ONLY_5K if splits.name == 'mnist5k' else ''}"
        _draw(experiment, splits, folder, Path(settings.out) / f"{name}.png")
    return folder, reports


def _check_devices(settings: Run) -> None:
    if settings.devices > 1 and settings.strategy not in _SPAWNING:
        raise InputError(
            f"--strategy {settings.strategy} would start main.py again for each of {settings.devices} devices; "
            f"choose one of {', '.join(_SPAWNING)}"
        )
    check_trainer(**settings.trainer)


def _as_file_name(settings: Run) -> str:
    return settings.label("hyper").removeprefix("digits-").replace(" ", "-").replace("=", "")


def experiment_of(settings: Run) -> Experiment:
    """The experiment that is asked for, its arms narrowed to those.

    Raises:
        InputError: no such experiment or arm, or flags of another one.
    """
    if settings.experiment == "digits":
        if settings.arms:
            raise InputError("the arms of digits are chosen with --conv, not with --arms")
        experiment = digits(settings)
        try:
            for arm in experiment.arms:
                experiment.untrained(arm, experiment.recipe, "")
        except ValueError as error:
            raise InputError(f"no network can be made of these settings: {error}") from error
        return experiment
    if settings.experiment not in EXPERIMENTS:
        raise InputError(f"there is no experiment {settings.experiment}; there are digits, {', '.join(EXPERIMENTS)}")
    foreign = [name for name in OF_DIGITS if getattr(settings, name) != Run.__dataclass_fields__[name].default]
    if foreign:
        raise InputError(f"--{foreign[0]} is a setting of digits, not of {settings.experiment}")
    experiment = EXPERIMENTS[settings.experiment]
    unknown = [arm for arm in settings.arms if arm not in experiment.arms]
    if unknown:
        raise InputError(f"{experiment.name} has no arm {unknown[0]}; it has {', '.join(experiment.arms)}")
    wanted = settings.arms or tuple(experiment.arms)
    return replace(experiment, arms={arm: experiment.arms[arm] for arm in wanted})


def _load(experiment: Experiment, settings: Run) -> Splits:
    splits = experiment.load(settings.data)
    return splits.shortened(_QUICK_SAMPLES) if settings.quick else splits


def _resumed(settings: Run) -> tuple[Path, Run, str]:
    """The named run's folder, the settings that it began with, and the name of its data."""
    if settings.name is None:
        raise InputError(f"--resume needs the --name of the run to continue, a folder in {settings.logs}")
    names = (settings.name, f"{settings.name}{_ONLY_5K}")
    folder = next((path for name in names if (path := Path(settings.logs) / name).is_dir()), None)
    if folder is None:
        raise InputError(
            f"there is no run {settings.name} in {settings.logs} to resume; leave out --resume to start it"
        )
    path = folder / _SETTINGS_FILE
    try:
        stored = yaml.safe_load(path.read_text())
        data = stored.pop("splits")
        began = from_stored(Run, stored)
    except (OSError, UnicodeError, yaml.YAMLError, AttributeError, TypeError, KeyError, InputError) as error:
        raise InputError(f"{path} is missing or damaged ({error}); start the run anew under another name") from error
    for key, default in asdict(Run()).items():
        asked, then = getattr(settings, key), getattr(began, key)
        if key not in _MAY_CHANGE and asked not in (default, then):
            raise InputError(f"the run {settings.name} began with {key} {then}; it cannot be resumed with {asked}")
    return folder, replace(began, **{key: getattr(settings, key) for key in _MAY_CHANGE}), data


def _new_folder(settings: Run, data: str) -> Path:
    """The run's new folder with its settings in it. Its name says so when the data are only mnist5k."""
    logs = Path(settings.logs)
    name = settings.name or f"{data}-{_as_file_name(settings)}-seed{settings.seed}"
    if data == "mnist5k" and data not in name:
        name += _ONLY_5K
    folder, number = logs / name, 1
    while folder.exists():
        if settings.name:
            raise InputError(f"{folder} exists; give another --name, or --resume to continue that run")
        number += 1
        folder = logs / f"{name}-{number}"
    # a run exists once its settings do, whenever it is killed
    logs.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=logs, prefix=".new-"))
    beside.chmod(0o755)
    stored = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()}
    _write_yaml(beside / _SETTINGS_FILE, {**stored, "splits": data})
    beside.rename(folder)
    return folder


def _train_arm(arm: str, experiment: Experiment, settings: Run, splits: Splits, folder: Path) -> ArmReport:
    checkpoint = folder / arm / BEST
    done = [row for row in results.read(folder / "results.csv") if row.arm == arm]
    if done:
        return ArmReport(arm, experiment.metric, _as_report(done, experiment), checkpoint)
    (folder / arm).mkdir(exist_ok=True)
    pl.seed_everything(settings.seed, workers=True, verbose=False)
    recipe = experiment.arm_recipes.get(arm, experiment.recipe)
    if settings.quick:
        recipe = replace(recipe, epochs=min(recipe.epochs, experiment.quick_epochs))
    recipe = settings.overridden(recipe, len(splits.train))
    model = experiment.untrained(arm, recipe, splits.name)
    _write_yaml(folder / arm / "hparams.yaml", {**model.hparams, "seed": settings.seed})
    loaders = Loaders(
        train=batch_loader(splits.train, recipe.batch_size, shuffle=recipe.shuffle, seed=settings.seed, shared=True),
        validation=batch_loader(splits.validation, _EVALUATION_BATCH),
        test=batch_loader(splits.test, _EVALUATION_BATCH),
    )
    report = fit(
        model,
        loaders,
        folder / arm,
        title=arm,
        metric=experiment.metric,
        resume=settings.resume,
        compile=settings.compile,
        **settings.trainer,
    )
    name = experiment.metric.name
    figures = {
        ("validation", name): report.val_metric,
        ("validation", "loss"): report.val_loss,
        ("test", name): report.test_metric,
        ("test", "loss"): report.test_loss,
        **{("test", more): value for more, value in experiment.measure(model.network.eval(), splits).items()},
    }
    rows = [
        results.Result(
            experiment=settings.label(arm),
            arm=arm,
            seed=settings.seed,
            data=splits.name,
            split=split,
            metric=metric,
            value=round(value, 6),
            parameters=report.parameters,
            epochs=report.epochs,
            seconds=round(report.seconds, 1),
            command=results.this_command(),
            date=results.today(),
            versions=results.these_versions(),
        )
        for (split, metric), value in figures.items()
    ]
    results.append(folder / "results.csv", rows)
    return ArmReport(arm, experiment.metric, report, checkpoint)


def _as_report(rows: list[results.Result], experiment: Experiment) -> Report:
    figures = {(row.split, row.metric): row.value for row in rows}
    return Report(
        parameters=rows[0].parameters,
        epochs=rows[0].epochs,
        seconds=rows[0].seconds,
        val_loss=figures["validation", "loss"],
        val_metric=figures["validation", experiment.metric.name],
        test_loss=figures["test", "loss"],
        test_metric=figures["test", experiment.metric.name],
    )


def _draw(experiment: Experiment, splits: Splits, folder: Path, path: Path) -> None:
    if experiment.figure is None:
        logs = {arm: pd.read_csv(folder / arm / "metrics.csv") for arm in experiment.arms}
        plotting.training_curves(logs, path, f"{experiment.name} ({splits.name})")
        return
    networks = {}
    for arm in experiment.arms:
        learner = experiment.untrained(arm, experiment.recipe, splits.name)
        learner.load_state_dict(read_checkpoint(folder / arm / BEST)["state_dict"])
        networks[arm] = learner.network.eval()
    experiment.figure(networks, splits, path)


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, yaml.safe_dump(content, sort_keys=False))
