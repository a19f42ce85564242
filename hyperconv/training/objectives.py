"""What networks are trained for, and what they are measured by."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
import torchmetrics
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torchmetrics.classification import MulticlassAccuracy

from ..data.augment import pad_and_crop
from ..data.images import as_float

# any structure of tensors: a tuple, a dict, a torch-geometric Batch
Batch = Any
# (network, batch, source of random numbers) -> the loss, a mean over the batch's samples, under that name; and for each
# metric, under its column, what its `update` takes: one thing, or a tuple of several. In evaluation there is no source
# of random numbers: what is random there belongs to the data
Score = Callable[[nn.Module, Batch, torch.Generator | None], Mapping[str, Any]]
LOSS = "loss"


@dataclass(frozen=True)
class Metric:
    """A figure over a whole split, whatever the batches that it is evaluated in.

    Attributes:
        column: its name in logs and in what a `Score` returns.
        name: its name in results and tables.
        make: a torchmetrics object, whose state is gathered over the split.
        better: whether lower or higher figures are.
        percent: whether it is a fraction, to be shown as a percentage.
    """

    column: str
    name: str
    make: Callable[[], torchmetrics.Metric]
    better: Literal["lower", "higher"]
    percent: bool = False

    def text(self, value: float) -> str:
        """The value as tables show it.

        >>> ACCURACY.text(0.9953)
        '99.53%'
        """
        return f"{value:.2%}" if self.percent else f"{value:.4g}"

    def is_better(self, value: float, than: float) -> bool:
        """Whether a value is better than another; one that is no number is better than none.

        >>> ACCURACY.is_better(0.99, 0.98), ACCURACY.is_better(0.98, 0.98)
        (True, False)
        """
        if math.isnan(than):
            return not math.isnan(value)
        return value > than if self.better == "higher" else value < than


MEAN_LOSS = Metric(LOSS, LOSS, torchmetrics.MeanMetric, "lower")


def leading_size(batch: Batch) -> int:
    """The number of samples in a batch whose tensors all have them along their first axis.

    >>> leading_size({"images": torch.zeros(5, 1, 28, 28), "labels": torch.zeros(5)})
    5
    """
    return next(leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)).shape[0]


@dataclass(frozen=True)
class Objective:
    """What a network is trained for, what it is measured by, and which figure chooses its checkpoint.

    Attributes:
        score: of a batch: the loss, and what each metric takes.
        metrics: reported beside the loss, which is one too; the first is the headline.
        chosen_by: column of the metric on validation data, or of the loss, whose best value chooses the checkpoint.
        samples: how many samples a batch holds.
        loss: what the loss is called in figures.
    """

    score: Score
    metrics: tuple[Metric, ...]
    chosen_by: str = LOSS
    samples: Callable[[Batch], int] = leading_size
    loss: str = "loss"

    @property
    def all_metrics(self) -> tuple[Metric, ...]:
        return (MEAN_LOSS, *self.metrics)

    @property
    def chooser(self) -> Metric:
        return next(metric for metric in self.all_metrics if metric.column == self.chosen_by)


class Measured:
    """The figures of an objective, gathered batch by batch.

    Every process that trains sees all of a held-out split, so nothing is gathered from the others.

    >>> measured = Measured(CLASSIFICATION)
    >>> for logits, labels in ((torch.eye(10)[:3], [0, 1, 0]), (torch.eye(10)[:1], [0])):
    ...     measured.update(scores(logits, torch.tensor(labels)), samples=len(labels))
    >>> round(measured.figures()["acc"], 3)
    0.75
    """

    def __init__(self, objective: Objective, device: torch.device | str = "cpu") -> None:
        self._metrics = {metric.column: metric.make().to(device) for metric in objective.all_metrics}
        for module in (module for metric in self._metrics.values() for module in metric.modules()):
            if isinstance(module, torchmetrics.Metric):
                module.distributed_available_fn = _never

    def update(self, values: Mapping[str, Any], samples: int) -> None:
        """Take in what a `Score` returned for a batch of so many samples."""
        for column, metric in self._metrics.items():
            taken = values[column]
            if column == LOSS:
                metric.update(taken.detach(), weight=samples)
            elif isinstance(taken, tuple):
                metric.update(*taken)
            else:
                metric.update(taken)

    def figures(self) -> dict[str, float]:
        """Of all that was taken in, by column."""
        return {column: float(metric.compute()) for column, metric in self._metrics.items()}


def _never() -> bool:
    return False


def accuracy(classes: int, column: str = "acc") -> Metric:
    make = partial(MulticlassAccuracy, num_classes=classes, average="micro", validate_args=False)
    return Metric(column, "accuracy", make, "higher", percent=True)


ACCURACY = accuracy(10)


def scores(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Cross-entropy, and what `accuracy` takes."""
    return {LOSS: F.cross_entropy(logits, labels), ACCURACY.column: (logits.detach(), labels)}


def _classification(network: nn.Module, batch: Batch, draws: torch.Generator | None) -> dict[str, Any]:
    images, labels = batch
    return scores(network(as_float(images)), labels)


def _moved_classification(network: nn.Module, batch: Batch, draws: torch.Generator | None) -> dict[str, Any]:
    images, labels = batch
    images = as_float(images)
    return scores(network(images if draws is None else pad_and_crop(images, 1, draws)), labels)


CLASSIFICATION = Objective(_classification, (ACCURACY,), loss="cross-entropy")
# images moved by up to a pixel in training: padded to 30x30, cropped to 28x28
MOVED_CLASSIFICATION = Objective(_moved_classification, (ACCURACY,), loss="cross-entropy")
