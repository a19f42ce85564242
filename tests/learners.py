"""Something small to learn, within a tenth of a second."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hyperconv.data import batch_loader
from hyperconv.training import Recipe
from hyperconv.training.fit import Loaders, Report, fit
from hyperconv.training.learner import Learner
from hyperconv.training.objectives import CLASSIFICATION, Objective

FEATURES = 6
RECIPE = Recipe("adamw", 1e-2, 1e-2, "one-cycle", batch_size=16, epochs=3, patience=None, shuffle=True)
ON_CPU = {"accelerator": "cpu", "devices": 1}


class LargestOfThree(Dataset):
    """Which of the first three of six numbers is the largest."""

    def __init__(self, count: int, seed: int) -> None:
        self.inputs = torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(seed))
        self.labels = self.inputs[:, :3].argmax(1)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.labels[index]


VALIDATION, TEST = LargestOfThree(40, 1), LargestOfThree(40, 2)


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, 10))


def learner(
    recipe: Recipe = RECIPE,
    objective: Objective = CLASSIFICATION,
    network: Callable[[], nn.Module] = perceptron,
    seed: int = 0,
) -> Learner:
    pl.seed_everything(seed, verbose=False)
    return Learner(network(), objective, recipe, {"experiment": "largest", "arm": "perceptron", "seed": seed})


def loaders(recipe: Recipe = RECIPE, evaluation_batch: int = 7, test: bool = True) -> Loaders:
    train = batch_loader(LargestOfThree(120, 0), recipe.batch_size, shuffle=recipe.shuffle, shared=True)
    return Loaders(
        train, batch_loader(VALIDATION, evaluation_batch), batch_loader(TEST, evaluation_batch) if test else None
    )


def trained(
    folder: Path, *, resume: bool = False, objective: Objective = CLASSIFICATION, seed: int = 0, **changes: Any
) -> Report:
    """The report of a `learner`, trained in ``folder`` by a recipe with these changes."""
    recipe = replace(RECIPE, **changes)
    model = learner(recipe, objective, seed=seed)
    return fit(model, loaders(recipe), folder, title="perceptron", resume=resume, compile="no", **ON_CPU)
