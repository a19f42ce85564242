"""How a network is trained: everything that is neither network nor data nor seed."""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """A training recipe.

    Attributes:
        optimizer: ``adam`` adds the weight decay to the gradient, ``adamw`` decouples it.
        learning_rate: constant, or the peak of the one-cycle schedule.
        epochs: at most so many.
        patience: epochs without a better checkpoint before training stops; None to never stop early.
        shuffle: draw a new order each epoch, a function of seed and epoch.
        steps_an_epoch: that an epoch should have, if need be with smaller batches.
        clip: the largest norm that a step's gradient keeps; None for any.
    """

    optimizer: Literal["adam", "adamw"]
    learning_rate: float
    weight_decay: float
    schedule: Literal["one-cycle", "constant"]
    batch_size: int
    epochs: int
    patience: int | None
    shuffle: bool
    steps_an_epoch: int = 0
    clip: float | None = None

    def for_samples(self, count: int) -> "Recipe":
        """The same recipe, its batches halved down to 16 while an epoch over so many has too few steps."""
        batch_size = self.batch_size
        while batch_size > 16 and count // batch_size < self.steps_an_epoch:
            batch_size //= 2
        return replace(self, batch_size=batch_size)
