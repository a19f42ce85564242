"""Every experiment of ``main.py --experiment``."""

import importlib
import pkgutil
from collections.abc import Sequence
from functools import cache

from ..cli import value_of
from .experiment import Experiment
from .settings import Run


@cache
def experiments() -> dict[str, Experiment]:
    """By name, what the modules of this package declare as their ``EXPERIMENTS``."""
    package = importlib.import_module(__package__)
    modules = [
        importlib.import_module(f"{__package__}.{module.name}") for module in pkgutil.iter_modules(package.__path__)
    ]
    declared = [experiment for module in modules for experiment in getattr(module, "EXPERIMENTS", ())]
    return {experiment.name: experiment for experiment in declared}


def flags_of(args: Sequence[str]) -> tuple[type, ...]:
    """What flags a command line may have: those of every run, and those that its experiment declares."""
    experiment = experiments().get(value_of("experiment", args, Run.experiment))
    return (Run, experiment.options) if experiment and experiment.options else (Run,)
