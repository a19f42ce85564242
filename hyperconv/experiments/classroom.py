"""The classifier of a class on convolutions, with generated kernels and with stored ones."""

from dataclasses import replace
from functools import partial

from ..training import Recipe
from ..training.objectives import MOVED_CLASSIFICATION
from ..zoo.classroom import HYPER, NORMAL, classroom_classifier
from .experiment import TWICE_CHANCE, Arm, Experiment

_RECIPE = Recipe("adamw", 1e-2, 1e-2, "one-cycle", batch_size=128, epochs=3, patience=None, shuffle=True)
_GRID = {"learning_rate": (2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2)}

EXPERIMENTS = (
    Experiment(
        name="classroom",
        paper="PC lab 13, github.com/gdewael/teaching",
        task="digits to classes: residual blocks of [convolution, ReLU, dropout, norm], generated or stored kernels",
        minutes=3,
        arms={
            "hyper": Arm(partial(classroom_classifier, HYPER), replace(_RECIPE, learning_rate=5e-3), _GRID),
            "normal": Arm(partial(classroom_classifier, NORMAL), replace(_RECIPE, learning_rate=2e-2), _GRID),
        },
        recipe=_RECIPE,
        objective=MOVED_CLASSIFICATION,
        quick_epochs=5,
        failed_at=TWICE_CHANCE,
    ),
)
