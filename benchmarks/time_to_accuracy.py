"""Seconds to 98.38 % validation accuracy, ours against the first release's recipe and formulation; see --help.

python benchmarks/time_to_accuracy.py
"""

import math
import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytorch_lightning as pl
import torch
from common import FEWEST_ROUNDS, Case, Machine, Row, Settings, Spread, alternate, command, measure, quartiles
from train_step import ancestor_step, digits

from hyperconv import MNISTClassifier
from hyperconv.data import Splits, batch_loader, load_digits
from hyperconv.training.fit import Loaders, fit

TARGET = 0.9838
# the epoch of its best validation loss, the eighth, which first stays at this accuracy: 8 x 860 steps of 64 digits
ANCESTOR_STEPS, ANCESTOR_BATCH = 6880, 64
_STEPS = 290
_TRAINER = {"float32": "32-true", "tf32": "32-true", "bf16": "bf16-mixed"}


@dataclass(frozen=True)
class TimeToAccuracy(Settings):
    """Train the hyper arm with recipe fast, its one-cycle squeezed into a few steps, until 98.38 % validation accuracy.

    The other side's time is its step's time, measured before and after each of our trainings, times the 6,880 steps
    that it is published to need.

    Args:
        data: full MNIST, as in main.py.
        steps: of the whole one-cycle schedule.
        seeds: trainings, with seeds 0, 1, ...
    """

    data: str = "auto"
    steps: int = _STEPS
    seeds: int = 3


def cases(machine: Machine, quick: bool = False, data: str = "auto") -> list[Case]:
    """
    Raises:
        InputError: no digits in ``data``.
    """
    return [Training(load_digits(data), 2 if quick else _STEPS, seed=0)]


@dataclass(frozen=True)
class Training(Case):
    splits: Splits
    steps: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.steps} steps to {TARGET:.2%} on {self.splits.name}, seed {self.seed}"

    def rows(self, machine: Machine, rounds: int, seconds: float | None) -> list[Row]:
        torch.manual_seed(0)
        step = {"": ancestor_step(*digits(ANCESTOR_BATCH, machine.device), machine)}
        rounds = max(FEWEST_ROUNDS, rounds // 2)
        times = alternate(step, machine.device, rounds, 1)[""]
        ours, accuracy = self.train(machine)
        theirs = quartiles([ANCESTOR_STEPS * each for each in times + alternate(step, machine.device, rounds, 1)[""]])
        middle = statistics.median(theirs)
        reached = "" if accuracy >= TARGET else ", not reached"
        return [
            Row(self.name, "first release's", Spread(*(each / middle for each in theirs)), middle * 1e3, math.nan),
            Row(
                self.name,
                f"ours: {accuracy:.2%}{reached}",
                Spread(*(ours / each for each in reversed(theirs))),
                ours * 1e3,
                math.nan,
            ),
        ]

    def train(self, machine: Machine) -> tuple[float, float]:
        """Seconds, and accuracy on the validation digits."""
        pl.seed_everything(self.seed, verbose=False)
        model = MNISTClassifier("hyper")
        model.recipe = replace(model.recipe, epochs=1).for_samples(len(self.splits.train))
        validation = batch_loader(self.splits.validation, 500)
        loaders = Loaders(
            train=batch_loader(self.splits.train, model.recipe.batch_size, shuffle=True, seed=self.seed),
            validation=validation,
            test=validation,
        )
        # the other side's time has no evaluation in it either; ours comes afterwards
        limits = {"limit_train_batches": self.steps, "limit_val_batches": 1, "limit_test_batches": 1}
        trainer = {"accelerator": machine.device.type, "precision": _TRAINER[machine.precision], "compile": "no"}
        with tempfile.TemporaryDirectory() as folder:
            seconds = fit(model, loaders, Path(folder), title=f"seed {self.seed}", **limits, **trainer).seconds
        images, labels = self.splits.validation[:]
        model.eval()
        with torch.inference_mode():
            right = [
                model(some).argmax(dim=1) == own for some, own in zip(images.split(500), labels.split(500), strict=True)
            ]
        return seconds, torch.cat(right).double().mean().item()


def main(settings: TimeToAccuracy) -> None:
    settings.machine()
    splits = load_digits(settings.data)
    print(splits.note)
    trainings = [Training(splits, settings.steps, seed) for seed in range(settings.seeds)]
    measure("Time to accuracy, to the first release's", trainings, settings, rounds=30)


if __name__ == "__main__":
    command(main, TimeToAccuracy)
