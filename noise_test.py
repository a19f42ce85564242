"""Measure how hyper and normal classifiers stand up to noise on test digits; see --help."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jsonargparse.typing import NonNegativeInt, PositiveInt

from hyperconv import MNISTClassifier, cli, plotting
from hyperconv.data import load_digits
from hyperconv.errors import InputError
from hyperconv.experiments import results
from hyperconv.experiments.digits import recipe_of
from hyperconv.experiments.noise import MEDIAN, median_filtered, noise_curves
from hyperconv.files import check_writable, write_whole
from hyperconv.training.fit import keep_freed_memory
from hyperconv.training.learner import read_checkpoint


@dataclass(frozen=True)
class NoiseTest:
    """Measure the accuracy of two checkpoints on noisy test digits; write noise.csv and noise.png.

    Salt-and-pepper, Gaussian and speckle noise at 20 levels from 0 to 1, the same draws for every classifier; the
    normal one also behind a 3x3 median filter.

    Args:
        hyper: checkpoint of the hyper arm.
        normal: checkpoint of the normal arm.
        data: where the test digits come from, as in main.py.
        split: test for figures to report, validation to choose a network by.
        digits: how many a repeat; the next repeat takes the next ones.
        repeats: draws at each level, shown as a band.
        seed: of the noise.
        out: folder for the files.
    """

    hyper: str = "lightning_logs/version_hyper/best.ckpt"
    normal: str = "lightning_logs/version_normal/best.ckpt"
    data: str = "auto"
    split: Literal["test", "validation"] = "test"
    digits: PositiveInt = 700
    repeats: PositiveInt = 5
    seed: NonNegativeInt = 0
    out: str = "out"


def main(settings: NoiseTest) -> None:
    models = {arm: _load(arm, getattr(settings, arm)) for arm in ("hyper", "normal")}
    out = Path(settings.out)
    check_writable(out)
    digits = load_digits(settings.data)
    print(digits.note, flush=True)
    trained_on = {model.hparams["data"] for model in models.values()}
    seen = digits.name == "mnist5k" and "mnist" in trained_on
    if seen:
        print("mnist5k is a part of MNIST's training digits: these checkpoints have seen them", flush=True)
    classifiers = {**models, MEDIAN: median_filtered(models["normal"])}
    chosen = digits.test if settings.split == "test" else digits.validation
    count = min(settings.digits, len(chosen))
    keep_freed_memory()
    started = time.perf_counter()
    curves = noise_curves(classifiers, chosen, count=count, repeats=settings.repeats, seed=settings.seed)
    write_whole(out / "noise.csv", curves.to_csv(index=False))
    caption = f"{digits.name}, in training seen by these networks" if seen else digits.name
    plotting.noise_curves(curves, out / "noise.png", caption)
    means = curves.groupby(["modelType", "noiseType"])["accuracy"].mean()
    print("mean accuracy over the 20 levels:")
    print(means.unstack().round(3).to_string())
    parameters = {name: sum(p.numel() for p in models[name.split()[0]].parameters()) for name in classifiers}
    epochs = {arm: 1 + read_checkpoint(getattr(settings, arm)).get("epoch", 0) for arm in models}
    rows = [
        results.Result(
            experiment=f"noise {recipe_of(models[arm.split()[0]])}",
            arm=arm,
            seed=settings.seed,
            data=digits.name,
            split="training" if seen else settings.split,
            metric=f"mean accuracy, {noise}",
            value=round(value, 6),
            parameters=parameters[arm],
            epochs=epochs[arm.split()[0]],
            seconds=round(time.perf_counter() - started, 1),
            command=results.this_command(),
            date=results.today(),
            versions=results.these_versions(),
        )
        for (arm, noise), value in means.items()
    ]
    results.append(out / "results.csv", rows)


def _load(arm: str, path: str) -> MNISTClassifier:
    model = MNISTClassifier.load_from_checkpoint(path)
    if model.hparams["conv"] != arm:
        raise InputError(f"--{arm} {path} holds a {model.hparams['conv']} network")
    return model.eval()


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    cli.run(main, NoiseTest)
