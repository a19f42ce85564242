"""Networks from the checkpoints that training leaves, whoever the files come from."""

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ..cli import from_stored
from ..errors import InputError
from ..training.checkpoints import check_tensors, read_checkpoint
from .declared import experiments
from .experiment import Experiment

# what a file may make: modules that are made and dropped on the way, and buffers that it does not hold
_SPARE_PARAMETERS = 1000
_LARGEST_BUFFERS = 1 << 22
_LONGEST_OPTION = 1000
_WRAPPERS = re.compile(r"(_orig_mod|module)\.")


class Trained(NamedTuple):
    """A trained network and what its checkpoint says of it.

    Attributes:
        network: in evaluation mode.
        options: of the experiment, or None where it has none.
        settings: what of them, and of how it was trained, is not the default, as results tell it.
        data: name of what it was trained on.
        recipe: fields of its `Recipe`.
        fold: None where the data do not come in folds.
        epoch: that it is of, counted from 0.
    """

    network: nn.Module
    experiment: str
    arm: str
    options: Any
    settings: str
    data: str
    recipe: Mapping[str, Any]
    seed: int | None
    fold: int | None
    epoch: int


def load_trained(path: str | Path, device: Any = "cpu") -> nn.Module:
    """The network of any experiment's checkpoint, in evaluation mode; see `trained`."""
    return trained(path, device).network


def trained(path: str | Path, device: Any = "cpu") -> Trained:
    """Read a ``best.ckpt`` or ``last.ckpt``, running none of the code that the file might hold.

    The network is made in memory only once the names and shapes of its tensors are known to be those of the file.

    Args:
        device: or a dictionary or function of storages' locations, as ``map_location`` of ``torch.load``.

    Raises:
        InputError: a file that is missing, damaged, unsafe, or of another network; a device that is not there.
    """
    checkpoint = read_checkpoint(path, device)
    described, weights = checkpoint.get("hyper_parameters"), checkpoint.get("state_dict")
    if not isinstance(described, Mapping) or not isinstance(weights, Mapping):
        raise InputError(f"{path} is no checkpoint of this package: no hyper_parameters or state_dict")
    try:
        found = _described(_as_now(described), checkpoint)
        experiment = experiments()[found.experiment].with_options(found.options)
        return found._replace(network=_made(experiment.arms[found.arm].network, weights).eval())
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} holds another architecture: {reason[:200]}") from error


def outline(network: Callable[[], nn.Module], most_parameters: int, most_numbers: int) -> nn.Module:
    """A network without memory for its tensors, on the meta device: for a look at their shapes.

    Raises:
        InputError: it has more parameters or buffers, or more numbers in them.
    """
    with torch.device("meta"), _at_most(most_parameters):
        made = network()
    numbers = sum(tensor.numel() for tensor in [*made.parameters(), *made.buffers()])
    if numbers > most_numbers:
        raise InputError(f"its settings ask for {numbers:,} numbers, more than {most_numbers:,}")
    return made


@contextmanager
def _at_most(parameters: int) -> Iterator[None]:
    """Let this thread make so many parameters, and no more."""
    thread, made = threading.get_ident(), 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal made
        made += threading.get_ident() == thread
        if made > parameters:
            raise InputError(f"its settings ask for more than {parameters:,} parameters")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _made(network: Callable[[], nn.Module], weights: Mapping[str, Tensor]) -> nn.Module:
    if not all(isinstance(name, str) and isinstance(weight, Tensor) for name, weight in weights.items()):
        raise InputError("its state_dict holds more than tensors by name")
    numbers = sum(weight.numel() for weight in weights.values())
    expected = outline(network, 2 * len(weights) + _SPARE_PARAMETERS, numbers + _LARGEST_BUFFERS).state_dict()
    weights = _of_network(weights, expected)
    check_tensors(weights, expected)
    with torch.random.fork_rng(devices=[]):
        made = network()
    made.load_state_dict(weights)
    return made.to(next(iter(weights.values())).device) if weights else made


def _of_network(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's weights, without what torch.compile and data-parallel wrappers put before their names."""
    for unwrapped in (lambda name: name, lambda name: _WRAPPERS.sub("", name)):
        named = {unwrapped(name).removeprefix("network."): weight for name, weight in weights.items()}
        if named.keys() == expected.keys():
            break
    return named


def _described(described: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> Trained:
    def value(name: str, *kinds: type) -> Any:
        given = described.get(name)
        if not isinstance(given, kinds) or isinstance(given, bool):
            raise InputError(f"its {name} is {given!r}")
        return given

    epoch = checkpoint.get("epoch")
    if type(epoch) is not int or epoch < 0:
        raise InputError(f"its epoch is {epoch!r}")
    name, arm = value("experiment", str), value("arm", str)
    experiment = experiments().get(name)
    if experiment is None:
        raise InputError(f"it is of the experiment {name}; there are {', '.join(experiments())}")
    options = _options(experiment, described.get("options"))
    adapted = experiment.with_options(options)
    if arm not in adapted.arms:
        raise InputError(f"it is of the arm {arm}; {name} has {', '.join(adapted.arms)}")
    return Trained(
        network=nn.Identity(),
        experiment=name,
        arm=arm,
        options=options,
        settings=value("settings", str, type(None)) or "",
        data=value("data", str),
        recipe=value("recipe", Mapping),
        seed=value("seed", int, type(None)),
        fold=value("fold", int, type(None)),
        epoch=epoch,
    )


def _options(experiment: Experiment, stored: Any) -> Any:
    if experiment.options is None:
        return None
    if not isinstance(stored, Mapping):
        raise InputError(f"its options are {stored!r}, not those of {experiment.name}")
    for each in (stored, *stored.values()):
        if isinstance(each, Mapping | Sequence) and len(each) > _LONGEST_OPTION:
            raise InputError(f"its options hold {len(each):,} values")
    return from_stored(experiment.options, dict(stored))


def _as_now(described: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a checkpoint says of itself, whichever version wrote it: the first ones knew digits only."""
    if "conv" not in described:
        return described
    options = {name: described.get(name) for name in ("conv", "kernel_size", "hidden", "norm")}
    return {**described, "experiment": "digits", "arm": described["conv"], "options": {**options, "recipe": "fast"}}
