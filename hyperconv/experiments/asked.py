"""What a command line asks for: an experiment, its data, and networks to train."""

from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

from ..data import Splits
from ..errors import InputError
from ..extras import command_for, missing, needing
from ..training import Recipe
from ..training.fit import check_trainer
from .declared import experiments
from .experiment import Experiment
from .results import TrainingKey
from .settings import Run, changes
from .trained import outline

# of a network, whatever its options
_MOST_PARAMETERS, _MOST_NUMBERS = 100_000, 10**9
# of Lightning's strategies for several devices, the ones that do not run main.py again
_SPAWNING = ("auto", "ddp_spawn", "ddp_fork", "ddp_notebook")


class Training(NamedTuple):
    """One network to train.

    Attributes:
        key: what tells its results from others'.
        options: of its experiment, which is as they make it; or None.
    """

    key: TrainingKey
    experiment: Experiment
    options: Any
    recipe: Recipe
    splits: Splits


class Asked:
    """An experiment as its options make it, with the arms that are wanted.

    Args:
        options: an instance of what the experiment declares as its options; None for the defaults.

    Attributes:
        folds: of the data; None alone where they do not come in folds.

    Raises:
        InputError: no such experiment or arm, a missing extra, options that no network can be made of, or a machine
            that cannot train as is asked for.
    """

    def __init__(self, settings: Run, options: Any = None) -> None:
        declared = experiments()
        if settings.experiment not in declared:
            raise InputError(f"there is no experiment {settings.experiment}; there are {', '.join(declared)}")
        experiment = declared[settings.experiment]
        if lacking := missing(experiment.extras):
            raise InputError(f"{experiment.name} needs more packages: {command_for(*lacking)}")
        if options is None and experiment.options is not None:
            options = experiment.options()
        experiment = experiment.with_options(options)
        for arm in settings.arms:
            if arm not in experiment.arms:
                raise InputError(f"{experiment.name} has no arm {arm}; it has {', '.join(experiment.arms)}")
        arms = {arm: experiment.arms[arm] for arm in settings.arms or experiment.arms}
        self.settings = settings
        self.options = options
        self.experiment = replace(experiment, arms=arms)
        self.folds = tuple(range(experiment.folds)) or (None,)
        self.splits = cache(self._splits)
        self._check_networks()
        self._check_machine()

    def _check_networks(self) -> None:
        for arm in self.experiment.arms.values():
            try:
                outline(arm.network, _MOST_PARAMETERS, _MOST_NUMBERS)
            except ValueError as error:
                raise InputError(f"no network can be made of these settings: {error}") from error

    def _check_machine(self) -> None:
        devices, strategy = self.settings.devices, self.settings.strategy
        if devices > 1 and strategy not in _SPAWNING:
            raise InputError(
                f"--strategy {strategy} would start main.py again for each of {devices} devices; "
                f"choose one of {', '.join(_SPAWNING)}"
            )
        check_trainer(**self.settings.trainer)

    def _splits(self, fold: int | None) -> Splits:
        experiment = self.experiment
        load = experiment.load if fold is None else partial(experiment.load, fold=fold)
        try:
            with needing(",".join(experiment.extras or ("experiments",)), experiment.name):
                splits = load(self.settings.data)
        except ImportError as error:
            raise InputError(str(error)) from error
        quick = [experiment.quick_samples] if self.settings.quick else []
        asked_for = [self.settings.samples] if self.settings.samples else []
        return splits.shortened(min([*quick, *asked_for], default=len(splits.train)))

    def training(self, arm: str, seed: int, fold: int | None) -> Training:
        experiment, settings, splits = self.experiment, self.settings, self.splits(fold)
        recipe = experiment.recipe_of(arm)
        if settings.quick:
            recipe = replace(recipe, epochs=min(recipe.epochs, experiment.quick_epochs))
        told = changes(settings, self.options, experiment.arms[arm].ignores)
        key = TrainingKey(experiment.name, told, arm, splits.name, seed, None, fold)
        return Training(key, experiment, self.options, settings.overridden(recipe, len(splits.train)), splits)
