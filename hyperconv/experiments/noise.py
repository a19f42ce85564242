"""How accuracy falls as digits grow noisy."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from rich.progress import track
from scipy.ndimage import median_filter
from torch import Tensor

from ..data import DigitDataset
from ..data.noise import NOISES, UNITS, Noise, add_noise

LEVELS = tuple(level / 19 for level in range(20))
MEDIAN = "normal + median 3x3"
_BATCH = 500

Classifier = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Draw:
    """One noisy set of digits."""

    noise: Noise
    amount: float
    repeat: int
    images: Tensor
    labels: Tensor


def noise_curves(
    classifiers: Mapping[str, Classifier], digits: DigitDataset, *, count: int, repeats: int, seed: int
) -> pd.DataFrame:
    """Accuracy of classifiers at 20 levels of each noise, on the same draws.

    Args:
        classifiers: name to function from ``(B, 1, 28, 28)``, float in 0 ... 1, to logits ``(B, 10)``.
        digits: which to make noisy; each repeat takes the next ``count`` of them, from the start again when they
            are used up.
        seed: every draw is a function of seed, noise, level and repeat alone.

    Returns:
        Columns noiseType, amount, accuracy, modelType, noiseUnit, repeat; a row a classifier and draw.
    """
    total = len(NOISES) * len(LEVELS) * repeats
    rows = [
        {
            "noiseType": draw.noise,
            "amount": draw.amount,
            "accuracy": _accuracy(classifier, draw),
            "modelType": name,
            "noiseUnit": UNITS[draw.noise],
            "repeat": draw.repeat,
        }
        for draw in track(_draws(digits, count, repeats, seed), "noise levels", total=total)
        for name, classifier in classifiers.items()
    ]
    return pd.DataFrame(rows)


def _draws(digits: DigitDataset, count: int, repeats: int, seed: int) -> Iterator[Draw]:
    for repeat in range(repeats):
        chosen = torch.arange(repeat * count, (repeat + 1) * count) % len(digits)
        images, labels = digits[chosen]
        clean = images / 255
        for kind, noise in enumerate(NOISES):
            for level, amount in enumerate(LEVELS):
                generator = torch.Generator().manual_seed(((seed * 1000 + repeat) * 10 + kind) * 100 + level)
                yield Draw(noise, amount, repeat, add_noise(clean, noise, amount, generator), labels)


def median_filtered(classifier: Classifier) -> Classifier:
    """A classifier that sees its images through a 3x3 median filter."""

    def filtered(images: Tensor) -> Tensor:
        return classifier(torch.from_numpy(median_filter(images.numpy(), size=(1, 1, 3, 3))))

    return filtered


@torch.inference_mode()
def _accuracy(classifier: Classifier, draw: Draw) -> float:
    batches = zip(draw.images.split(_BATCH), draw.labels.split(_BATCH), strict=True)
    hits = sum((classifier(images).argmax(dim=1) == labels).sum().item() for images, labels in batches)
    return hits / len(draw.labels)
