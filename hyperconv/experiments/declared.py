"""Every experiment of ``main.py --experiment``."""

from .experiment import Experiment
from .static import STATIC

EXPERIMENTS: dict[str, Experiment] = {experiment.name: experiment for experiment in (STATIC,)}
