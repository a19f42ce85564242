"""Ways in and out: any network's convolutions made hyper, hyper ones made plain again, and what they cost."""

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._pytree import tree_leaves

from .extras import needing
from .generators import CoordinateMLP, Generator, StartAtKernel
from .layers import (
    CachedKernel,
    HyperConv1d,
    HyperConv2d,
    HyperConv3d,
    HyperConvTranspose1d,
    HyperConvTranspose2d,
    HyperConvTranspose3d,
    HyperLayer,
    HyperLinear,
)
from .together import GeneratedTogether

if TYPE_CHECKING:
    import pandas as pd

_HYPER: dict[type[nn.Module], type[HyperLayer]] = {
    nn.Conv1d: HyperConv1d,
    nn.Conv2d: HyperConv2d,
    nn.Conv3d: HyperConv3d,
    nn.ConvTranspose1d: HyperConvTranspose1d,
    nn.ConvTranspose2d: HyperConvTranspose2d,
    nn.ConvTranspose3d: HyperConvTranspose3d,
    nn.Linear: HyperLinear,
}
_PLAIN = {hyper: plain for plain, hyper in _HYPER.items()}


def spatial_convolutions(name: str, layer: nn.Module) -> bool:
    """Whether a layer is a convolution whose kernel has more than one tap."""
    return not isinstance(layer, nn.Linear) and math.prod(layer.kernel_size) > 1


def hyperize(
    module: nn.Module,
    select: Callable[[str, nn.Module], bool] = spatial_convolutions,
    generator: Callable[..., Generator] = CoordinateMLP,
    keep_function: bool = False,
    inplace: bool = False,
) -> nn.Module:
    """Replace layers of a network by ones with generated kernels.

    Args:
        module: any network. A layer that is used in several places stays one layer.
        select: given a layer's name and the layer (``nn.Conv*d``, ``nn.ConvTranspose*d`` or ``nn.Linear``, or a
            subclass that computes the same), says whether to replace it; by default every convolution with more than
            one tap.
        generator: for the new layers, as in `HyperConv2d`.
        keep_function: start at the kernels that the network has, frozen, so that the result computes what the network
            computed; what is then learned is the generated difference.
        inplace: change the network itself instead of a copy.

    Returns:
        The network; a new layer in its place if it is itself a layer that was selected.

    Raises:
        ValueError: a generator that cannot make one of the kernels; the message names the layer.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.Conv2d(8, 8, 1))
    >>> images = torch.randn(2, 3, 16, 16)
    >>> hyper = hyperize(net, keep_function=True)
    >>> type(hyper[0]).__name__, type(hyper[2]).__name__
    ('HyperConv2d', 'Conv2d')
    >>> torch.allclose(hyper(images), net(images), atol=1e-5)
    True
    """

    def replacement(name: str, layer: nn.Module) -> nn.Module | None:
        if _plain_kind(layer) is None or not select(name, layer):
            return None
        try:
            return _hyper_twin(layer, generator, keep_function)
        except ValueError as error:
            raise ValueError(f"layer {name or type(layer).__name__}: {error}") from error

    return _replace(module if inplace else copy.deepcopy(module), replacement)


def bake(module: nn.Module, context: Tensor | None = None, check: Any = None) -> nn.Module:
    """The same network with plain ``nn`` layers, their kernels generated once and for all.

    Args:
        module: any network with hyper layers.
        context: ``(context_dim,)``, for the generators that take one. The baked network is called without.
        check: an input or a tuple of inputs on which both networks are compared in evaluation mode.

    Returns:
        A copy without generators, whose state dict has the keys of a network that was plain from the start.

    Raises:
        ValueError: a context that is missing or of another shape, or a layer of a class that computes something else.
        RuntimeError: the two networks differ on ``check`` by more than 1e-4 of the largest output.

    >>> net = nn.Sequential(HyperConv2d(3, 8, 5), nn.ReLU())
    >>> bake(net, check=torch.randn(2, 3, 16, 16))
    Sequential(
      (0): Conv2d(3, 8, kernel_size=(5, 5), stride=(1, 1))
      (1): ReLU()
    )
    """
    if context is not None and context.dim() != 1:
        raise ValueError(f"one network is baked for one context, (context_dim,); got {tuple(context.shape)}")

    def replacement(name: str, layer: nn.Module) -> nn.Module | None:
        return _plain_twin(layer, context) if isinstance(layer, HyperLayer) else None

    baked = _apart(_replace(copy.deepcopy(module), replacement))
    if check is not None:
        _compare(module, baked, context, check if isinstance(check, tuple) else (check,))
    return baked


