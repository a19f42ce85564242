"""A network whose layers read a context that its own ``forward`` knows nothing of."""

from collections.abc import Iterator, Sequence
from functools import partial
from types import MethodType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .calls import a_tensor_of, compiling, full_precision
from .generators.base import leaky_relu, perceptron
from .layers import CACHED, BatchError, HyperLayer, ReadPerSampleError

# of fewer, standardised ones would be signs, or nothing
_FEWEST_FEATURES = 3
# with these, torch's layers call the layers that they are made of, instead of reading their weights
_PAST_FAST_PATHS: dict[type[nn.Module], dict[str, Any]] = {
    nn.TransformerEncoder: {"use_nested_tensor": False},
    nn.TransformerEncoderLayer: {"activation_relu_or_gelu": 0},
}


class Conditional(nn.Module):
    """Called as the network is, plus ``context=``, from which one trunk makes the features that every layer reads.

    `hyperconv.conditional` makes one of any network; `hyperconv.bake` makes a plain network of it.

    A call runs on a shallow copy of the modules that lead to hyper layers, and that copy knows the context. What one
    call computes is therefore no other's: threads may call one network at once, and parts that are checkpointed within
    it (``use_reentrant=False``) see, in the backward pass, what they saw in the forward pass. Parameters, buffers,
    hooks and other layers are the network's own; attributes that a forward sets on the copied modules are lost, and
    their hooks are given the copies. Where there is a weight a sample, the copies of torch's attention and transformers
    call the layers whose weights they would have read. Compiled (``fullgraph=True``) and exported, the network itself
    is run.

    Args:
        network: with hyper layers whose generators take contexts as wide as the trunk's last layer.
        context_dim: width of the context.
        hidden: widths of the trunk's layers, the last of them 3 or more.

    Raises:
        ValueError: too few features; or a part with hyper layers that lies in a plain list, tuple, dict or set, or
            whose method was stored by another part, which a call would run without a context.

    Attributes:
        network: the network.
        trunk: from the context to the features, each of mean 0 and variance 1 over their width.
    """

    def __init__(
        self,
        network: nn.Module,
        context_dim: int,
        hidden: Sequence[int],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if hidden[-1] < _FEWEST_FEATURES:
            raise ValueError(
                f"the last hidden width must be {_FEWEST_FEATURES} or more, got {hidden[-1]}: features are standardised"
            )
        for part, place in places_in_plain_containers(network).items():
            if any(isinstance(each, HyperLayer) for each in part.modules()):
                name = next(name for name, each in network.named_modules() if each is part)
                raise ValueError(f"part {name}: {place}")
        self.context_dim = context_dim
        self.network = network
        self.trunk = perceptron((context_dim, *hidden), leaky_relu, device=device, dtype=dtype)
        # kernels' initial scale is right for features of unit variance
        self.trunk.append(nn.LayerNorm(hidden[-1], elementwise_affine=False))

    def forward(self, *inputs: Any, context: Tensor | None = None, **named: Any) -> Any:
        """What the network makes of its inputs, told the context.

        Args:
            context: ``(context_dim,)`` for one network, ``(B, context_dim)`` for one a sample. Within
                `hyperconv.cached`, the cached one, or None.

        Raises:
            ValueError: a context of another width, or that is missing; or one a sample, where the network reads a
                layer's ``weight`` instead of calling the layer, or calls it with other samples than its own. The
                message names that layer.
            RuntimeError: within `hyperconv.cached`, another context than that.
        """
        served = self._served_context()
        if served is None:
            if context is None:
                raise ValueError(f"the network needs a context of width {self.context_dim}, got none")
            features = self.features(context)
        else:
            if context is not None and not torch.equal(self.features(context), served):
                raise RuntimeError("called with another context than the kernels were cached for")
            features = served
        if features.dim() > 1:
            _refuse_batches_on_another_axis(self.network)
        if compiling():
            return _told_while_it_runs(self.network, features, inputs, named)
        network = _told(self.network, features, {})
        try:
            return network(*inputs, **named)
        except (ReadPerSampleError, BatchError) as error:
            for name, part in network.named_modules():
                if part is error.obj:
                    reason = str(error)
                    if isinstance(error, ReadPerSampleError):
                        reason = f"the network reads its {error.what}, which differs from sample to sample"
                    raise ValueError(
                        f"layer {name or type(part).__name__}: {reason}; give one context for the batch, or do not "
                        "select the layer"
                    ) from error
            raise

    def _served_context(self) -> Tensor | None:
        """What the layers of this network are served for in `hyperconv.cached`."""
        if not CACHED.within_any():
            return None
        kernels = (part.cached_kernel for part in self.modules() if isinstance(part, HyperLayer))
        return next((each.context for each in kernels if each is not None and each.context is not None), None)

    def features(self, context: Tensor) -> Tensor:
        """What the layers' generators take: ``(..., context_dim)`` to ``(..., hidden[-1])``."""
        if context.dim() not in (1, 2) or context.shape[-1] != self.context_dim:
            raise ValueError(
                f"the network takes a context ({self.context_dim},) or (B, {self.context_dim}), got "
                f"{tuple(context.shape)}"
            )
        # kernels may be rounded in mixed precision, but not what they are computed from
        with full_precision(self.trunk):
            return self.trunk(context.to(a_tensor_of(self.trunk).dtype))


def places_in_plain_containers(network: nn.Module) -> dict[nn.Module, str]:
    """The parts of a network that its modules hold otherwise, too, and what is wrong with that."""
    parts = set(network.modules())
    places: dict[nn.Module, str] = {}
    for path, part in network.named_modules():
        for attribute, value in vars(part).items():
            if attribute != "_modules":
                place = f"{path}.{attribute}".lstrip(".")
                places |= dict.fromkeys(
                    (each for each in _modules_within(value) if each in parts and each is not part),
                    f"it is also in {place}, where it cannot be replaced; call it by its name, or make that an "
                    "nn.ModuleList or ModuleDict",
                )
    return places


def _modules_within(value: Any) -> Iterator[nn.Module]:
    for leaf in tree_leaves(value):
        if isinstance(leaf, nn.Module):
            yield leaf
        elif isinstance(leaf, MethodType):
            yield from _modules_within(leaf.__self__)
        elif isinstance(leaf, partial):
            yield from _modules_within([leaf.func, leaf.args, leaf.keywords])
        elif isinstance(leaf, set | frozenset):
            yield from _modules_within(list(leaf))


def _told(module: nn.Module, context: Tensor, copies: dict[nn.Module, nn.Module]) -> nn.Module:
    """The module, its hyper layers told a context; itself where there are none within it.

    Parts that were compiled one by one run as they were before.
    """
    if module not in copies:
        twin = module
        if "_orig_mod" in module._modules:  # what torch.compile made of it alone calls the untold module
            twin = _told(module.get_submodule("_orig_mod"), context, copies)
        elif isinstance(module, HyperLayer):
            twin = _shallow(module)
            twin.told = context
            # no part of it: that would be found among the twin's modules
            vars(twin)["twin_of"] = module
        else:
            children = {name: child and _told(child, context, copies) for name, child in module._modules.items()}
            if any(child is not module._modules[name] for name, child in children.items()):
                twin = _shallow(module)
                twin._modules = children
                if context.dim() > 1:
                    _call_layers_instead_of_reading_them(twin)
        copies[module] = twin
    return copies[module]


def _refuse_batches_on_another_axis(network: nn.Module) -> None:
    """Those around attention, which go unnoticed where there are as many tokens as samples."""
    for name, part in network.named_modules():
        second = [each for each in part.children() if isinstance(each, nn.MultiheadAttention) and not each.batch_first]
        if second and any(isinstance(each, HyperLayer) for each in part.modules()):
            raise ValueError(
                f"{name or 'the network'}, {type(part).__name__}: the batch of its attention is not the first axis; "
                "for a context a sample, build it with batch_first=True"
            )


def _call_layers_instead_of_reading_them(twin: nn.Module) -> None:
    """What torch's attention computes of weights that it reads, of layers that have one a sample."""
    for kind, attributes in _PAST_FAST_PATHS.items():
        if isinstance(twin, kind):
            vars(twin).update(attributes)
    if type(twin) is nn.MultiheadAttention and isinstance(twin.out_proj, HyperLayer):
        twin.__class__ = _AttentionProjectedBySample


class _AttentionProjectedBySample(nn.MultiheadAttention):
    """Attention that reads an identity for its output projection, which is called afterwards."""

    def forward(self, query: Tensor, *inputs: Any, **named: Any) -> tuple[Tensor, Tensor | None]:
        projection: Any = self._modules["out_proj"]
        identity = torch.eye(self.embed_dim, device=query.device, dtype=a_tensor_of(projection).dtype)
        vars(self)["out_proj"] = SimpleNamespace(weight=identity, bias=identity.new_zeros(self.embed_dim))
        attended, weights = super().forward(query, *inputs, **named)
        if self.batch_first:
            return projection(attended), weights
        return projection(attended.transpose(0, 1)).transpose(0, 1), weights


def _shallow(module: Any) -> Any:
    # copy.copy asks __getstate__, which parametrised modules refuse
    twin = object.__new__(type(module))
    vars(twin).update(vars(module))
    # of a part that was compiled in place: it calls the untold module
    vars(twin)["_compiled_call_impl"] = None
    for name, value in vars(module).items():
        if isinstance(value, MethodType) and value.__self__ is module:
            vars(twin)[name] = MethodType(value.__func__, twin)
    return twin


def _told_while_it_runs(network: nn.Module, context: Tensor, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """What is traced leaves no trace on the layers."""
    if not compiling():  # torch.compile gave up on this frame, which runs as any other
        return _told(network, context, {})(*inputs, **named)
    layers = [part for part in network.modules() if isinstance(part, HyperLayer)]
    for layer in layers:
        layer.told = context
    try:
        return network(*inputs, **named)
    finally:
        for layer in layers:
            layer.told = None
