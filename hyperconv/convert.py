"""Ways in and out: any network's convolutions made hyper, and hyper ones made plain again."""

import copy
import inspect
import math
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.utils._pytree import tree_leaves, tree_map_only

from .calls import a_tensor_of
from .conditional import Conditional, places_in_plain_containers
from .generators import CoordinateMLP, DenseGenerator, Generator, StartAtKernel
from .layers import (
    CACHED,
    Bias,
    CachedKernel,
    HyperConv1d,
    HyperConv2d,
    HyperConv3d,
    HyperConvTranspose1d,
    HyperConvTranspose2d,
    HyperConvTranspose3d,
    HyperLayer,
    HyperLinear,
    hyper_layers,
)
from .norms import NORMS, HyperNorm
from .together import plain_sequential

if TYPE_CHECKING:
    pass

KeepFunction = bool | Literal["shared"]

_HYPER: dict[type[nn.Module], type[HyperLayer]] = {
    nn.Conv1d: HyperConv1d,
    nn.Conv2d: HyperConv2d,
    nn.Conv3d: HyperConv3d,
    nn.ConvTranspose1d: HyperConvTranspose1d,
    nn.ConvTranspose2d: HyperConvTranspose2d,
    nn.ConvTranspose3d: HyperConvTranspose3d,
    nn.Linear: HyperLinear,
    **dict.fromkeys(NORMS, HyperNorm),
}
_PLAIN = {hyper: plain for plain, hyper in _HYPER.items()}
# what a subclass may override and still compute and store what its kind does
_OF_NO_MATTER = {
    *vars(type("Empty", (), {})),
    *("__init__", "__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__", "__orig_bases__"),
    *("__firstlineno__", "__static_attributes__", "__constants__", "reset_parameters", "extra_repr", "__repr__"),
}
_COMPUTED_WEIGHT = (
    "take off what computes it first: torch.nn.utils.remove_weight_norm, remove_spectral_norm, prune.remove, or "
    "parametrize.remove_parametrizations"
)


def spatial_convolutions(name: str, layer: nn.Module) -> bool:
    """Whether a layer is a convolution whose kernel has more than one tap, and that `hyperize` can replace.

    False for what computes more than ``torch.nn``'s layer, or its weight anew (weight norm, pruning); a lazy layer
    counts, so that `hyperize` can ask for its first call.
    """
    return math.prod(getattr(layer, "kernel_size", ())) > 1 and all_layers(name, layer)


def all_layers(name: str, layer: nn.Module) -> bool:
    """Whether a layer is a convolution or a linear layer that `hyperize` can replace."""
    return _replaceable(layer, norms=False)


def norm_layers(name: str, layer: nn.Module) -> bool:
    """Whether a layer is a normalisation whose scale and shift `conditional` can generate."""
    return _replaceable(layer, norms=True)


def _replaceable(layer: nn.Module, norms: bool) -> bool:
    if isinstance(layer, NORMS) is not norms or not _is_offered(layer, norms):
        return False
    return isinstance(layer, LazyModuleMixin) or _obstacle(layer, _kind(layer, _HYPER)) is None


