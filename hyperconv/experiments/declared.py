"""Every experiment of ``main.py --experiment``."""

from .conditioned import CONDITIONED, GENERATORS
from .experiment import Experiment
from .hyper_lstm import HYPER_LSTMS
from .hypermorph import HYPERMORPHS
from .mlp import MLP
from .ode import ODE, ODE_FRAMES
from .static import STATIC

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (STATIC, MLP, CONDITIONED, GENERATORS, *HYPER_LSTMS, *HYPERMORPHS, ODE, ODE_FRAMES)
}
