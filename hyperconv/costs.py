"""What hyper layers store and compute."""

import copy
import math
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .conditional import Conditional
from .extras import needing
from .generators import Generator, StartAtKernel
from .layers import HyperLayer, hyper_layers
from .together import layer_by_layer

if TYPE_CHECKING:
    import pandas as pd


def cost(module: nn.Module, *inputs: Any, **named: Any) -> "pd.DataFrame":
    """What the hyper layers of a network store and compute.

    Args:
        module: any network with hyper layers.
        inputs: for one call of it (in evaluation mode), to count the floating point operations of products and
            convolutions.
        named: likewise, as ``context=`` of a conditional network.

    Returns:
        A row a layer, one for a conditional network's trunk, and their sum: ``stored`` (parameters of generators and
        biases; those that layers share count in each row, once in the sum), ``learned`` (those of them that are not
        frozen), ``baked`` (parameters of the plain layer), and, with inputs, ``generate`` and ``apply`` (operations of
        the call) and ``memory`` (bytes of the kernels that the call makes, or of what it makes instead of them).

    Raises:
        ImportError: pandas, of whose tables this is one, is not installed.

    Warns:
        UserWarning: a generator that stores more than the kernel that it makes.

    >>> from hyperconv import HyperConv2d
    >>> table = cost(nn.Sequential(HyperConv2d(8, 8, 5, bias=False)), torch.zeros(1, 8, 16, 16))
    >>> table.loc["0", ["stored", "baked"]].tolist()
    [1744, 1600]
    """
    with needing("experiments", "hyperconv.cost"):
        import pandas as pd

    layers = {name or type(layer).__name__: layer for name, layer in hyper_layers(module)}
    parts: dict[str, nn.Module] = {**layers}
    if isinstance(module, Conditional):
        parts = {"trunk": module.trunk, **parts}
    baked = [_baked_numbers(part) if isinstance(part, HyperLayer) else 0 for part in parts.values()]
    numbers = {"stored": map(_numbers, parts.values()), "learned": map(_learned, parts.values()), "baked": baked}
    table = pd.DataFrame(numbers, index=list(parts))
    if inputs or named:
        operations = _operations(module, inputs, named)
        for column in ("generate", "apply", "memory"):
            table[column] = [each[column] for each in operations]
    starts = [_numbers(layer) - _start_numbers(layer) for layer in layers.values()]
    larger = [name for name, own in zip(layers, starts, strict=True) if own > table.loc[name, "baked"]]
    if larger:
        warnings.warn(
            f"generators that store more than the kernels they make: {', '.join(larger)}; for a CoordinateMLP, choose "
            "a last hidden width below the number of taps",
            stacklevel=2,
        )
    total = table.sum()
    everything = nn.ModuleList(parts.values())
    total["stored"], total["learned"] = _numbers(everything), _learned(everything)
    table.loc["sum"] = total
    return table


@torch.no_grad()
def _operations(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> list[Counter[str]]:
    """What the trunk and every hyper layer do, over all their calls in one call of the network."""
    from torch.utils.flop_counter import FlopCounterMode  # brings triton

    network = copy.deepcopy(module).eval()
    layers = [layer for _, layer in hyper_layers(network)]
    parts: list[nn.Module] = [network.trunk, *layers] if isinstance(network, Conditional) else [*layers]
    counts: dict[nn.Module, Counter[str]] = {part: Counter() for part in parts}
    running: list[nn.Module] = []
    with FlopCounterMode(display=False) as counter:

        def count_generating(run: Callable[..., Any], owner: HyperLayer) -> Callable[..., Any]:
            def counted(*arguments: Any) -> Any:
                before = counter.get_total_flops()
                made = run(*arguments)
                # whoever reads a weight does not call the layer
                part, operations = running[-1] if running else owner, counter.get_total_flops() - before
                computed = [each for each in tree_leaves(made) if type(each) is Tensor]
                counts[part].update(
                    generate=operations,
                    apply=-operations if running else 0,
                    memory=sum(each.nbytes for each in computed),
                )
                return made

            return counted

        owners = {each: layer for layer in layers for each in (layer.generator, layer.bias_generator) if each}
        for generator, owner in owners.items():
            # a layer takes factors and filters only of a generator whose forward is the usual one
            usual = type(generator).forward is Generator.forward
            for way in ("generate", "factors", "filters", "product") if usual else ("forward",):
                setattr(generator, way, count_generating(getattr(generator, way), owner))

        # not the module that a hook is given: within a conditional network, it is a copy
        def begin(part: nn.Module, *_: Any) -> None:
            running.append(part)
            counts[part]["apply"] -= counter.get_total_flops()

        def end(part: nn.Module, *_: Any) -> None:
            counts[part]["apply"] += counter.get_total_flops()
            running.pop()

        for part in parts:
            part.register_forward_pre_hook(partial(begin, part))
            part.register_forward_hook(partial(end, part))
        with layer_by_layer():
            network(*inputs, **named)
    if isinstance(network, Conditional):
        of_trunk = counts[network.trunk]
        of_trunk["generate"], of_trunk["apply"] = of_trunk["apply"], 0
    return list(counts.values())


def _numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _learned(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def _start_numbers(layer: HyperLayer) -> int:
    """The kernel that a hyperized layer started at is no generator's."""
    return sum(each.start.numel() for each in layer.modules() if isinstance(each, StartAtKernel))


def _baked_numbers(layer: HyperLayer) -> int:
    made = [each.kernel_shape for each in (layer.generator, layer.bias_generator) if each is not None]
    stored = 0 if layer.bias_generator is not None or layer.bias is None else layer.bias.numel()
    return sum(map(math.prod, made)) + stored
