"""The main job: hyper and normal classifiers of digits."""

from functools import partial
from typing import Any

from ..training import RECIPES, MNISTClassifier, Recipe
from ..training.classifier import Arm
from ..training.learner import Learner
from .experiment import Experiment
from .settings import Run, with_changes, without_generators

_MNIST5K_TRAINING = 4000


def digits(settings: Run) -> Experiment:
    """What ``main.py`` trains unless asked for something else."""

    def model(arm: Arm, **more: Any) -> MNISTClassifier:
        return MNISTClassifier(arm, settings.kernel_size, settings.hidden, settings.norm, **more)

    def learner(arm: Arm, recipe: Recipe, data: str) -> Learner:
        return model(arm, recipe=recipe, data=data)

    wanted: tuple[Arm, ...] = ("hyper", "normal") if settings.conv == "both" else (settings.conv,)
    return Experiment(
        name="digits",
        paper="Ma, Dalca, Sabuncu, WACV 2022; github.com/mkarmann/hyper-conv",
        task="digits to classes: residual network, generated 5x5 kernels beside stored ones",
        minutes=10,
        arms={arm: partial(model, arm) for arm in wanted},
        recipe=RECIPES[settings.recipe],
        quick_epochs=2,
        learner=learner,
    )


def recipe_of(model: MNISTClassifier) -> str:
    """What a trained network's recipe and settings are called in results."""
    trained = model.recipe
    name, recipe = next((name, each) for name, each in RECIPES.items() if each.optimizer == trained.optimizer)
    if model.hparams["data"] == "mnist5k":
        recipe = recipe.for_samples(_MNIST5K_TRAINING)
    own = {key: getattr(trained, key) for key in ("epochs", "batch_size", "learning_rate")}
    changed = {key: value for key, value in own.items() if value != getattr(recipe, key)}
    made = {key: model.hparams[key] for key in ("kernel_size", "hidden", "norm")}
    return with_changes(name, {**changed, **without_generators(made, model.hparams["conv"])})
