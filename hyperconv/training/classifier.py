"""The digit classifier as a LightningModule."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from ..data.images import as_float
from ..errors import InputError
from ..experiments.digits import RECIPES, TURNED_CLASSIFICATION, ArmName, DigitsOptions, digit_network, norm_of
from ..experiments.settings import plain
from ..experiments.trained import trained
from ..generators import Norm
from .learner import Learner
from .recipes import Recipe


class MNISTClassifier(Learner):
    """Digit classifier whose residual blocks' convolutions are hyper or normal; the two differ in nothing else.

    Args:
        conv: ``hyper`` for generated kernels, ``normal`` for stored ones.
        kernel_size: of the residual blocks' convolutions.
        hidden: widths of the generators' hidden layers (``hyper`` only).
        norm: how generated kernels are standardised (``hyper`` only); see `CoordinateMLP`.
        recipe: how to train it.
        data: name of the digits that it is trained on, for logs and figures.

    >>> import torch
    >>> MNISTClassifier(conv="normal", kernel_size=3)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        conv: ArmName = "hyper",
        kernel_size: int = 5,
        hidden: Sequence[int] = (16, 16, 16),
        norm: Norm = "decorrelated",
        recipe: Recipe = RECIPES["fast"],
        data: str = "mnist",
    ) -> None:
        options = DigitsOptions(conv=conv, kernel_size=kernel_size, hidden=tuple(hidden), norm=norm)
        described = {
            "experiment": "digits",
            "arm": conv,
            "options": plain(options),
            "data": data,
            "recipe": asdict(recipe),
        }
        network = digit_network(conv, kernel_size, tuple(hidden), norm)
        super().__init__(network, TURNED_CLASSIFICATION, recipe, described)

    def forward(self, images: Tensor) -> Tensor:
        """``(B, 1, 28, 28)``, float in 0 ... 1 or uint8 in 0 ... 255, to logits ``(B, 10)``."""
        return super().forward(as_float(images))

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: Any = "cpu"
    ) -> "MNISTClassifier":
        """Load a checkpoint of digits, running none of the code that the file might hold.

        Args:
            checkpoint_path: a ``best.ckpt`` or ``last.ckpt``.
            map_location: as in ``torch.load``.

        Raises:
            InputError: a file that is missing, damaged, unsafe, or of another network.
        """
        found = trained(checkpoint_path, map_location)
        options = found.options
        if not isinstance(options, DigitsOptions):
            raise InputError(f"{checkpoint_path} is of {found.experiment}, not of digits; use hyperconv.load_trained")
        recipe = {field.name: found.recipe[field.name] for field in fields(Recipe) if field.name in found.recipe}
        try:
            model = cls(
                cast(ArmName, found.arm),
                options.kernel_size,
                options.hidden,
                norm_of(options),
                Recipe(**recipe),
                data=found.data,
            )
        except TypeError as error:
            raise InputError(f"{checkpoint_path} tells no recipe: {error}") from error
        model.network = found.network
        return model
