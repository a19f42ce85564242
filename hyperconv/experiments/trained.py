"""Networks from the checkpoints that training leaves, whoever the files come from."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..cli import from_stored
from ..errors import InputError
from ..training.checkpoints import read_checkpoint
from ..weights import made_for
from ..weights import outline as outline
from .declared import experiments
from .experiment import Experiment
from .settings import plain

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
        return found._replace(network=made_for(weights, experiment.arms[found.arm].network, _of_network).eval())
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} holds another architecture: {reason[:200]}") from error


def _of_network(weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The network's weights, without what torch.compile and data-parallel wrappers put before their names."""
    expected = network.state_dict()
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
    options = stored_options(experiment, described.get("options"))
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


def options_of(experiment: Experiment, changed: Mapping[str, Any]) -> Any:
    """The experiment's options, by default but for what a file of anybody's says.

    Raises:
        InputError: it says what is no option.
    """
    if experiment.options is None:
        if changed:
            raise InputError(f"{experiment.name} has no options, got {min(map(str, changed))}")
        return None
    return stored_options(experiment, {**plain(experiment.options()), **changed})


def stored_options(experiment: Experiment, stored: Any) -> Any:
    """The experiment's options as a file of anybody's holds them.

    Raises:
        InputError: they are none.
    """
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
