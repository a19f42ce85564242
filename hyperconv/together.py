"""The kernels of a whole network generated together, instead of layer by layer."""

from collections import defaultdict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

from . import plan
from .generators import CoordinateMLP
from .generators.coordinate_mlp import features_together, within_features
from .layers import HyperLayer

_LAYER_BY_LAYER = ContextVar("generated layer by layer", default=False)


class GeneratedTogether(nn.Sequential):
    """``nn.Sequential`` that, when called, first runs the trunks of all its coordinate MLPs of one kind as one.

    Small kernels of one shape are mixed together, too. It computes what ``nn.Sequential`` computes, except that a
    generator whose layer a call does not reach gets gradients of zero instead of none. On a CPU, sixteen generators
    take about half of the time. Trunks are run together where they are plain ones: those with hooks, pruning,
    parametrisations, other layers or activations are called as ever, as all are within ``torch.utils.checkpoint``,
    under torch.compile, which fuses small operations anyway, and where there are no two of a kind.

    >>> import torch
    >>> from hyperconv import HyperConv2d
    >>> network = GeneratedTogether(HyperConv2d(3, 8, 5), HyperConv2d(8, 8, 5))
    >>> network(torch.zeros(1, 3, 16, 16)).shape
    torch.Size([1, 8, 8, 8])
    """

    def forward(self, input: Any) -> Tensor:
        if _LAYER_BY_LAYER.get() or not plan.runs_trunks_together():
            return super().forward(input)
        layers = (part for part in self.modules() if isinstance(part, HyperLayer) and part.cached_kernel is None)
        generators = {part for layer in layers for part in layer.generator.modules() if isinstance(part, CoordinateMLP)}
        kinds: dict[Hashable, list[CoordinateMLP]] = defaultdict(list)
        for generator in generators:
            kinds[generator.trunk_kind()].append(generator)
        kinds.pop(None, None)
        computed = {}
        for alike in kinds.values():
            if len(alike) > 1:
                computed.update(features_together(alike))
        with within_features(computed):
            return super().forward(input)


@contextmanager
def layer_by_layer() -> Iterator[None]:
    """Within the block, every layer generates its own kernel, so that what this costs can be counted."""
    token = _LAYER_BY_LAYER.set(True)
    try:
        yield
    finally:
        _LAYER_BY_LAYER.reset(token)


def plain_sequential(module: nn.Module) -> nn.Module:
    """The module with ``nn.Sequential`` in place of `GeneratedTogether`, for networks without generators."""

    twins: dict[nn.Module, nn.Module] = {}
    for path, part in list(module.named_modules(remove_duplicate=False)):
        if type(part) is GeneratedTogether and part not in twins:
            twins[part] = nn.Sequential()
            twins[part].__dict__ = part.__dict__
        if path and part in twins:
            module.set_submodule(path, twins[part])
    return twins.get(module, module)
