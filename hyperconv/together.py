"""The kernels of a whole network generated together, instead of layer by layer."""

from collections import defaultdict
from collections.abc import Hashable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from .generators import CoordinateMLP
from .generators.coordinate_mlp import run_together
from .layers import HyperLayer


class GeneratedTogether(nn.Sequential):
    """``nn.Sequential`` that, when called, first runs the trunks of all its coordinate MLPs of one kind as one.

    It computes what ``nn.Sequential`` computes. On a CPU, sixteen generators take about two thirds of the time; where
    there is nothing to run together, or torch.compile fuses small operations anyway, it is ``nn.Sequential``. Not for
    parts that are checkpointed (``torch.utils.checkpoint``): their second pass runs after the trunks are forgotten.

    >>> from hyperconv import HyperConv2d
    >>> network = GeneratedTogether(HyperConv2d(3, 8, 5), HyperConv2d(8, 8, 5))
    >>> network(torch.zeros(1, 3, 16, 16)).shape
    torch.Size([1, 8, 8, 8])
    """

    def forward(self, input: Any) -> Tensor:
        if torch.compiler.is_compiling():
            return super().forward(input)
        kinds: dict[Hashable, list[CoordinateMLP]] = defaultdict(list)
        for layer in self.modules():
            if isinstance(layer, HyperLayer) and layer.cache is None:
                for generator in layer.generator.modules():
                    if isinstance(generator, CoordinateMLP) and (kind := generator.alike()) is not None:
                        kinds[kind].append(generator)
        with ExitStack() as ready:
            for generators in kinds.values():
                if len(generators) > 1:
                    ready.enter_context(run_together(generators))
            return super().forward(input)
