"""The digit classifier as a LightningModule."""

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from ..data.augment import turn_and_zoom
from ..errors import InputError
from ..generators import CoordinateMLP, Norm
from ..layers import HyperConv2d
from ..zoo.digit_classifier import digit_classifier
from .recipes import RECIPES, Recipe

Arm = Literal["hyper", "normal"]
CLASSES = 10


class NonFiniteLoss(InputError):
    """Training diverged."""


class MNISTClassifier(pl.LightningModule):
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
        super().__init__()
        self.recipe = recipe if isinstance(recipe, Recipe) else Recipe(**recipe)
        self.save_hyperparameters(
            {
                "conv": conv,
                "kernel_size": kernel_size,
                "hidden": list(hidden),
                "norm": norm,
                "recipe": asdict(self.recipe),
                "data": data,
            }
        )
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
        self.network = network.to(memory_format=torch.channels_last)
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self.accuracy = nn.ModuleDict(
            {split: MulticlassAccuracy(CLASSES, average="micro") for split in ("val", "test")}
        )

    def forward(self, images: Tensor) -> Tensor:
        """``(B, 1, 28, 28)``, float in 0 ... 1 or uint8 in 0 ... 255, to logits ``(B, 10)``."""
        if not images.is_floating_point():
            images = images.to(self.dtype) / 255
        images = _channels_last(images)
        # evaluation and a smaller last batch would each be compiled anew, for longer than they run
        if self._compiled is not None and self.training and len(images) == self.recipe.batch_size:
            return self._compiled(images)
        return self.network(images)

    def compile_training(self) -> None:
        """From now on, run whole training batches through ``torch.compile``."""
        self._compiled = torch.compile(self.network.forward)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        if self.recipe.rotation or self.recipe.zoom:
            # a function of seed and step, so that a resumed run sees the same digits
            step = self.global_step * self.trainer.world_size + self.global_rank
            generator = torch.Generator().manual_seed(((torch.initial_seed() & 0xFFFFFFFF) << 24) + step)
            images = turn_and_zoom(images.to(self.dtype) / 255, self.recipe.rotation, self.recipe.zoom, generator)
        logits = self(images)
        loss = F.cross_entropy(logits, labels)
        self._check_finite(loss, "training")
        accuracy = (logits.detach().argmax(dim=1) == labels).float().mean()
        self.log_dict({"train_loss": loss.detach(), "train_acc": accuracy})
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, "test")

    def _evaluate(self, batch: tuple[Tensor, Tensor], split: str) -> None:
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels)
        self._check_finite(loss, split)
        metric = self.accuracy[split]
        metric(logits, labels)
        values = {f"{split}_loss": loss, f"{split}_acc": metric}
        self.log_dict(values, batch_size=len(labels), on_epoch=True, sync_dist=True)

    def _check_finite(self, loss: Tensor, where: str) -> None:
        if not loss.isfinite():
            raise NonFiniteLoss(
                f"the {where} loss became {loss.item()} at step {self.global_step}, epoch {self.current_epoch}; "
                "checkpoints of good epochs are kept, try a lower learning rate"
            )

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        optimizer = kinds[recipe.optimizer](
            self.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        if recipe.schedule == "constant":
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

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
        checkpoint = read_checkpoint(checkpoint_path, map_location)
        settings = checkpoint.get("hyper_parameters")
        weights = checkpoint.get("state_dict")
        if not isinstance(settings, Mapping) or not isinstance(weights, Mapping):
            raise InputError(
                f"{checkpoint_path} is no checkpoint of MNISTClassifier: no hyper_parameters or state_dict"
            )
        try:
            model = cls(**{**settings, **overrides})
            model.load_state_dict(weights, strict=strict)
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{checkpoint_path} holds another architecture: {reason[:200]}") from error
        return model.to(map_location) if map_location is not None else model


def _channels_last(images: Tensor) -> Tensor:
    """Images of one channel, ``(B, 1, H, W)``, with the strides that tell torch so: as they are, both formats fit."""
    height, width = images.shape[2:]
    return images.contiguous().as_strided(images.shape, (height * width, 1, width, 1))


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint as tensors and plain values only.

    Raises:
        InputError: a file that is missing, empty, truncated, no checkpoint, or that would run code if loaded.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}; train one with main.py or give another path")
    if path.stat().st_size == 0:
        raise InputError(f"the checkpoint {path} is empty; train again or give another path")
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        if isinstance(error, pickle.UnpicklingError) and "Weights only load failed" in str(error):
            reason = "it holds more than tensors and plain values, so loading it could run code: refused"
        else:
            reason = f"it is truncated, damaged or no checkpoint ({str(error).splitlines()[0][:100]})"
        raise InputError(f"the checkpoint {path} cannot be loaded: {reason}") from error
    if not isinstance(checkpoint, dict):
        raise InputError(f"the checkpoint {path} holds a {type(checkpoint).__name__}, not a training checkpoint")
    return checkpoint