def hyperize(
    module: nn.Module,
    select: Callable[[str, nn.Module], bool] = spatial_convolutions,
    generator: Callable[..., Generator] = CoordinateMLP,
    keep_function: KeepFunction = False,
    inplace: bool = False,
    bias_generator: Callable[..., Generator] | None = None,
) -> nn.Module:
    """Replace layers of a network by ones with generated kernels.

    A layer that is used in several places stays one layer, and layers that share a weight share its generator. What
    was frozen stays frozen (``requires_grad``): the generator of a frozen weight, and a frozen bias. Hooks, the mode
    and attributes that were set on a layer go to the new one. After a change in place, handles still remove their
    hooks; those of a copy have no handles, as after ``copy.deepcopy``.

    Args:
        module: any network.
        select: given the name and the layer, for every ``nn.Conv*d``, ``nn.ConvTranspose*d`` and ``nn.Linear``
            (subclasses included), says whether to replace it; by default `spatial_convolutions`. Where there is a
            ``bias_generator``, ``nn.BatchNorm*d``, ``InstanceNorm*d``, ``GroupNorm`` and ``LayerNorm`` with a scale are
            offered, too.
        generator: for the new layers, as in `HyperConv2d`.
        keep_function: start at the kernels that the network has, frozen, so that the result computes what the network
            computed; what is then learned is the generated difference. ``"shared"``: adapters of a pretrained network,
            all of whose parameters are then frozen, and those of the given network instead of copies; what changes
            them in place changes both. Buffers are copied.
        inplace: change the network itself instead of a copy.
        bias_generator: for biases, and for the scale and shift of normalisation, which start at ones and zeros;
            by default they stay stored.

    Returns:
        The network; a new layer in its place if it is itself a layer that was selected.

    Raises:
        ValueError: a generator that cannot make one of the kernels; a selected layer that is not initialised, computes
            its weight, has state or overrides of its own, or shares its weight with what is not replaced; a network
            that cannot be copied. The message names the layer.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.Conv2d(8, 8, 1))
    >>> images = torch.randn(2, 3, 16, 16)
    >>> hyper = hyperize(net, keep_function=True)
    >>> type(hyper[0]).__name__, type(hyper[2]).__name__
    ('HyperConv2d', 'Conv2d')
    >>> torch.allclose(hyper(images), net(images), atol=1e-5)
    True
    """
    if keep_function not in (False, True, "shared"):
        raise ValueError(f'keep_function must be False, True or "shared", got {keep_function!r}')
    network = module if inplace else _copy(module, keep_parameters=keep_function == "shared")
    offered = [
        (name, layer) for name, layer in _outside(network) if _is_offered(layer, norms=bias_generator is not None)
    ]
    chosen = {layer: name for name, layer in offered if select(name, layer)}
    owners, places = _owners(network), places_in_plain_containers(network)
    generators: dict[nn.Parameter, Generator] = {}
    twins: dict[nn.Module, nn.Module] = {}
    layer: Any
    for layer, name in chosen.items():
        with _named(name, layer):
            if obstacle := _obstacle(layer, _kind(layer, _HYPER)):
                raise ValueError(f"{obstacle}; or do not select it")
            if layer in places:
                raise ValueError(places[layer])
            generated = ("weight", "bias") if bias_generator and layer.bias is not None else ("weight",)
            for kind in generated:
                if others := [place for owner, place in owners[getattr(layer, kind)] if owner not in chosen]:
                    raise ValueError(
                        f"its {kind} is also {', '.join(others)}, which is not replaced; select all or none"
                    )
            bias_is_shared = layer.bias is not None and len(owners[layer.bias]) > 1
            keep_bias = keep_function or bias_is_shared
            twins[layer] = _hyper_twin(layer, generator, bias_generator, generators, keep_function, bool(keep_bias))
    if keep_function == "shared":
        network.requires_grad_(False)
    return _replace(network, twins)


def conditional(
    network: nn.Module,
    context_dim: int,
    hidden: Sequence[int] = (32, 32, 16),
    select: Callable[[str, nn.Module], bool] = all_layers,
    generator: Callable[..., Generator] = DenseGenerator,
    keep_function: KeepFunction = False,
) -> Conditional:
    """Any network, told a context: kernels and biases of its layers become functions of it.

    One trunk turns the context into features, which the generators of all layers read. The result is called as the
    network is, plus ``context=``: ``(context_dim,)`` for one network for the batch, ``(B, context_dim)`` for one a
    sample. What is not generated stays as it was, running statistics among it. `bake` is the way back.

    Args:
        network: any; it is copied, except as ``keep_function`` says.
        context_dim: width of the context.
        hidden: widths of the trunk's layers.
        select: as in `hyperize`, normalisation offered, except with ``keep_function="shared"``; by default
            `all_layers`, which are all but that.
        generator: given the kernel's shape, ``context_dim`` (the trunk's last width), ``device`` and ``dtype``.
        keep_function: start at the weights that the network has, frozen, so that the result computes what the network
            computed whatever the context; what is then learned is the generated difference. ``"shared"``: adapters, as
            in `hyperize`, thin ones with a `LowRankGenerator` (Hu et al., LoRA, ICLR 2022, with generated factors).
            Biases then stay as they are, and only trunk and generators have parameters that learn.

    Raises:
        ValueError: as `hyperize`; or a network none of whose layers is selected, or whose own forward takes a
            ``context``; or hidden widths that are none, or end below 3.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 5), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1))
    >>> told = conditional(net, context_dim=2)
    >>> images = torch.randn(4, 3, 16, 16)
    >>> told(images, context=torch.tensor([0.5, 0.1])).shape, told(images, context=torch.randn(4, 2)).shape
    (torch.Size([4, 8, 12, 12]), torch.Size([4, 8, 12, 12]))
    >>> type(bake(told, torch.tensor([0.5, 0.1]))[0]).__name__
    'Conv2d'
    """
    if context_dim < 1 or not hidden or min(hidden) < 1:
        raise ValueError(f"context_dim and hidden widths must be 1 or more, got {context_dim} and {tuple(hidden)}")
    if "context" in inspect.signature(network.forward).parameters:
        raise ValueError(f"{type(network).__name__} takes a context of its own; make what it consists of conditional")
    of_features, of_biases = (partial(each, context_dim=hidden[-1]) for each in (generator, DenseGenerator))
    generate_biases = None if keep_function == "shared" else of_biases
    made = hyperize(network, select, of_features, keep_function, bias_generator=generate_biases)
    layers = [layer for _, layer in hyper_layers(made) if layer.generator.context_dim == hidden[-1]]
    if layers and not any(parameter.requires_grad for layer in layers for parameter in layer.generator.parameters()):
        raise ValueError(
            f"all that is selected in this {type(network).__name__} is frozen, so that nothing could learn; "
            'keep_function="shared" makes adapters of a frozen network'
        )
    if not layers:
        raise ValueError(f"no layer of this {type(network).__name__} is selected; nothing in it would know the context")
    first = a_tensor_of(layers[0].generator)
    return Conditional(made, context_dim, hidden, device=first.device, dtype=first.dtype.to_real())


