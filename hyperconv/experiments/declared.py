"""Every experiment of ``main.py --experiment``."""

import importlib
import pkgutil
from functools import cache

from .experiment import Experiment


@cache
def experiments() -> dict[str, Experiment]:
    """By name, what the modules of this package declare as their ``EXPERIMENTS``."""
    package = importlib.import_module(__package__)
    modules = [
        importlib.import_module(f"{__package__}.{module.name}") for module in pkgutil.iter_modules(package.__path__)
    ]
    declared = [experiment for module in modules for experiment in getattr(module, "EXPERIMENTS", ())]
    return {experiment.name: experiment for experiment in declared}
