"""What networks are trained for."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.augment import pad_and_crop
from .learner import Batch


@dataclass(frozen=True)
class Metric:
    """The figure that is reported beside the loss.

    Attributes:
        column: its name in logs and in what objectives return.
        name: its name in tables.
        percent: whether it is a fraction, to be shown as a percentage.
    """

    column: str
    name: str
    percent: bool = False

    def text(self, value: float) -> str:
        """The value as tables show it.

        >>> ACCURACY.text(0.9953)
        '99.53%'
        """
        return f"{value:.2%}" if self.percent else f"{value:.4g}"


ACCURACY = Metric("acc", "accuracy", percent=True)


def classification(network: nn.Module, batch: Batch, draws: torch.Generator) -> dict[str, Tensor]:
    """Cross-entropy and accuracy on images as they are."""
    images, labels = batch
    return scores(network(as_float(images)), labels)


def digit_classification(network: nn.Module, batch: Batch, draws: torch.Generator) -> dict[str, Tensor]:
    """`classification` of images, moved by up to a pixel in training: padded to 30x30, cropped to 28x28."""
    images, labels = batch
    images = as_float(images)
    return scores(network(pad_and_crop(images, 1, draws) if network.training else images), labels)


def as_float(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Images of 0 ... 255, uint8, as 0 ... 1; others as they are."""
    return images if images.is_floating_point() else images.to(dtype) / 255


def scores(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Cross-entropy and accuracy."""
    accuracy = (logits.detach().argmax(dim=1) == labels).float().mean()
    return {"loss": F.cross_entropy(logits, labels), "acc": accuracy}
