"""What all generators keep to."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from operator import index
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..calls import a_tensor_of, full_precision, has_hooks
from .forms import Filters, Mixture, Product

Init = Literal["torch", "hyperfan-in", "hyperfan-out", "hyperfan"]
ContextCode = Literal["none", "magnitude-invariant"]
VARIANCE_EPS = 1e-5
_RIDGE = 0.03


class Generator(nn.Module):
    """Context in, kernel out.

    The contract:

    - a generator is built from the kernel's shape, ``(O, I/groups, *k)`` (or ``(O,)`` for a bias, where it can);
    - ``forward(context=None)`` returns such a kernel, or ``(B, *kernel_shape)`` for a context ``(B, context_dim)``;
    - ``context_dim`` is the width of the context, None for a generator that takes none;
    - at initialisation its kernels have standard deviation ``kernel_std``, given a context of unit variance;
    - the kernel is the same in training and in evaluation, unless an option's description says otherwise;
    - its state dict holds parameters only (again unless the option says otherwise).

    Args:
        kernel_shape: of the kernel to generate.
        context_dim: width of the context or None.
        init: the kernels' initial scale. ``torch``: that of ``nn.Conv*d``, variance ``1 / (3 fan_in)``;
            ``hyperfan-in``: ``2 / fan_in``, which keeps the variance of signals from one ReLU to the next;
            ``hyperfan-out``: ``2 / fan_out``, which keeps that of gradients; ``hyperfan``: the harmonic mean of the
            two (Chang et al., ICLR 2020, for kernels whose biases are not generated).
        encode_context: ``magnitude-invariant`` turns each context value in 0 ... 1 into a cosine and a sine, so that
            the input's norm, and with it the kernel's, does not change with the value (Ortiz et al., ICLR 2024).

    Raises:
        ValueError: a shape, width or option that makes no generator.
    """

    def __init__(
        self,
        kernel_shape: Sequence[int],
        context_dim: int | None = None,
        init: Init = "torch",
        encode_context: ContextCode = "none",
    ) -> None:
        super().__init__()
        self.kernel_shape = tuple(map(index, kernel_shape))
        if not self.kernel_shape or min(self.kernel_shape) < 1:
            raise ValueError(f"a kernel's shape is (O, I/groups, *k), all 1 or more; got {self.kernel_shape}")
        if context_dim is not None and context_dim < 1:
            raise ValueError(f"context_dim must be 1 or more, or None; got {context_dim}")
        if encode_context not in ("none", "magnitude-invariant"):
            raise ValueError(f"encode_context must be 'none' or 'magnitude-invariant', got {encode_context!r}")
        if encode_context != "none" and context_dim is None:
            raise ValueError(f"encode_context {encode_context!r} needs a context_dim")
        self.context_dim = context_dim
        self.encode_context = encode_context
        self.init = init
        self.kernel_std = _kernel_std(self.kernel_shape, init)

    @property
    def context_width(self) -> int:
        """Numbers that `generate` is given for each context."""
        width = self.context_dim or 0
        return 2 * width if self.encode_context == "magnitude-invariant" else width

    def reset_parameters(self) -> None:
        """Draw new parameters; kernels then have standard deviation ``kernel_std``."""
        raise NotImplementedError

    def generate(self, context: Tensor | None) -> Tensor:
        """The kernel from a checked and encoded context, ``(context_width,)``, ``(B, context_width)`` or None."""
        raise NotImplementedError

    def zero_output_(self) -> None:
        """Make all kernels zero, with parameters that can still learn."""
        raise NotImplementedError

    @property
    def factor_count(self) -> int | None:
        """The J of `factors`; None where the kernel is not linear in a few numbers."""
        return None

    def factors(self, context: Tensor | None) -> Mixture:
        """A kernel a sample as a mixture of J kernels, J being `factor_count`.

        An operator can then apply it to every sample without building B kernels.

        Args:
            context: one a sample, as `generate` takes it.
        """
        raise NotImplementedError

    @property
    def filter_count(self) -> int | None:
        """The F of `filters`; None where the O I kernels are not mixtures of a few filters."""
        return None

    def filters(self, context: Tensor | None) -> Filters:
        """The kernel as mixtures of F filters, F being `filter_count`.

        An operator can then apply F filters to every channel, and mix the results, without building O I kernels.

        Args:
            context: one for all samples, as `generate` takes it, or None.
        """
        raise NotImplementedError

    @property
    def product_rank(self) -> int | None:
        """The r of `product`; None where the kernel is no product of thin matrices."""
        return None

    def product(self, context: Tensor | None) -> Product:
        """The kernel, or one a sample, as a product of thin matrices, r being `product_rank`.

        An operator can then apply one factor after the other, without building any kernel.

        Args:
            context: as `generate` takes it.
        """
        raise NotImplementedError

    def parts(self, per_sample: bool) -> int | None:
        """How many parts kernels are mixed from: `mixture`'s, for a context a sample, or else `filter_mixture`'s.

        None where there are no parts, or where what is mixed from them might not be what a call makes: they do not know
        of a subclass whose `generate` or `forward` differs, nor of hooks (as of pruning), which only a call runs.
        """
        count, method = (self.factor_count, "factors") if per_sample else (self.filter_count, "filters")
        return None if count is None or not self._may_skip_calls(method) else count

    def thin_rank(self) -> int | None:
        """That of `product`; None where there is none, or where it might not be what a call makes, as in `parts`."""
        rank = self.product_rank
        return None if rank is None or not self._may_skip_calls("product") else rank

    def _may_skip_calls(self, method: str) -> bool:
        kind: Any = type(self)
        if not _is_no_older(kind, method) or "forward" in vars(self):
            return False
        return not any(map(has_hooks, self.modules()))

    def mixture(self, context: Tensor | None) -> Mixture:
        """What a call with a context a sample makes, not yet built.

        Raises:
            ValueError: a context that is missing, unwanted, or of another width.
        """
        with full_precision(self):
            return self.factors(self.checked(context))

    def filter_mixture(self, context: Tensor | None) -> Filters:
        """What a call with one context, or none, makes, not yet built.

        Raises:
            ValueError: a context that is missing, unwanted, or of another width.
        """
        with full_precision(self):
            return self.filters(self.checked(context))

    def thin_factors(self, context: Tensor | None) -> Product:
        """What a call makes, not yet built.

        Raises:
            ValueError: a context that is missing, unwanted, or of another width.
        """
        with full_precision(self):
            return self.product(self.checked(context))

    def forward(self, context: Tensor | None = None) -> Tensor:
        """The kernel, ``kernel_shape``; or ``(B, *kernel_shape)`` for a context ``(B, context_dim)``.

        Raises:
            ValueError: a context that is missing, unwanted, or of another width.
        """
        # a kernel is the network's weight: mixed precision may round it, but not what it is computed from
        with full_precision(self):
            return self.generate(self.checked(context))

    def checked(self, context: Tensor | None) -> Tensor | None:
        """The context as `generate` wants it."""
        name = type(self).__name__
        if self.context_dim is None:
            if context is not None:
                raise ValueError(f"{name} takes no context, got one of shape {tuple(context.shape)}")
            return None
        if context is None:
            raise ValueError(f"{name} needs a context of width {self.context_dim}, got none")
        if context.dim() not in (1, 2) or context.shape[-1] != self.context_dim:
            raise ValueError(
                f"{name} needs a context ({self.context_dim},) or (B, {self.context_dim}), got {tuple(context.shape)}"
            )
        context = context.to(a_tensor_of(self).dtype)
        return magnitude_invariant(context) if self.encode_context == "magnitude-invariant" else context

    def extra_repr(self) -> str:
        context = "" if self.context_dim is None else f", context_dim={self.context_dim}"
        return f"kernel_shape={self.kernel_shape}{context}"


def _is_no_older(kind: Any, method: str) -> bool:
    """Whether ``method`` is defined where `generate` and `forward` are, or in a subclass of that."""
    depths = {
        name: next(depth for depth, each in enumerate(kind.__mro__) if name in vars(each))
        for name in ("generate", "forward", method)
    }
    return depths[method] <= min(depths["generate"], depths["forward"])


class StartAtKernel(Generator):
    """A given kernel plus what a generator adds to it, which is nothing at first: theta_0 + Delta, Delta = 0.

    Args:
        generator: adds to the kernel; its output is set to zero.
        kernel: to start at, ``generator.kernel_shape``. It is a parameter.
        frozen: whether the kernel stays as it is and only the generator learns. It is then not copied, but shared.

    Raises:
        ValueError: a kernel of another shape.

    >>> from hyperconv import CoordinateMLP
    >>> start = torch.randn(8, 4, 3, 3)
    >>> torch.equal(StartAtKernel(CoordinateMLP((8, 4, 3, 3)), start)(), start)
    True
    """

    def __init__(self, generator: Generator, kernel: Tensor, frozen: bool = False) -> None:
        super().__init__(generator.kernel_shape, generator.context_dim, generator.init)
        if kernel.shape != torch.Size(self.kernel_shape):
            raise ValueError(f"a kernel {tuple(kernel.shape)} to start at, but {self.kernel_shape} is generated")
        self.generator = generator
        generator.zero_output_()
        start = kernel.detach()
        self.start = nn.Parameter(start if frozen else start.clone(), requires_grad=not frozen)

    def generate(self, context: Tensor | None) -> Tensor:
        return self.start + self.generator(context)

    @property
    def factor_count(self) -> int | None:
        inner = self.generator.parts(per_sample=True)
        return None if inner is None else inner + 1

    def factors(self, context: Tensor | None) -> Mixture:
        coefficients, basis = self.generator.mixture(context)
        return Mixture(with_constant(coefficients), torch.cat([basis, self.start.unsqueeze(0)]))

    @property
    def product_rank(self) -> int | None:
        return self.generator.thin_rank()

    def product(self, context: Tensor | None) -> Product:
        left, right, start = self.generator.thin_factors(context)
        return Product(left, right, self.start if start is None else self.start + start)

    def reset_parameters(self) -> None:
        """Draw the generator's parameters anew and set its output to zero; the start stays."""
        self.generator.reset_parameters()
        self.generator.zero_output_()

    def zero_output_(self) -> None:
        # not in place: a frozen one may be shared
        self.start.data = torch.zeros_like(self.start)
        self.generator.zero_output_()