def bake(module: nn.Module, context: Tensor | None = None, check: Any = None) -> nn.Module:
    """The same network with plain ``nn`` layers, their kernels generated once and for all.

    Layers that share a generator share the weight. A weight can learn where any parameter of its generator could.

    Args:
        module: any network with hyper layers.
        context: ``(context_dim,)``, for the generators that take one. The baked network is called without.
        check: an input or a tuple of inputs on which both networks are compared in evaluation mode. Outputs may be
            tensors or numbers in any structure; those that are not floating-point must be equal.

    Returns:
        A copy without generators, whose state dict has the keys of a network that was plain from the start.

    Raises:
        ValueError: a context that is missing or of another shape, a layer of a class that has methods or attributes of
            its own, or a network that cannot be copied. The message names the layer.
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
    if isinstance(module, Conditional):
        if context is None:
            raise ValueError("a conditional network is baked for a context, got none")
        with torch.no_grad():
            return bake(module.network, module.features(context), check)
    _refuse_conditional_parts(module)
    network = _copy(module)
    parameters: dict[Generator, nn.Parameter] = {}
    twins: dict[nn.Module, nn.Module] = {}
    for name, layer in _outside(network):
        if isinstance(layer, HyperLayer):
            with _named(name, layer):
                twins[layer] = _plain_twin(layer, context, parameters)
    baked = plain_sequential(_replace(network, twins))
    _keep_projections_from_quantisation(baked)
    if check is not None:
        _compare(module, baked, context, check if isinstance(check, tuple) else (check,))
    return baked


@contextmanager
def cached(module: nn.Module, context: Tensor | None = None) -> Iterator[nn.Module]:
    """For inference: within the ``with`` block, every kernel is generated once.

    Layers may then be called without a context, as whatever contains them does that was not written for one. Only the
    thread (or asyncio task) that entered the block is served from it: others may serve other contexts meanwhile.

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
    if isinstance(module, Conditional) and context is not None:
        with torch.no_grad():
            context = module.features(context)
    else:
        _refuse_conditional_parts(module)
    with CACHED.within({layer: CachedKernel(layer, context) for _, layer in hyper_layers(module)}):
        yield module


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
    old, new = layer.kernel_size, layer.per_axis("kernel_size", kernel_size, at_least=1)
    twin: Any = copy.deepcopy(layer)
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


def _refuse_conditional_parts(module: nn.Module) -> None:
    """Their layers do not read the context, but what their trunks make of it."""
    for name, part in module.named_modules():
        if isinstance(part, Conditional) and part is not module:
            raise ValueError(f"part {name} is conditional: bake or cache it by itself")


