"""A network whose layers read a context that its own ``forward`` knows nothing of."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .calls import a_tensor_of, compiling, full_precision
from .layers import HyperLayer

# of fewer, standardised ones would be signs, or nothing
_FEWEST_FEATURES = 3


class Conditional(nn.Module):
    """Called as the network is, plus ``context=``, from which one trunk makes the features that every layer reads.

    `hyperconv.conditional` makes one of any network; `hyperconv.bake` makes a plain network of it.

    A call runs on a shallow copy of the modules that lead to hyper layers, and that copy knows the context. What one
    call computes is therefore no other's: threads may call one network at once, and parts that are checkpointed within
    it (``use_reentrant=False``) see, in the backward pass, what they saw in the forward pass. Parameters, buffers,
    hooks and other layers are the network's own; attributes that a forward sets on the copied modules are lost, and
    their hooks are given the copies. Compiled (``fullgraph=True``) and exported, the network itself is run.

    Args:
        network: with hyper layers whose generators take contexts as wide as the trunk's last layer.
        context_dim: width of the context.
        hidden: widths of the trunk's layers, the last of them 3 or more.

    Raises:
        ValueError: too few features.

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
        self.context_dim = context_dim
        self.network = network
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((context_dim, *hidden)):
            layers += [nn.Linear(inputs, outputs, device=device, dtype=dtype), nn.LeakyReLU(0.1)]
        # kernels' initial scale is right for features of unit variance
        self.trunk = nn.Sequential(*layers, nn.LayerNorm(hidden[-1], elementwise_affine=False))

    def forward(self, *inputs: Any, context: Tensor | None = None, **named: Any) -> Any:
        """What the network makes of its inputs, told the context.

        Args:
            context: ``(context_dim,)`` for one network, ``(B, context_dim)`` for one a sample. None within
                `hyperconv.cached`, whose context it is then.

        Raises:
            ValueError: a context of another width, or that is missing; or one a sample, where the network reads a
                layer's ``weight`` instead of calling the layer. The message names that layer.
        """
        if context is None:
            if all(part.cached_kernel is None for part in self.modules() if isinstance(part, HyperLayer)):
                raise ValueError(f"the network needs a context of width {self.context_dim}, got none")
            return self.network(*inputs, **named)
        features = self.features(context)
        if compiling():
            return _told_while_it_runs(self.network, features, inputs, named)
        network = _told(self.network, features, {})
        try:
            return network(*inputs, **named)
        except AttributeError as error:
            for name, part in network.named_modules():
                if isinstance(part, HyperLayer) and part is error.obj and error.name in ("weight", "bias"):
                    raise ValueError(
                        f"layer {name}: the network reads its {error.name}, which differs from sample to sample; "
                        "give one context for the batch, or do not select the layer"
                    ) from error
            raise

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


def _told(module: nn.Module, context: Tensor, copies: dict[nn.Module, nn.Module]) -> nn.Module:
    """The module, its hyper layers told a context; itself where there are none within it."""
    if module not in copies:
        twin = module
        if isinstance(module, HyperLayer):
            twin = _shallow(module)
            twin.told = context
        else:
            children = {name: child and _told(child, context, copies) for name, child in module._modules.items()}
            if any(child is not module._modules[name] for name, child in children.items()):
                twin = _shallow(module)
                twin._modules = children
        copies[module] = twin
    return copies[module]


def _shallow(module: Any) -> Any:
    # copy.copy asks __getstate__, which parametrised modules refuse
    twin = object.__new__(type(module))
    vars(twin).update(vars(module))
    return twin


def _told_while_it_runs(network: nn.Module, context: Tensor, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """What is traced leaves no trace on the layers."""
    layers = [part for part in network.modules() if isinstance(part, HyperLayer)]
    for layer in layers:
        layer.told = context
    try:
        return network(*inputs, **named)
    finally:
        for layer in layers:
            layer.told = None
