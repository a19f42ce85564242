"""Checkpoints, read as tensors and plain values only, and compared with what they are for before they are used."""

import math
import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from ..errors import InputError
from ..files import refuse_lfs_pointer
from ..weights import check_tensors
from .learner import Learner

BEST = "best.ckpt"
LAST = "last.ckpt"
_MANY = 1 << 53
# of Adam, for each parameter
_MOMENTS = ("exp_avg", "exp_avg_sq")


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint as tensors and plain values only.

    Args:
        map_location: as in ``torch.load``.

    Raises:
        InputError: a file that is missing, empty, truncated, no checkpoint, or that would run code if loaded; or a
            device that is not there.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"there is no checkpoint {path}; train one with main.py or give another path")
    if path.stat().st_size == 0:
        raise InputError(f"the checkpoint {path} is empty; train again or give another path")
    refuse_lfs_pointer(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickles, which are refused in words
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        said = next(iter(str(error).splitlines()), type(error).__name__)[:100]
        if isinstance(error, pickle.UnpicklingError) and "Weights only load failed" in str(error):
            reason = "it holds more than tensors and plain values, so loading it could run code: refused"
        elif map_location != "cpu" and _loads_on_cpu(path):
            place = "the devices that it was saved on" if map_location is None else map_location
            reason = f"not onto {place}, but onto the cpu ({said})"
        else:
            reason = f"it is truncated, damaged or no checkpoint ({said})"
        raise InputError(f"the checkpoint {path} cannot be loaded: {reason}") from error
    if not isinstance(checkpoint, dict):
        raise InputError(f"the checkpoint {path} holds a {type(checkpoint).__name__}, not a training checkpoint")
    return checkpoint


def _loads_on_cpu(path: Path) -> bool:
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        return False
    return True


def check_resumable(folder: Path, model: Learner, trainer: pl.Trainer, steps_an_epoch: int) -> int:
    """Compare a training's checkpoints with the training that would write them, all of it.

    Args:
        trainer: that would go on, before it does anything.

    Returns:
        The step that ``last.ckpt`` is of.

    Raises:
        InputError: a checkpoint is missing, damaged, or of another training.
    """
    steps = {}
    for name, check in ((LAST, _check_last), (BEST, _check_best)):
        path = folder / name
        checkpoint = read_checkpoint(path)
        try:
            _check("hyper_parameters", checkpoint.get("hyper_parameters"), dict(model.hparams), _is_equal)
            weights: Any = checkpoint.get("state_dict")
            check_tensors(weights, model.state_dict())
            if not all(weights[name].isfinite().all() for name, _ in model.named_parameters()):
                raise InputError("its weights are not finite")
            steps[name] = check(checkpoint, model, trainer, steps_an_epoch)
        except InputError as error:
            raise InputError(f"{path} is no checkpoint that this run can continue from: {error}") from error
    return steps[LAST]


def _check_last(checkpoint: Mapping[str, Any], model: Learner, trainer: pl.Trainer, steps_an_epoch: int) -> int:
    recipe = model.recipe
    epoch = _number(checkpoint, "epoch", recipe.epochs - 1)
    step = (epoch + 1) * steps_an_epoch
    optimizer, schedule = model.optimizer_and_schedule(recipe.epochs * steps_an_epoch, trainer.precision)
    for name, value in (("global_step", step), ("pytorch-lightning_version", pl.__version__)):
        _check(name, checkpoint.get(name), value, _is_equal)
    states = {callback.state_key: callback.state_dict() for callback in vars(trainer)["callbacks"]}
    callbacks = {name: state for name, state in states.items() if state}
    _check("callbacks", checkpoint.get("callbacks"), callbacks, _is_alike)
    schedules = [{**schedule.state_dict(), "last_epoch": step, "_step_count": step + 1}] if schedule else []
    _check(
        "lr_schedulers",
        *_but_for("lr_schedulers", ("_last_lr",), checkpoint.get("lr_schedulers"), schedules),
        _is_equal,
    )
    _check_loops(checkpoint.get("loops"), trainer, epoch, step)
    _check_optimizer(checkpoint.get("optimizer_states"), optimizer, step)
    _check_precision(checkpoint, trainer)
    return step


def _check_best(checkpoint: Mapping[str, Any], model: Learner, trainer: pl.Trainer, steps_an_epoch: int) -> int:
    epoch = _number(checkpoint, "epoch", model.recipe.epochs - 1)
    figures = {f"val_{metric.column}": 0.0 for metric in model.objective.all_metrics}
    _check("figures", checkpoint.get("figures"), figures, lambda figure, other: True)
    return (epoch + 1) * steps_an_epoch


def _check_loops(found: Any, trainer: pl.Trainer, epoch: int, step: int) -> None:
    loops = ("fit_loop", "validate_loop", "test_loop", "predict_loop")
    _check("loops", found, {name: getattr(trainer, name).state_dict() for name in loops}, _is_alike)
    fitted = found["fit_loop"]
    epochs = {"ready": epoch + 1, "started": epoch + 1, "processed": epoch + 1, "completed": epoch}
    _check("epochs done", fitted["epoch_progress"]["current"], epochs, _is_equal)
    optimizations = fitted["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"]
    done = {"optimizations": optimizations["completed"], **fitted["epoch_loop.state_dict"]}
    _check("steps done", done, dict.fromkeys(done, step), _is_equal)


def _check_optimizer(found: Any, optimizer: torch.optim.Optimizer, step: int) -> None:
    if not isinstance(found, list) or len(found) != 1 or not isinstance(found[0], Mapping):
        raise InputError("its optimizer_states are not those of one optimizer")
    expected = optimizer.state_dict()
    groups = _but_for("param_groups", ("lr", "betas"), found[0].get("param_groups"), expected["param_groups"])
    _check("param_groups", *groups, _is_equal)
    states = found[0].get("state")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not isinstance(states, Mapping) or not states or not states.keys() <= set(range(len(parameters))):
        raise InputError("its optimizer's state is not one for each parameter")
    for index, state in states.items():
        where = f"optimizer's state of parameter {index}"
        # an update writes into these, as far as the parameter is long
        moments = {name: torch.zeros_like(parameters[index]) for name in _MOMENTS}
        try:
            check_tensors(state, {"step": torch.zeros(()), **moments})
        except InputError as error:
            raise InputError(f"of the {where}, {error}") from error
        if any(state[name].stride() != moment.stride() for name, moment in moments.items()):
            raise InputError(f"its {where} does not lie in memory as the parameter does")
        if not all(state[name].isfinite().all() for name in moments):
            raise InputError(f"its {where} is not finite")
        if not 1 <= state["step"] <= step:
            raise InputError(f"its {where} is of step {state['step'].item()}")


def _check_precision(checkpoint: Mapping[str, Any], trainer: pl.Trainer) -> None:
    plugin = trainer.precision_plugin
    name, state = type(plugin).__qualname__, plugin.state_dict()
    if state:
        _check(name, checkpoint.get(name), state, _is_alike)
    elif name in checkpoint:
        raise InputError(f"it has a {name}")
    if "native_amp_scaling_state" in checkpoint:
        raise InputError("it is of another version of Lightning")


def _but_for(
    where: str, moving: Sequence[str], found: Any, expected: list[dict[str, Any]]
) -> tuple[Any, list[dict[str, Any]]]:
    """Found and expected entries without those that move with the steps, once their kinds are known to be right."""
    if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
        return found, expected
    for each, other in zip(found, expected, strict=False):
        for name in moving:
            _check(f"{where}.{name}", each.get(name), other[name], _is_alike)

    def unmoved(entries: list[Any]) -> list[dict[str, Any]]:
        return [{name: value for name, value in each.items() if name not in moving} for each in entries]

    return unmoved(found), unmoved(expected)


def _check(where: str, found: Any, expected: Any, fits: Callable[[Any, Any], bool]) -> None:
    """Compare plain values within values: their kinds, and single ones by ``fits(found, expected)``.

    Raises:
        InputError: they differ.
    """
    kind = Mapping if isinstance(expected, Mapping) else type(expected)
    if not isinstance(found, kind) or isinstance(found, bool) != isinstance(expected, bool):
        raise InputError(f"its {where} is {_shown(found)}, not {_shown(expected)}")
    if isinstance(expected, Mapping):
        other = found.keys() ^ expected.keys()
        if other:
            raise InputError(f"its {where} has other entries: {min(map(str, other))}")
        for name in expected:
            _check(f"{where}.{name}", found[name], expected[name], fits)
    elif isinstance(expected, list | tuple):
        if len(found) != len(expected):
            raise InputError(f"its {where} has {len(found)} entries, not {len(expected)}")
        for index, pair in enumerate(zip(found, expected, strict=True)):
            _check(f"{where}.{index}", *pair, fits)
    elif not fits(found, expected):
        raise InputError(f"its {where} is {_shown(found)}, not {_shown(expected)}")


def _is_equal(found: Any, expected: Any) -> bool:
    return found == expected


def _is_alike(found: Any, expected: Any) -> bool:
    if isinstance(expected, float):
        return math.isfinite(found) or math.isnan(expected)
    return not isinstance(expected, int) or 0 <= found <= _MANY


def _shown(value: Any) -> str:
    return str(value)[:50] if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


def _number(checkpoint: Mapping[str, Any], name: str, most: int) -> int:
    value = checkpoint.get(name)
    if type(value) is not int or not 0 <= value <= most:
        raise InputError(f"its {name} is {_shown(value)}, not a number up to {most}")
    return value