def magnitude_invariant(context: Tensor) -> Tensor:
    """``(..., D)`` in 0 ... 1 to ``(..., 2 D)`` of constant norm: cosine and sine of a quarter turn.

    >>> magnitude_invariant(torch.tensor([0.0, 1.0])).round(decimals=3).abs().tolist()
    [1.0, 0.0, 0.0, 1.0]
    """
    angle = context * (math.pi / 2)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


def perceptron(
    widths: Sequence[int],
    activation: Callable[[], nn.Module],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Sequential:
    """Linear layers from each width to the next, an activation after each."""
    if dtype is not None and dtype.is_complex and len(widths) > 1:
        raise ValueError(f"hidden layers have real activations, not {dtype}; choose a real dtype, or none of them")
    if min(widths) < 1:
        raise ValueError(f"widths must be 1 or more, got {widths[0]} inputs and hidden widths {tuple(widths[1:])}")
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs, device=device, dtype=dtype), activation()]
    return nn.Sequential(*layers)


def leaky_relu(negative_slope: float = 0.1) -> nn.Module:
    """Not a plain ReLU: a generator that is given one vector only would be dead where that vector meets no unit."""
    return nn.LeakyReLU(negative_slope)


def reset_linear_layers(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()


def with_constant(columns: Tensor) -> Tensor:
    return torch.cat([columns, columns.new_ones(columns.shape[0], 1)], dim=1)


def at_least_single(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def decorrelation(centred: Tensor) -> Tensor:
    """The matrix ``(..., F, F)`` that mixes centred features ``(..., P, F)`` into ones that hardly correlate.

    Features of neighbouring taps, or of chunks, are much alike: a few directions hold nearly all of their variance, and
    what is mixed from them learns the others a hundred times more slowly. The ridge leaves the faintest of them faint.
    """
    # the factorisation knows no half precision
    wide = at_least_single(centred)
    covariance = wide.mT @ wide / wide.shape[-2]
    variances = covariance.diagonal(dim1=-2, dim2=-1)
    ridge = (_RIDGE * variances.mean(dim=-1, keepdim=True) + VARIANCE_EPS).expand(variances.shape)
    factor, _ = torch.linalg.cholesky_ex(covariance + torch.diag_embed(ridge))
    identity = torch.eye(wide.shape[-1], dtype=wide.dtype, device=wide.device)
    return torch.linalg.solve_triangular(factor, identity.expand(factor.shape), upper=False).mT.to(centred.dtype)


def _kernel_std(kernel_shape: tuple[int, ...], init: Init) -> float:
    taps = math.prod(kernel_shape[2:])
    fan_in, fan_out = math.prod(kernel_shape[1:]), kernel_shape[0] * taps
    variances: dict[str, float] = {
        "torch": 1 / (3 * fan_in),
        "hyperfan-in": 2 / fan_in,
        "hyperfan-out": 2 / fan_out,
        "hyperfan": 4 / (fan_in + fan_out),
    }
    if init not in variances:
        raise ValueError(f"init must be one of {', '.join(get_args(Init))}; got {init!r}")
    return math.sqrt(variances[init])