def _outside(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """All parts of a network but what hyper layers are made of."""
    inside = {part for _, layer in hyper_layers(module) for part in layer.modules() if part is not layer}
    return [(name, part) for name, part in module.named_modules() if part not in inside]


def _replace(module: nn.Module, twins: dict[nn.Module, nn.Module]) -> nn.Module:
    """The network with every layer that has a twin replaced by it, wherever it is used."""
    for layer, twin in twins.items():
        _take_over(twin, layer)
    for _, parent in _outside(module):
        # not named_children, which lists a shared child only once
        for name, child in parent._modules.items():
            parent._modules[name] = child and twins.get(child, child)
    return twins.get(module, module)


def _is_offered(layer: nn.Module, norms: bool) -> bool:
    """Whether `hyperize` asks its user about a layer."""
    if isinstance(layer, NORMS):
        return norms and layer.weight is not None
    return _kind(layer, _HYPER) is not None


def _take_over(twin: nn.Module, layer: nn.Module) -> None:
    """Mode, hooks and attributes that were set on the layer; the hooks' very dicts, which their handles refer to."""
    kind = _kind(layer, _HYPER | _PLAIN)
    set_outside = _names(layer) - _usual_names(kind) - set(dir(kind))
    vars(twin).update((name, each) for name, each in vars(layer).items() if name in set_outside or "_hook" in name)
    twin.training = layer.training
    hook: Any
    for hook in twin._load_state_dict_pre_hooks.values():
        if hook.with_module:
            hook.module = weakref.ref(twin)


def _copy(module: nn.Module, keep_parameters: bool = False) -> nn.Module:
    """A copy; its parameters others than the module's, but of the same memory where these are kept."""
    plain = [each for each in module.parameters() if keep_parameters and type(each) is nn.Parameter]
    try:
        return copy.deepcopy(module, {id(each): nn.Parameter(each.detach(), False) for each in plain})
    except RuntimeError as error:
        for name, part in module.named_modules():
            for attribute, each in (*vars(part).items(), *part.named_buffers(recurse=False)):
                if isinstance(each, Tensor) and not each.is_leaf:
                    raise ValueError(
                        f"layer {name or type(part).__name__}: torch cannot copy {attribute!r}, computed with a "
                        f"gradient; {_COMPUTED_WEIGHT}"
                    ) from error
        raise


@contextmanager
def _named(name: str, layer: nn.Module) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"layer {name or type(layer).__name__}: {error}") from error


def _owners(module: nn.Module) -> dict[nn.Parameter, list[tuple[nn.Module, str]]]:
    """The parts of a network that hold each parameter, and its name there."""
    owners: dict[nn.Parameter, list[tuple[nn.Module, str]]] = defaultdict(list)
    for path, part in module.named_modules():
        for name, parameter in part.named_parameters(recurse=False, remove_duplicate=False):
            owners[parameter].append((part, f"{path}.{name}".lstrip(".")))
    return owners


def _kind(layer: nn.Module, kinds: Iterable[type[nn.Module]]) -> Any:
    return next((kind for kind in type(layer).__mro__ if kind in kinds), None)


def _obstacle(layer: Any, kind: Any) -> str | None:
    """Why a layer cannot be replaced by one that computes what its kind computes, and what to do; None if it can."""
    if isinstance(layer, LazyModuleMixin):
        return "it is not initialised; call the network once first"
    weight = None if kind in _PLAIN else layer.weight
    if any(each is not None and type(each) is not nn.Parameter for each in (weight, layer.bias)):
        return f"its weight or bias is no plain parameter; {_COMPUTED_WEIGHT}"
    added = [each for each in type(layer).__mro__ if each not in kind.__mro__]
    own = _names(layer) - _usual_names(kind)
    if not added:
        # what only others read can go to the new layer; what the layer computes with cannot
        own = {name for name in own if name not in vars(layer) or callable(getattr(kind, name, None))}
    own |= {name for each in added for name in vars(each) if hasattr(kind, name)} - _OF_NO_MATTER
    return f"{type(layer).__name__} has {', '.join(sorted(own))} of its own; take a {kind.__name__}" if own else None


def _names(layer: nn.Module) -> set[str]:
    return {*vars(layer), *layer._parameters, *layer._buffers, *layer._modules}


@cache
def _usual_names(kind: type[nn.Module]) -> set[str]:
    if kind is HyperNorm:
        return _names(HyperNorm(nn.LayerNorm(1, device="meta"), DenseGenerator, bias=True, device="meta"))
    sizes = 2 if kind in (nn.Linear, HyperLinear, nn.GroupNorm) else 1 if kind in NORMS else 3
    return _names(kind(*[1] * sizes, device="meta"))


def _settings(layer: nn.Module) -> dict[str, Any]:
    if isinstance(layer, NORMS):
        return {"norm": layer}
    if isinstance(layer, (nn.Linear, HyperLinear)):
        return {"in_features": layer.in_features, "out_features": layer.out_features}
    names = ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"]
    if layer.transposed:
        names.append("output_padding")
    return {name: getattr(layer, name) for name in names}


