"""Any network with what it is to achieve and how it is trained, as a LightningModule."""

from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from .objectives import LOSS, Batch, Measured, Objective
from .recipes import Recipe


class NonFiniteLoss(RuntimeError):
    """Training diverged."""


class Learner(pl.LightningModule):
    """A network, its objective and its recipe.

    Args:
        network: what is trained.
        objective: what a batch is worth to it. The random numbers of training are a function of seed and step, so that
            a resumed run draws the same.
        recipe: how to train.
        described: plain values that its checkpoints carry as ``hyper_parameters``.
    """

    # neither parameters nor state: made anew for each evaluation
    _measured: Measured

    def __init__(self, network: nn.Module, objective: Objective, recipe: Recipe, described: Mapping[str, Any]) -> None:
        super().__init__()
        self.network = network
        self.objective = objective
        self.recipe = recipe
        self.save_hyperparameters(dict(described))
        self._compiled: Callable[..., Any] | None = None
        self._samples_of_whole = 0
        self._is_whole = True

    def forward(self, *inputs: Any, **named: Any) -> Any:
        # evaluation and a smaller last batch would each be compiled anew, for longer than they run
        if self._compiled is not None and self.training and self._is_whole:
            return self._compiled(*inputs, **named)
        return self.network(*inputs, **named)

    def compile_training(self) -> None:
        """Until training ends, run whole training batches through ``torch.compile``."""
        self._compiled = torch.compile(self.network.forward)

    def on_fit_end(self) -> None:
        self._compiled = None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        samples = self.objective.samples(batch)
        if batch_idx == 0:
            self._samples_of_whole = samples
        self._is_whole = samples == self._samples_of_whole
        step = self.global_step * self.trainer.world_size + self.global_rank
        draws = torch.Generator().manual_seed(((torch.initial_seed() & 0xFFFFFFFF) << 24) + step)
        values = self.objective.score(self, batch, draws)
        self._check_finite(values[LOSS], "training")
        trainer: Any = self.trainer
        if (self.global_step + 1) % trainer.log_every_n_steps == 0 or trainer.should_stop:
            measured = Measured(self.objective, self.device)
            measured.update(values, samples)
            figures = {**measured.figures(), LOSS: values[LOSS].detach()}
            self.log_dict({f"train_{column}": value for column, value in figures.items()})
        return values[LOSS]

    def on_validation_epoch_start(self) -> None:
        self._measured = Measured(self.objective, self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, "validation")

    def on_validation_epoch_end(self) -> None:
        self._log_measured("val")

    def on_test_epoch_start(self) -> None:
        self._measured = Measured(self.objective, self.device)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch, "test")

    def on_test_epoch_end(self) -> None:
        self._log_measured("test")

    def _evaluate(self, batch: Batch, split: str) -> None:
        values = self.objective.score(self, batch, None)
        self._check_finite(values[LOSS], split)
        self._measured.update(values, self.objective.samples(batch))

    def _log_measured(self, split: str) -> None:
        figures = self._measured.figures()
        del self._measured
        self.log_dict({f"{split}_{column}": value for column, value in figures.items()}, sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The figures on validation data are kept with the weights that they are of."""
        seen = self.trainer.callback_metrics.items()
        checkpoint["figures"] = {name: float(value) for name, value in seen if name.startswith("val_")}

    def _check_finite(self, loss: Tensor, where: str) -> None:
        if not loss.isfinite():
            raise NonFiniteLoss(
                f"the {where} loss became {loss.item()} at step {self.global_step}, epoch {self.current_epoch}; "
                "checkpoints of good epochs are kept, try a lower learning rate"
            )

    def configure_optimizers(self) -> Any:
        optimizer, schedule = self.optimizer_and_schedule(
            int(self.trainer.estimated_stepping_batches), self.trainer.precision
        )
        if schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizer_and_schedule(self, steps: int, precision: str) -> tuple[Optimizer, LRScheduler | None]:
        """What the recipe asks for, over so many steps in all."""
        recipe = self.recipe
        kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        # a fused step undoes the loss's scaling itself, which is too late for the norm to be known
        fused = recipe.clip is None or precision != "16-mixed"
        optimizer = kinds[recipe.optimizer](
            self.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=fused
        )
        if recipe.schedule == "constant":
            return optimizer, None
        return optimizer, OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps)
