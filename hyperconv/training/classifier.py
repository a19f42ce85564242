"""The digit classifier as a LightningModule."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..data.augment import turn_and_zoom
from ..errors import InputError
from ..generators import CoordinateMLP, Norm
from ..layers import HyperConv2d
from ..zoo.digit_classifier import digit_classifier
from .learner import Batch, Learner, settings_and_weights
from .objectives import as_float, scores
from .recipes import RECIPES, Recipe

Arm = Literal["hyper", "normal"]


class MNISTClassifier(Learner):
    """Digit classifier whose residual blocks' convolutions are hyper or normal; the two differ in nothing else.

    Args:
        conv: ``hyper`` for generated kernels, ``normal`` for stored ones.
        kernel_size: of the residual blocks' convolutions.
        hidden: widths of the generators' hidden layers (``hyper`` only).
        norm: how generated kernels are standardised (``hyper`` only); see `CoordinateMLP`.
        recipe: how to train it, a `Recipe` or its fields.
        data: name of the digits that it is trained on, for logs and figures.

    >>> MNISTClassifier(conv="normal", kernel_size=3)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        conv: Arm = "hyper",
        kernel_size: int = 5,
        hidden: Sequence[int] = (16, 16, 16),
        norm: Norm = "decorrelated",
        recipe: Recipe | Mapping[str, Any] = RECIPES["fast"],
        data: str = "mnist",
    ) -> None:
        recipe = recipe if isinstance(recipe, Recipe) else Recipe(**recipe)
        described = {
            "conv": conv,
            "kernel_size": kernel_size,
            "hidden": list(hidden),
            "norm": norm,
            "recipe": asdict(recipe),
            "data": data,
        }
        generator = partial(CoordinateMLP, hidden=tuple(hidden), norm=norm)
        layers: dict[str, Callable[..., nn.Module]] = {
            # as published: a bias beside stored kernels, none beside generated ones
            "hyper": partial(HyperConv2d, bias=False, generator=generator),
            "normal": nn.Conv2d,
        }
        if conv not in layers:
            raise InputError(f"conv must be 'hyper' or 'normal', got {conv!r}")
        if kernel_size < 1:
            raise InputError(f"the kernel size must be 1 or more, got {kernel_size}")
        network = digit_classifier(kernel_size, conv_layer=layers[conv])
        # most convolutions are fastest on images whose channels lie together
        super().__init__(network.to(memory_format=torch.channels_last), digit_scores, recipe, described)

    def forward(self, images: Tensor) -> Tensor:
        """``(B, 1, 28, 28)``, float in 0 ... 1 or uint8 in 0 ... 255, to logits ``(B, 10)``."""
        return super().forward(_channels_last(as_float(images, self.dtype)))

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: Any = "cpu", *, strict: bool = True, **overrides: Any
    ) -> "MNISTClassifier":
        """Load a checkpoint of this class, running none of the code that the file might hold.

        Args:
            checkpoint_path: a ``best.ckpt`` or ``last.ckpt``.
            map_location: as in ``torch.load``.
            strict: refuse weights that are missing or left over.
            overrides: constructor arguments in place of the saved ones.

        Raises:
            InputError: a file that is missing, damaged, unsafe, or of another network.
        """
        settings, weights = settings_and_weights(checkpoint_path, map_location)
        try:
            model = cls(**{**settings, **overrides})
            model.load_state_dict(weights, strict=strict)
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{checkpoint_path} holds another architecture: {reason[:200]}") from error
        return model.to(map_location) if map_location is not None else model


def digit_scores(model: Learner, batch: Batch, draws: torch.Generator) -> dict[str, Tensor]:
    """Cross-entropy and accuracy on digits, turned and scaled in training if the recipe says so."""
    images, labels = batch
    recipe = model.recipe
    if model.training and (recipe.rotation or recipe.zoom):
        images = turn_and_zoom(as_float(images, model.dtype), recipe.rotation, recipe.zoom, draws)
    return scores(model(images), labels)


def _channels_last(images: Tensor) -> Tensor:
    """Images of one channel, ``(B, 1, H, W)``, with the strides that tell torch so: as they are, both formats fit."""
    height, width = images.shape[2:]
    return images.contiguous().as_strided(images.shape, (height * width, 1, width, 1))