@contextmanager
def cached(module: nn.Module, context: Tensor | None = None) -> Iterator[nn.Module]:
    """For inference: within the ``with`` block, every kernel is generated once.

    Layers may then be called without a context, as whatever contains them does that was not written for one.

    Args:
        module: any network with hyper layers, or such a layer.
        context: ``(context_dim,)`` or ``(B, context_dim)``, for the generators that take one.

    Raises:
        RuntimeError: within the block: gradients are enabled, or a generator or its context has changed (all changes
            but those that torch itself does not see: through ``.data``, or within inference mode).
        ValueError: a context that is missing or of another width.

    >>> layer = HyperConv2d(3, 8, 5)
    >>> with torch.inference_mode(), cached(layer):
    ...     layer(torch.zeros(1, 3, 8, 8)).shape
    torch.Size([1, 8, 4, 4])
    """
    before = [(layer, layer.cache) for _, layer in _hyper_layers(module)]
    try:
        for layer, _ in before:
            layer.cache = None
            layer.cache = CachedKernel(layer, context)
        yield module
    finally:
        for layer, cache in before:
            layer.cache = cache


def resize(layer: HyperLayer, kernel_size: int | tuple[int, ...]) -> HyperLayer:
    """A convolution with the same continuous kernel, sampled at another number of taps over the same extent.

    Kernels are multiplied by the ratio of the tap densities, so that responses to an image whose resolution changes
    alike keep their size (Romero et al., CKConv, ICLR 2022). Numeric padding that kept the image's size still does.

    Args:
        layer: a convolution whose generator is a `CoordinateMLP`.
        kernel_size: the new size.

    Raises:
        ValueError: another generator, whose kernel is no function of position; or padding that kept the image's size
            and cannot with the new one.

    >>> layer = HyperConv2d(1, 1, 5, padding=2)
    >>> resize(layer, 9).weight.shape, resize(layer, 9).padding
    (torch.Size([1, 1, 9, 9]), (4, 4))
    """
    if not isinstance(layer.generator, CoordinateMLP):
        raise ValueError(f"only a CoordinateMLP's kernel can be sampled anew, not a {type(layer.generator).__name__}'s")
    old, new = layer.kernel_size, layer._per_axis("kernel_size", kernel_size, at_least=1)
    twin = copy.deepcopy(layer)
    twin.kernel_size = new
    twin.generator = layer.generator.resized(new)
    if not isinstance(layer.padding, str):
        padding = []
        for amount, dilation, before, after in zip(layer.padding, layer.dilation, old, new, strict=True):
            keeps = 2 * amount == dilation * (before - 1)
            if keeps and dilation * (after - 1) % 2:
                raise ValueError(
                    f"padding {amount} keeps the size of an image with {before} taps; with {after} no number does, use "
                    "padding='same'"
                )
            padding.append(dilation * (after - 1) // 2 if keeps else amount)
        twin.padding = tuple(padding)
    return twin


def cost(module: nn.Module, *inputs: Any) -> "pd.DataFrame":
    """What the hyper layers of a network store and compute.

    Args:
        module: any network with hyper layers.
        inputs: for one call of it (in evaluation mode), to count the floating point operations of products and
            convolutions.

    Returns:
        A row a layer and their sum: ``stored`` (parameters of generators and biases; those that layers share count
        in each row, once in the sum), ``baked`` (parameters of the plain layer), and, with inputs, ``generate`` and
        ``apply`` (operations of the call).

    Warns:
        UserWarning: a generator that stores more than the kernel that it makes.

    >>> table = cost(nn.Sequential(HyperConv2d(8, 8, 5, bias=False)), torch.zeros(1, 8, 16, 16))
    >>> table.loc["0", ["stored", "baked"]].tolist()
    [1744, 1600]
    """
    with needing("experiments", "hyperconv.cost"):
        import pandas as pd

    layers = {name or type(layer).__name__: layer for name, layer in _hyper_layers(module)}
    table = pd.DataFrame(
        {"stored": map(_numbers, layers.values()), "baked": map(_baked_numbers, layers.values())}, index=list(layers)
    )
    if inputs:
        operations = _operations(module, inputs)
        table["generate"] = [generate for generate, _ in operations]
        table["apply"] = [whole - generate for generate, whole in operations]
    starts = [_numbers(layer) - _start_numbers(layer) for layer in layers.values()]
    larger = [name for name, own in zip(layers, starts, strict=True) if own > table.loc[name, "baked"]]
    if larger:
        warnings.warn(
            f"generators that store more than the kernels they make: {', '.join(larger)}; for a CoordinateMLP, choose "
            "a last hidden width below the number of taps",
            stacklevel=2,
        )
    total = table.sum()
    total["stored"] = sum(p.numel() for p in {p for layer in layers.values() for p in layer.parameters()})
    table.loc["sum"] = total
    return table


def _hyper_layers(module: nn.Module) -> list[tuple[str, HyperLayer]]:
    return [(name, layer) for name, layer in module.named_modules() if isinstance(layer, HyperLayer)]


@torch.no_grad()
def _operations(module: nn.Module, inputs: tuple[Any, ...]) -> list[tuple[int, int]]:
    """Operations to generate and in all, of every hyper layer, over all its calls in one call of the network."""
    from torch.utils.flop_counter import FlopCounterMode  # brings triton

    network = _apart(copy.deepcopy(module).eval())
    layers = [layer for _, layer in _hyper_layers(network)]
    generate, whole = dict.fromkeys(layers, 0), dict.fromkeys(layers, 0)
    running: list[HyperLayer] = []
    with FlopCounterMode(display=False) as counter:

        def count_generating(run: Callable[..., Any]) -> Callable[..., Any]:
            def counted(*arguments: Any) -> Any:
                before = counter.get_total_flops()
                made = run(*arguments)
                generate[running[-1]] += counter.get_total_flops() - before
                return made

            return counted

        for generator in {each for layer in layers for each in (layer.generator, layer.bias_generator) if each}:
            # a layer takes factors and filters only of a generator whose forward is the usual one
            usual = type(generator).forward is Generator.forward
            for way in ("generate", "factors", "filters") if usual else ("forward",):
                setattr(generator, way, count_generating(getattr(generator, way)))

        def begin(layer: HyperLayer, arguments: Any) -> None:
            running.append(layer)
            whole[layer] -= counter.get_total_flops()

        def end(layer: HyperLayer, arguments: Any, output: Any) -> None:
            whole[layer] += counter.get_total_flops()
            running.pop()

        for layer in layers:
            layer.register_forward_pre_hook(begin)
            layer.register_forward_hook(end)
        network(*inputs)
    return [(generate[layer], whole[layer]) for layer in layers]


def _apart(module: nn.Module) -> nn.Module:
    """With plain ``nn.Sequential`` in place of `GeneratedTogether`, which would generate outside of the layers."""
    for part in module.modules():
        if type(part) is GeneratedTogether:
            part.__class__ = nn.Sequential
    return module


def _replace(module: nn.Module, replacement: Callable[[str, nn.Module], nn.Module | None]) -> nn.Module:
    """The module with every layer replaced for which there is a replacement, each layer once wherever it is used.

    Nothing is replaced before all replacements are made, since making them may fail.
    """
    own = replacement("", module)
    if own is not None:
        return own
    inside = {part for _, layer in _hyper_layers(module) for part in layer.modules()}
    twins: dict[nn.Module, nn.Module] = {}
    parents = [(path, parent) for path, parent in module.named_modules() if parent not in inside]
    for path, parent in parents:
        for name, child in parent.named_children():
            if child not in twins:
                twins[child] = replacement(f"{path}.{name}".lstrip("."), child) or child
    for _, parent in parents:
        # not named_children, which lists a shared child only once
        for name, child in parent._modules.items():
            if child is not None:
                parent._modules[name] = twins[child]
    return module


def _plain_kind(layer: nn.Module) -> type[nn.Module] | None:
    """The kind of ``torch.nn`` layer that this one is, None if it computes anything else."""
    for kind in _HYPER:
        methods = ("forward", "_conv_forward")
        if isinstance(layer, kind) and all(getattr(type(layer), m, 0) is getattr(kind, m, 0) for m in methods):
            # weight and spectral norm, pruning: older ones recompute the weight in a hook before the call
            return None if is_parametrized(layer) or layer._forward_pre_hooks else kind
    return None


def _settings(layer: nn.Module) -> dict[str, Any]:
    if isinstance(layer, (nn.Linear, HyperLinear)):
        return {"in_features": layer.in_features, "out_features": layer.out_features}
    names = ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"]
    if layer.transposed:
        names.append("output_padding")
    return {name: getattr(layer, name) for name in names}


def _hyper_twin(layer: nn.Module, generator: Callable[..., Generator], keep_function: bool) -> HyperLayer:
    factory = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    hyper = _HYPER[_plain_kind(layer)]
    twin = hyper(**_settings(layer), bias=layer.bias is not None, generator=generator, **factory)
    if keep_function:
        twin.generator = StartAtKernel(twin.generator, layer.weight, frozen=True)
        if layer.bias is not None:
            with torch.no_grad():
                twin.bias.copy_(layer.bias)
    return _with_hooks(twin, layer).train(layer.training)


def _with_hooks(twin: nn.Module, layer: nn.Module) -> nn.Module:
    for hooks in ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks"):
        getattr(twin, hooks).update(getattr(layer, hooks))
    return twin


@torch.no_grad()
def _plain_twin(layer: HyperLayer, context: Tensor | None) -> nn.Module:
    kind = next((kind for kind in type(layer).__mro__ if kind in _PLAIN), None)
    if kind is None or type(layer).forward is not kind.forward:
        raise ValueError(f"{type(layer).__name__} computes something of its own; there is no plain layer for it")
    training = layer.training
    layer.eval()

    def generated(generator: Generator) -> Tensor:
        return generator(None if generator.context_dim is None else context)

    kernel = generated(layer.generator)
    bias = layer.bias if layer.bias_generator is None else generated(layer.bias_generator)
    factory = {"device": kernel.device, "dtype": kernel.dtype}
    twin = torch.nn.utils.skip_init(_PLAIN[kind], **_settings(layer), bias=bias is not None, **factory)
    twin.weight.copy_(kernel)
    if bias is not None:
        twin.bias.copy_(bias)
    return _with_hooks(twin, layer).train(training)


@torch.no_grad()
def _compare(module: nn.Module, baked: nn.Module, context: Tensor | None, inputs: tuple[Any, ...]) -> None:
    module, baked = copy.deepcopy(module).eval(), copy.deepcopy(baked).eval()
    with cached(module, context):
        expected = tree_leaves(module(*inputs))
    for ours, theirs in zip(tree_leaves(baked(*inputs)), expected, strict=True):
        worst = (ours - theirs).abs().max().item()
        if not worst <= 1e-4 * theirs.abs().max().clamp_min(1e-6).item():
            raise RuntimeError(f"the baked network's outputs differ from the original's by up to {worst:.3g}")


def _numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _start_numbers(layer: HyperLayer) -> int:
    """The kernel that a hyperized layer started at is no generator's."""
    return sum(each.start.numel() for each in layer.modules() if isinstance(each, StartAtKernel))


def _baked_numbers(layer: HyperLayer) -> int:
    bias = layer.bias is not None or layer.bias_generator is not None
    outputs = layer.out_features if isinstance(layer, HyperLinear) else layer.out_channels
    return math.prod(layer.generator.kernel_shape) + bias * outputs
