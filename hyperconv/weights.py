"""Networks made for the weights that a file holds, whoever it comes from."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from .errors import InputError

# what a file may make: modules that are made and dropped on the way, and buffers that it does not hold
_SPARE_PARAMETERS = 1000
_LARGEST_BUFFERS = 1 << 22


def made_for(
    weights: Mapping[str, Tensor],
    network: Callable[[], nn.Module],
    named: Callable[[Mapping[str, Tensor], nn.Module], dict[str, Tensor]],
) -> nn.Module:
    """The network with these weights, made in memory only once their names and shapes are known to be its own.

    Args:
        named: the weights by the network's names, of the file's and a network of the same names on the meta device.

    Raises:
        InputError: the weights are of another network.
    """
    if not all(isinstance(name, str) and isinstance(weight, Tensor) for name, weight in weights.items()):
        raise InputError("its state_dict holds more than tensors by name")
    numbers = sum(weight.numel() for weight in weights.values())
    sketch = outline(network, 2 * len(weights) + _SPARE_PARAMETERS, numbers + _LARGEST_BUFFERS)
    weights = named(weights, sketch)
    check_tensors(weights, sketch.state_dict())
    with torch.random.fork_rng(devices=[]):
        made = network()
    made.load_state_dict(weights)
    return made.to(next(iter(weights.values())).device) if weights else made


def outline(network: Callable[[], nn.Module], most_parameters: int, most_numbers: int) -> nn.Module:
    """A network without memory for its tensors, on the meta device: for a look at their shapes.

    Raises:
        InputError: it has more parameters or buffers, or more numbers in them.
    """
    with _at_most(most_parameters):
        try:
            with torch.device("meta"):
                made = network()
        except NotImplementedError:  # its sizes are computed with tensors, as a RegNet's are
            try:
                with _ParametersOnMeta():
                    made = network()
            except NotImplementedError as error:
                raise InputError(f"its settings make no network: {error}") from error
    numbers = sum(tensor.numel() for tensor in [*made.parameters(), *made.buffers()])
    if numbers > most_numbers:
        raise InputError(f"its settings ask for {numbers:,} numbers, more than {most_numbers:,}")
    return made


class _ParametersOnMeta(TorchFunctionMode):
    """Tensors that are to be filled have no memory; others are as ever."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        where = {"device": "meta"} if function is torch.empty else {}
        return function(*arguments, **{**(named or {}), **where})


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


def check_tensors(found: Any, expected: Mapping[str, Tensor]) -> None:
    """
    Raises:
        InputError: what was found are not tensors of the expected names, shapes and types.
    """
    if not isinstance(found, Mapping):
        raise InputError("its tensors are no mapping")
    for name, tensor in expected.items():
        if name not in found:
            raise InputError(f"it lacks {name}")
        _check_tensor(name, found[name], tensor)
    extra = found.keys() - expected.keys()
    if extra:
        raise InputError(f"it has {min(map(str, extra))} too many")


def _check_tensor(name: str, found: Any, expected: Tensor) -> None:
    if not isinstance(found, Tensor):
        raise InputError(f"its {name} is a {type(found).__name__}")
    if found.layout != torch.strided or found.is_meta:
        raise InputError(f"its {name} holds no numbers side by side")
    if (found.shape, found.dtype) != (expected.shape, expected.dtype):
        raise InputError(f"its {name} is {_kind(found)}, not {_kind(expected)}")


def _kind(tensor: Tensor) -> str:
    return f"{'x'.join(map(str, tensor.shape)) or 'one number'} of {tensor.dtype}".replace("torch.", "")
