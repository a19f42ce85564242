"""Measure how hyper and normal classifiers stand up to noise on test digits; see --help."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from hyperconv import cli, plotting
from hyperconv.cli import Seed, Size
from hyperconv.data import load_digits
from hyperconv.errors import InputError
from hyperconv.experiments import results
from hyperconv.experiments.figures.noise import noise_figure
from hyperconv.experiments.noise import MEDIAN, Classifier, median_filtered, noise_curves
from hyperconv.experiments.pair import SHIPPED, pair
from hyperconv.experiments.trained import Trained
from hyperconv.files import check_writable, write_whole
from hyperconv.training.fit import keep_freed_memory


@dataclass(frozen=True)
class NoiseTest:
    """Measure the accuracy of a run's two classifiers on noisy test digits; write noise.csv and noise.png.

    Salt-and-pepper, Gaussian and speckle noise at 20 levels from 0 to 1, the same draws for every classifier; the
    normal one also behind a 3x3 median filter.

    Args:
        run: a folder in lightning_logs with the arms hyper and normal.
        hyper: checkpoint of the hyper arm, in place of the run's.
        normal: checkpoint of the normal arm, in place of the run's.
        data: where the test digits come from, as in main.py.
        split: test for figures to report, validation to choose a network by.
        digits: how many a repeat; the next repeat takes the next ones.
        repeats: draws at each level, shown as a band.
        seed: of the noise.
        out: folder for the files.
    """

    run: str = SHIPPED
    hyper: str | None = None
    normal: str | None = None
    data: str = "auto"
    split: Literal["test", "validation"] = "test"
    digits: Size = 700
    repeats: Size = 5
    seed: Seed = 0
    out: str = "out"


def main(settings: NoiseTest) -> None:
    networks = pair(settings.run, hyper=settings.hyper, normal=settings.normal)
    for arm, each in networks.items():
        _check_classifier(arm, each)
    out = Path(settings.out)
    check_writable(out)
    results.read(out / "results.csv")  # refused before the work, not after it
    digits = load_digits(settings.data)
    print(digits.note, flush=True)
    seen = digits.name == "mnist5k" and "mnist" in {each.data for each in networks.values()}
    if seen:
        print("mnist5k is a part of MNIST's training digits: these checkpoints have seen them", flush=True)
    classifiers: dict[str, Classifier] = {arm: each.network for arm, each in networks.items()}
    classifiers[MEDIAN] = median_filtered(classifiers["normal"])
    chosen = digits.test if settings.split == "test" else digits.validation
    count = min(settings.digits, len(chosen))
    keep_freed_memory()
    started = time.perf_counter()
    curves = noise_curves(classifiers, chosen, count=count, repeats=settings.repeats, seed=settings.seed)
    write_whole(out / "noise.csv", curves.to_csv(index=False))
    caption = f"{digits.name}, in training seen by these networks" if seen else digits.name
    plotting.save(noise_figure(curves, caption), out / "noise.png")
    means = curves.groupby(["modelType", "noiseType"])["accuracy"].mean()
    print("mean accuracy over the 20 levels:")
    print(means.unstack().round(3).to_string())
    seconds = round(time.perf_counter() - started, 1)
    rows = []
    for (arm, noise), value in means.items():
        source = networks[arm.split(" + ")[0]]
        rows.append(
            results.Result(
                experiment=source.experiment,
                settings=source.settings,
                arm=arm,
                seed=source.seed,
                noise_seed=settings.seed,
                fold=source.fold,
                data=digits.name,
                split="training" if seen else settings.split,
                metric=results.NOISE_METRIC,
                at=noise,
                value=float(f"{value:.7g}"),
                parameters=sum(parameter.numel() for parameter in source.network.parameters()),
                operations=None,
                epochs=source.epoch + 1,
                seconds=seconds,
                **results.provenance(),
            )
        )
    results.append(out / "results.csv", rows)


def _check_classifier(arm: str, trained: Trained) -> None:
    try:
        fits = trained.network(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
    except (TypeError, RuntimeError, ValueError, AttributeError):
        fits = False
    if not fits:
        raise InputError(f"the arm {arm} of {trained.experiment} does not tell digits apart; give a run of digits")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    cli.run(main, NoiseTest)