def _hyper_twin(
    layer: Any,
    generator: Callable[..., Generator],
    bias_generator: Callable[..., Generator] | None,
    generators: dict[nn.Parameter, Generator],
    keep_kernel: KeepFunction,
    keep_bias: bool,
) -> HyperLayer:
    """A hyper layer for a plain one; ``generators`` holds those that were made, by the parameters they stand for."""
    is_norm = isinstance(layer, NORMS)
    # in the order in which a layer asks for them
    to_make = [(bias_generator if is_norm else generator, layer.weight), (bias_generator, layer.bias)]

    def generator_of(shape: tuple[int, ...], **factory: Any) -> Generator:
        make, stored = cast(Any, to_make.pop(0))
        if stored not in generators:
            made = make(shape, **factory)
            if keep_kernel:
                made = StartAtKernel(made, stored, frozen=True)
            elif is_norm:
                made = StartAtKernel(made, torch.full_like(stored, stored is layer.weight))
            learns = stored.requires_grad or keep_kernel == "shared"
            generators[stored] = made if learns else made.requires_grad_(False)
        return generators[stored]

    factory: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    hyper = _HYPER[_kind(layer, _HYPER)]
    bias: Bias = layer.bias is not None and ("generated" if bias_generator else True)
    twin = hyper(**_settings(layer), bias=bias, generator=generator_of, **factory)
    if bias == "generated":
        return twin
    if keep_bias:
        twin.bias = layer.bias
    elif twin.bias is not None:
        twin.bias.requires_grad_(layer.bias.requires_grad)
    return twin


@torch.no_grad()
def _plain_twin(layer: HyperLayer, context: Tensor | None, parameters: dict[Generator, nn.Parameter]) -> nn.Module:
    """A plain layer for a hyper one; ``parameters`` holds those that were made, by their generators."""
    kind = _kind(layer, _PLAIN)
    if kind is None:
        raise ValueError(f"there is no plain layer for a {type(layer).__name__}")
    if obstacle := _obstacle(layer, kind):
        raise ValueError(obstacle)

    def parameter_of(generator: Generator) -> nn.Parameter:
        if generator not in parameters:
            kernel = generator.eval()(None if generator.context_dim is None else context)
            learns = any(parameter.requires_grad for parameter in generator.parameters())
            kernel = kernel.detach().clone(memory_format=torch.contiguous_format)
            parameters[generator] = nn.Parameter(kernel, requires_grad=learns)
        return parameters[generator]

    bias = layer.bias if layer.bias_generator is None else parameter_of(layer.bias_generator)
    twin: Any
    if isinstance(layer, HyperNorm):
        twin = layer.plain()
    else:
        twin = _PLAIN[kind](**_settings(layer), bias=bias is not None, device="meta")
    twin.weight, twin.bias = parameter_of(layer.generator), bias
    return twin


def _keep_projections_from_quantisation(network: nn.Module) -> None:
    """Attention reads the weight of its output projection, which torch therefore never quantises dynamically."""
    for part in network.modules():
        if isinstance(part, nn.MultiheadAttention) and type(part.out_proj) is nn.Linear:
            part.out_proj.__class__ = NonDynamicallyQuantizableLinear


@torch.no_grad()
def _compare(module: nn.Module, baked: nn.Module, context: Tensor | None, inputs: tuple[Any, ...]) -> None:
    def outputs(network: nn.Module) -> list[Any]:
        # a network may work in place on what it is given
        return list(_leaves(network(*tree_map_only(Tensor, Tensor.clone, inputs))))

    module, baked = _copy(module).eval(), _copy(baked).eval()
    with cached(module, context):
        expected = outputs(module)
    actual = outputs(baked)
    if len(actual) != len(expected):
        raise RuntimeError(f"the baked network returns {len(actual)} outputs, the original {len(expected)}")
    for ours, theirs in zip(actual, expected, strict=True):
        if not isinstance(theirs, Tensor):
            if ours != theirs:
                raise RuntimeError(f"the baked network returns {ours!r} where the original returns {theirs!r}")
        elif not _agree(ours, theirs):
            worst = (ours.double() - theirs.double()).abs().max().item()
            raise RuntimeError(f"the baked network's outputs differ from the original's by up to {worst:.3g}")


def _leaves(output: Any) -> Iterator[Any]:
    for leaf in tree_leaves(output):
        if is_dataclass(leaf):
            yield from _leaves(vars(leaf))
        else:
            yield leaf


def _agree(ours: Tensor, theirs: Tensor) -> bool:
    if not (theirs.is_floating_point() or theirs.is_complex()):
        return torch.equal(ours, theirs)
    finite = theirs[theirs.isfinite()].abs()
    scale = max(finite.max().item(), 1e-6) if len(finite) else 1e-6
    return torch.allclose(ours, theirs, rtol=0, atol=1e-4 * scale, equal_nan=True)
