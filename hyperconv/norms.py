"""Normalisation whose scale and shift are generated."""

from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import Tensor, nn

from .generators import Generator
from .layers import Bias, HyperLayer

Norm = (
    nn.BatchNorm1d
    | nn.BatchNorm2d
    | nn.BatchNorm3d
    | nn.InstanceNorm1d
    | nn.InstanceNorm2d
    | nn.InstanceNorm3d
    | nn.GroupNorm
    | nn.LayerNorm
)
NORMS: tuple[type[Norm], ...] = get_args(Norm)
# axes of the input after those of the scale; for others, all but batch and channels
_AXES_AFTER: dict[type[nn.Module], int] = {
    nn.LayerNorm: 0,
    nn.InstanceNorm1d: 1,
    nn.InstanceNorm2d: 2,
    nn.InstanceNorm3d: 3,
}


class HyperNorm(HyperLayer):
    """A normalisation layer whose scale and shift are generated: ``norm(input) * weight + bias``.

    With a context, conditional normalisation (de Vries et al., NeurIPS 2017, arXiv 1707.00683; for instance
    normalisation Dumoulin et al., ICLR 2017, arXiv 1610.07629).

    Args:
        norm: a layer of `NORMS` with scale. Its settings and running statistics are the new layer's, too.
        generator: given the scale's shape, and the shift's. Its kernels are the scale itself: `StartAtKernel` lets it
            begin at ones.
        bias: as in `HyperConv2d`.

    >>> from functools import partial
    >>> from hyperconv import DenseGenerator
    >>> layer = HyperNorm(nn.GroupNorm(2, 8), partial(DenseGenerator, context_dim=3))
    >>> layer(torch.randn(4, 8, 6, 6), torch.randn(4, 3)).shape
    torch.Size([4, 8, 6, 6])
    """

    def __init__(
        self,
        norm: Norm,
        generator: Callable[..., Generator],
        bias: Bias = "generated",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shape = tuple(norm.weight.shape)
        super().__init__(shape, shape, bias, generator, device, dtype)
        self.norm: Any = _norm_like(norm, affine=False)
        self.axes_after = _AXES_AFTER.get(type(self.norm))

    def _reset_bias(self) -> None:
        if self.bias_generator is None and self.bias is not None:
            nn.init.zeros_(self.bias)

    @property
    def eps(self) -> float:
        """That of the layer; ``nn.TransformerEncoderLayer`` reads it."""
        return self.norm.eps

    def plain(self) -> Norm:
        """The layer of ``torch.nn`` with the same settings and the very same statistics, its parameters on meta."""
        return _norm_like(self.norm, affine=True)

    def forward(self, input: Tensor, context: Tensor | None = None) -> Tensor:
        """Normalise, scale and shift.

        Args:
            input: whatever the layer of ``torch.nn`` takes.
            context: ``(context_dim,)`` for one scale and shift, ``(B, context_dim)`` for one a sample, or None.

        Raises:
            ValueError: a context that is missing, unwanted, of another width, or for another number of samples.
        """
        context = self._context(context)
        axes, after = len(self.generator.kernel_shape), self._axes_after(input)
        per_sample = self._check_batch(input, context, max(input.dim(), 1 + axes) if after == 0 else after + 2)
        normalised = self.norm(input)
        between = input.dim() - 1 - axes - after if per_sample else 0

        def spread(values: Tensor) -> Tensor:
            batch, own = values.shape[:-axes], values.shape[-axes:]
            return values.reshape(*batch, *[1] * between, *own, *[1] * after).to(normalised.dtype)

        scale, bias = spread(self._kernel(context)), self._bias(context)
        return normalised * scale if bias is None else torch.addcmul(spread(bias), normalised, scale)

    def _axes_after(self, input: Tensor) -> int:
        return input.dim() - 2 if self.axes_after is None else self.axes_after

    def _check_channels(self, input: Tensor) -> None:
        shape, end = self.generator.kernel_shape, input.dim() - self._axes_after(input)
        if tuple(input.shape[max(end - len(shape), 0) : end]) != shape:
            raise ValueError(f"a normalisation of {shape} got an input of shape {tuple(input.shape)}")

    def extra_repr(self) -> str:
        return f"bias={self._bias_kind()!r}"


def _norm_like(norm: Any, affine: bool) -> Any:
    """Another of the same kind, with the same settings and the very same statistics; its parameters are on meta."""
    kind: Any = next((kind for kind in type(norm).__mro__ if kind in NORMS), nn.SyncBatchNorm)
    settings = {name: getattr(norm, name) for name in kind.__constants__}
    settings["elementwise_affine" if kind is nn.LayerNorm else "affine"] = affine
    twin = kind(**settings, device="meta")
    twin._buffers = dict(norm._buffers)
    return twin.train(norm.training)
