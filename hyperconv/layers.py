"""Layers whose weight is computed instead of stored: ``torch.nn``'s signatures plus ``generator=``."""

import math
import sys
from collections.abc import Callable, Sequence
from operator import index
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import functional, plan
from .calls import PerCall, hooks_of
from .coordinates import Sizes, per_axis
from .generators import CoordinateMLP, DenseGenerator, Generator
from .plan import Way

Bias = bool | Literal["generated"]
_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class CachedKernel:
    """A layer's kernel and bias, generated once, for as long as the generators do not change.

    Attributes:
        check: called with a layer and a context, raises RuntimeError if what is cached is not what it would generate.

    Raises:
        ValueError: a context that is missing or of another width.
    """

    @torch.no_grad()
    def __init__(self, layer: "HyperLayer", context: Tensor | None) -> None:
        self.context = None if layer.generator.context_dim is None else context
        self.kernel = layer.generator(self.context)
        self.bias = None if layer.bias_generator is None else layer.bias_generator(self.context)
        self._made_from = self._sources(layer)
        # an address identifies what lies there only while that exists
        modules = _generator_modules(layer)
        hooks = [hook for module in modules for hook in hooks_of(module)]
        self._alive = [*_tensors(layer), self.context, *modules, *hooks]
        # where nothing is compiled, what keeps torch.compile away would take seconds to import
        compiles = "torch._dynamo" in sys.modules
        self.check = torch.compiler.disable(self._check) if compiles else self._check

    def _sources(self, layer: "HyperLayer") -> list[object]:
        modules = list(map(_what_runs, _generator_modules(layer)))
        return [*modules, *map(_identity, _tensors(layer)), _identity(self.context)]

    def _check(self, layer: "HyperLayer", context: Tensor | None) -> None:
        """Raise RuntimeError if what is cached is not what the layer would generate now."""
        if torch.is_grad_enabled():
            raise RuntimeError("cached kernels have no gradients; call the network within torch.no_grad()")
        if self._sources(layer) != self._made_from:
            raise RuntimeError("a generator or its context has changed since its kernel was cached")
        if context is not None and context is not self.context:
            raise RuntimeError("called with another context than the kernels were cached for")


CACHED: PerCall[CachedKernel] = PerCall("cached kernels")


def _generator_modules(layer: "HyperLayer") -> list[nn.Module]:
    generators = [each for each in (layer.generator, layer.bias_generator) if each is not None]
    return [part for generator in generators for part in generator.modules()]


def _tensors(layer: "HyperLayer") -> list[Tensor]:
    generators = [each for each in (layer.generator, layer.bias_generator) if each is not None]
    return [tensor for each in generators for tensor in (*each.parameters(), *each.buffers())]


def _what_runs(module: nn.Module) -> tuple[object, ...]:
    return id(module), module.training, *map(id, hooks_of(module))


def _identity(tensor: Tensor | None) -> tuple[int, int, int] | None:
    """Which tensor, where, and how often it was changed in place (in inference mode, torch does not count)."""
    if tensor is None:
        return None
    return id(tensor), tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


class BatchError(ValueError):
    """A layer with a context a sample was called with other samples than those.

    Attributes:
        obj: the layer.
    """

    def __init__(self, layer: nn.Module, message: str) -> None:
        super().__init__(message)
        self.obj = layer


class ReadPerSampleError(ValueError):
    """A weight or bias was read that differs from sample to sample.

    It is no AttributeError, which ``getattr`` with a default would take for a layer that has none.

    Attributes:
        obj: the layer.
        what: ``weight`` or ``bias``.
    """

    def __init__(self, layer: nn.Module, what: str) -> None:
        super().__init__(f"the {what} of this {type(layer).__name__} differs from sample to sample")
        self.obj = layer
        self.what = what


class HyperLayer(nn.Module):
    """What all layers share: a generator for the weight, and a bias that is stored, generated or absent.

    Attributes:
        generator: computes ``weight``.
        bias_generator: computes the bias from the same context, where ``bias="generated"``; else None.
        told: the context of calls that give none; `hyperconv.conditional` sets it.
        twin_of: the layer that this one is a copy of, for one call of `hyperconv.conditional`.
        bias: the stored one; a generated one is there where ``weight`` is, else None.
    """

    told: Tensor | None = None
    twin_of: "HyperLayer | None" = None

    def __init__(
        self,
        weight_shape: tuple[int, ...],
        bias_shape: tuple[int, ...],
        bias: Bias,
        generator: Callable[..., Generator],
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.generator = generator(weight_shape, **factory)
        if tuple(self.generator.kernel_shape) != tuple(weight_shape):
            raise ValueError(
                f"the generator makes kernels {tuple(self.generator.kernel_shape)}, this layer needs {weight_shape}"
            )
        self.bias_generator: Generator | None = None
        if bias == "generated":
            self.bias_generator = self._make_bias_generator(generator, bias_shape, factory)
        elif bias:
            self.bias: Any = nn.Parameter(torch.empty(bias_shape, **factory))
        else:
            self.register_parameter("bias", None)
        self._reset_bias()

    def _make_bias_generator(
        self, generator: Callable[..., Generator], shape: tuple[int, ...], factory: dict[str, Any]
    ) -> Generator:
        try:
            made = generator(shape, **factory)
        except ValueError as error:
            size = math.prod(shape)
            raise ValueError(
                f"{type(self.generator).__name__} cannot generate a bias of {size} numbers: {error}"
            ) from error
        if made.context_dim != self.generator.context_dim:
            widths = [
                "no context" if each.context_dim is None else f"contexts of width {each.context_dim}"
                for each in (self.generator, made)
            ]
            raise ValueError(f"the weight's generator takes {widths[0]}, the bias' {widths[1]}")
        made.kernel_std = self._bias_std()
        made.reset_parameters()
        return made

    def _bias_std(self) -> float:
        """That of ``torch.nn``'s bias, ``1 / sqrt(3 fan_in)``."""
        return (3 * math.prod(self.generator.kernel_shape[1:])) ** -0.5

    def reset_parameters(self) -> None:
        """Draw new parameters for generators and bias, at the scale of ``torch.nn``'s layer."""
        self.generator.reset_parameters()
        if self.bias_generator is not None:
            self.bias_generator.reset_parameters()
        self._reset_bias()

    def _reset_bias(self) -> None:
        if self.bias_generator is None and self.bias is not None:
            bound = 3**0.5 * self._bias_std()
            nn.init.uniform_(self.bias, -bound, bound)

    @property
    def weight(self) -> Tensor:
        """The generated kernel, in the shape of ``torch.nn``'s weight; computed at each access, differentiable.

        Within `hyperconv.cached`, the cached one.

        Raises:
            AttributeError: a generator that needs a context; ask ``layer.generator(context)`` instead.
        """
        return self._weight()

    def _weight(self) -> Tensor:
        if self.generator.context_dim is not None and self._known_context("weight") is None:
            raise AttributeError(
                f"the weight of this {type(self).__name__} depends on a context of width "
                f"{self.generator.context_dim}: ask layer.generator(context)",
                name="weight",
                obj=self,
            )
        return self._kernel(self._context(None))

    def __getattr__(self, name: str) -> Any:
        # where a property raises AttributeError, torch says that there is no such property
        if name == "weight":
            return self._weight()
        if name == "bias" and self.bias_generator is not None:
            if self.generator.context_dim is not None and self._known_context("bias") is None:
                return None
            return self._bias(self._context(None))
        return super().__getattr__(name)

    def _known_context(self, what: str) -> Tensor | None:
        """The one context that the layer was told, or is cached for."""
        cached = self.cached_kernel
        context = self.told if cached is None else cached.context
        if context is not None and context.dim() > 1:
            raise ReadPerSampleError(self, what)
        return context

    @property
    def cached_kernel(self) -> CachedKernel | None:
        """What `hyperconv.cached` has made for the thread that asks."""
        return CACHED.get(self.twin_of or self)

    def _context(self, context: Tensor | None) -> Tensor | None:
        """That of the call, or what the layer was told."""
        return self.told if context is None and self.generator.context_dim is not None else context

    def _kernel(self, context: Tensor | None) -> Tensor:
        cached = self.cached_kernel
        if cached is None:
            return self.generator(context)
        cached.check(self, context)
        return cached.kernel

    def _parts(self, per_sample: bool) -> int | None:
        """How many parts the kernels of a call are mixed from, if they need not be built."""
        if self.cached_kernel is not None or not isinstance(self.generator, Generator):
            return None
        return self.generator.parts(per_sample)

    def _applies_factors(self, groups: int = 1) -> bool:
        """Whether the kernel of a call, a product of thin factors, is not built."""
        if self.cached_kernel is not None or not isinstance(self.generator, Generator):
            return False
        return plan.factors_pay(self.generator.thin_rank(), self.generator.kernel_shape, groups)

    def _bias(self, context: Tensor | None) -> Tensor | None:
        if self.bias_generator is None:
            return self.bias
        cached = self.cached_kernel
        return self.bias_generator(context) if cached is None else cached.bias

    def _bias_kind(self) -> Bias:
        return "generated" if self.bias_generator is not None else self.bias is not None

    def _check_channels(self, input: Tensor) -> None:
        """Raise ValueError for an input with other channels than the layer's."""
        raise NotImplementedError

    def _check_batch(self, input: Tensor, context: Tensor | None, batched_rank: int) -> bool:
        """Whether there is a kernel a sample."""
        self._check_channels(input)
        cached = self.cached_kernel
        if context is None and cached is not None:
            context = cached.context
        if context is None or context.dim() < 2:
            return False
        if input.dim() != batched_rank:
            raise BatchError(
                self, f"a context a sample, {tuple(context.shape)}, needs a batch of inputs, got {tuple(input.shape)}"
            )
        if context.shape[0] != input.shape[0]:
            raise BatchError(self, f"{context.shape[0]} contexts for {input.shape[0]} samples")
        return True


def hyper_layers(module: nn.Module) -> list[tuple[str, HyperLayer]]:
    """Those of a network, by name."""
    return [(name, layer) for name, layer in module.named_modules() if isinstance(layer, HyperLayer)]


class _HyperConvNd(HyperLayer):
    """What the convolutions of every dimension share, transposed ones included."""

    dims: ClassVar[int]
    transposed: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes,
        padding: str | Sizes,
        dilation: Sizes,
        groups: int,
        bias: Bias,
        padding_mode: str,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        generator: Callable[..., Generator],
    ) -> None:
        in_channels, out_channels, groups = map(index, (in_channels, out_channels, groups))
        if in_channels < 1 or out_channels < 1:
            raise ValueError(f"channels must be 1 or more, got {in_channels} in, {out_channels} out")
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(f"groups {groups} do not divide {in_channels} input and {out_channels} output channels")
        if padding_mode not in _PADDING_MODES:
            raise ValueError(f"padding_mode must be one of {', '.join(_PADDING_MODES)}; got {padding_mode!r}")
        kernel_size = self.per_axis("kernel_size", kernel_size, at_least=1)
        sides = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        super().__init__((sides[0], sides[1] // groups, *kernel_size), (out_channels,), bias, generator, device, dtype)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = self.per_axis("stride", stride, at_least=1)
        self.dilation = self.per_axis("dilation", dilation, at_least=1)
        self.groups = groups
        self.padding_mode = padding_mode
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"padding must be a number, 'same' or 'valid'; got {padding!r}")
            if padding == "same" and set(self.stride) != {1}:
                raise ValueError(f"padding 'same' needs stride 1, got {self.stride}")
            self.padding: Any = padding
        else:
            self.padding = self.per_axis("padding", padding, at_least=0)

    def per_axis(self, name: str, value: Sizes, at_least: int) -> tuple[int, ...]:
        """``value`` as a number an axis.

        Raises:
            ValueError: numbers for other axes, or below ``at_least``; the message calls them ``name``.
        """
        values = tuple(map(index, per_axis(value, self.dims)))
        if len(values) != self.dims or min(values) < at_least:
            raise ValueError(f"{name} must be {self.dims} numbers of {at_least} or more, got {value}")
        return values

    def _check_channels(self, input: Tensor) -> None:
        if input.dim() not in (self.dims + 1, self.dims + 2) or input.shape[-1 - self.dims] != self.in_channels:
            raise ValueError(
                f"a layer of {self.in_channels} input channels and {self.dims} dimensions got an input of shape "
                f"{tuple(input.shape)}"
            )

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, "
            f"bias={self._bias_kind()!r}, padding_mode={self.padding_mode}"
        )


class _HyperConv(_HyperConvNd):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: str | Sizes = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: Bias = True,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        generator: Callable[..., Generator] = CoordinateMLP,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
            generator,
        )

    def _edges(self) -> list[int]:
        """``F.pad``'s order (last axis first, before and after) for modes that the convolution itself cannot pad."""
        pads = []
        for axis in reversed(range(self.dims)):
            if self.padding == "same":
                total = self.dilation[axis] * (self.kernel_size[axis] - 1)
                pads += [total // 2, total - total // 2]
            else:
                pads += [0, 0] if self.padding == "valid" else [self.padding[axis]] * 2
        return pads

    def forward(self, input: Tensor, context: Tensor | None = None) -> Tensor:
        """Convolve ``(B, I, *S)`` or ``(I, *S)`` with the kernel generated from ``context``.

        Args:
            context: ``(context_dim,)`` for one kernel, ``(B, context_dim)`` for a kernel a sample, or None.

        Raises:
            ValueError: a context that is missing, unwanted, of another width, or for another number of samples.
        """
        context = self._context(context)
        per_sample = self._check_batch(input, context, self.dims + 2)
        padding: str | tuple[int, ...] = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._edges(), mode=self.padding_mode)
            padding = (0,) * self.dims
        bias, parts, kernel_shape = self._bias(context), self._parts(per_sample), self.generator.kernel_shape
        geometry: Any = (self.stride, padding, self.dilation, self.groups)
        backend = plan.backend_per_sample(input, kernel_shape, self.groups)
        if input.dim() == self.dims + 2 and self._applies_factors(self.groups):
            factors = self.generator.thin_factors(context)
            return functional.product_convolution(input, *factors, bias, *geometry, backend=backend)
        if per_sample:
            positions = math.prod(input.shape[2:]) // math.prod(self.stride)
            if plan.way_per_sample(parts, input, positions) is Way.CONTRACTED:
                mixture = self.generator.mixture(context)
                return functional.contracted_convolution(input, *mixture, bias, *geometry)
            return functional.convolution_per_sample(input, self._kernel(context), bias, *geometry, backend=backend)
        way = plan.way_for_all(parts, input, kernel_shape, *geometry)
        if way in (Way.FILTERED, Way.FILTERED_IN_ONE_PRODUCT):
            filters = self.generator.filter_mixture(context)
            in_one_product = way is Way.FILTERED_IN_ONE_PRODUCT
            return functional.decomposed_convolution(
                input, *filters, bias, *geometry[:-1], in_one_product=in_one_product
            )
        if way is Way.PAIRED:
            return functional.paired_convolution(input, self._kernel(context), bias)
        return functional.convolution(input, self._kernel(context), bias, *geometry)


class _HyperConvTranspose(_HyperConvNd):
    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        bias: Bias = True,
        dilation: Sizes = 1,
        padding_mode: str = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        generator: Callable[..., Generator] = CoordinateMLP,
    ) -> None:
        if padding_mode != "zeros":
            raise ValueError(f"a transposed convolution pads with zeros only, got padding_mode {padding_mode!r}")
        if isinstance(padding, str):
            raise ValueError(f"a transposed convolution's padding is a number, got {padding!r}")
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
            generator,
        )
        self.output_padding = self.per_axis("output_padding", output_padding, at_least=0)

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None, context: Tensor | None = None) -> Tensor:
        """Convolve ``(B, I, *S)`` or ``(I, *S)``, transposed, with the kernel generated from ``context``.

        Args:
            output_size: as in ``nn.ConvTranspose*d``; it stands before the context, so name that: ``context=``.
            context: ``(context_dim,)`` for one kernel, ``(B, context_dim)`` for a kernel a sample, or None.

        Raises:
            ValueError: a context that is missing, unwanted, of another width, or for another number of samples; an
                output size out of reach.
        """
        context = self._context(context)
        per_sample = self._check_batch(input, context, self.dims + 2)
        output_padding = self.output_padding
        if output_size is not None:
            output_padding = self._output_padding_for(input, output_size)
        settings: Any = (self._bias(context), self.stride, self.padding, output_padding, self.groups, self.dilation)
        if input.dim() == self.dims + 2 and self._applies_factors(self.groups):
            return functional.product_transposed_convolution(input, *self.generator.thin_factors(context), *settings)
        if not per_sample:
            return functional.transposed_convolution(input, self._kernel(context), *settings)
        parts = self._parts(per_sample)
        if plan.way_per_sample(parts, input, math.prod(self._smallest(input))) is Way.CONTRACTED:
            mixture = self.generator.mixture(context)
            return functional.contracted_transposed_convolution(input, *mixture, *settings)
        return functional.transposed_convolution_per_sample(input, self._kernel(context), *settings)

    def _output_padding_for(self, input: Tensor, output_size: Sequence[int]) -> tuple[int, ...]:
        if isinstance(output_size, Tensor):
            raise ValueError(f"output_size is a tensor {tuple(output_size.shape)}; pass a context as context=")
        if len(output_size) not in (self.dims, self.dims + 2):
            raise ValueError(f"output_size must be {self.dims} numbers, got {tuple(output_size)}")
        wanted, smallest = tuple(output_size)[-self.dims :], self._smallest(input)
        extra = tuple(want - least for want, least in zip(wanted, smallest, strict=True))
        if any(not 0 <= more < stride for more, stride in zip(extra, self.stride, strict=True)):
            largest = [least + stride - 1 for least, stride in zip(smallest, self.stride, strict=True)]
            raise ValueError(f"output_size {wanted} is out of reach: it must lie between {smallest} and {largest}")
        return extra

    def _smallest(self, input: Tensor) -> list[int]:
        """The output's size without output padding."""
        return [
            (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1
            for size, stride, padding, dilation, kernel in zip(
                input.shape[-self.dims :], self.stride, self.padding, self.dilation, self.kernel_size, strict=True
            )
        ]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, output_padding={self.output_padding}"


class HyperConv1d(_HyperConv):
    """``nn.Conv1d`` with a generated kernel; see `HyperConv2d`.

    >>> HyperConv1d(3, 8, 5, padding="same")(torch.zeros(2, 3, 16)).shape
    torch.Size([2, 8, 16])
    """

    dims = 1


class HyperConv2d(_HyperConv):
    """``nn.Conv2d`` with a generated kernel.

    Args:
        generator: given the kernel's shape ``(O, I/groups, *k)``, ``device`` and ``dtype``, returns the module whose
            output is the kernel: a generator class or a ``functools.partial`` of one, as torchvision's
            ``norm_layer``. All other arguments are those of ``nn.Conv2d``.
        bias: True for a stored bias, ``"generated"`` for one that a second generator makes from the same context
            (where that kind of generator can), False for none.

    Raises:
        ValueError: arguments that make no convolution; the message names the numbers.

    >>> layer = HyperConv2d(3, 8, 5, padding="same")
    >>> layer(torch.zeros(2, 3, 28, 28)).shape, layer.weight.shape
    (torch.Size([2, 8, 28, 28]), torch.Size([8, 3, 5, 5]))

    A kernel a sample, from six numbers that describe it:

    >>> from functools import partial
    >>> layer = HyperConv2d(3, 8, 5, bias="generated", generator=partial(DenseGenerator, context_dim=6))
    >>> layer(torch.zeros(2, 3, 28, 28), torch.randn(2, 6)).shape
    torch.Size([2, 8, 24, 24])
    """

    dims = 2


class HyperConv3d(_HyperConv):
    """``nn.Conv3d`` with a generated kernel; see `HyperConv2d`.

    >>> HyperConv3d(1, 4, 3)(torch.zeros(2, 1, 8, 8, 8)).shape
    torch.Size([2, 4, 6, 6, 6])
    """

    dims = 3


class HyperConvTranspose1d(_HyperConvTranspose):
    """``nn.ConvTranspose1d`` with a generated kernel ``(I, O/groups, k)``; see `HyperConv2d`.

    >>> HyperConvTranspose1d(3, 8, 4, stride=2)(torch.zeros(2, 3, 5)).shape
    torch.Size([2, 8, 12])
    """

    dims = 1


class HyperConvTranspose2d(_HyperConvTranspose):
    """``nn.ConvTranspose2d`` with a generated kernel ``(I, O/groups, *k)``; see `HyperConv2d`.

    >>> HyperConvTranspose2d(3, 8, 2, stride=2)(torch.zeros(2, 3, 5, 5)).shape
    torch.Size([2, 8, 10, 10])
    """

    dims = 2


class HyperConvTranspose3d(_HyperConvTranspose):
    """``nn.ConvTranspose3d`` with a generated kernel ``(I, O/groups, *k)``; see `HyperConv2d`.

    >>> HyperConvTranspose3d(1, 2, 2, stride=2)(torch.zeros(2, 1, 3, 3, 3)).shape
    torch.Size([2, 2, 6, 6, 6])
    """

    dims = 3


class HyperLinear(HyperLayer):
    """``nn.Linear`` with a generated weight; `HyperConv2d` says what ``generator`` and ``bias`` may be.

    The default generator makes the weight of a learned embedding; a `CoordinateMLP` has no axes to work on here.

    >>> from functools import partial
    >>> layer = HyperLinear(20, 30, generator=partial(DenseGenerator, context_dim=6))
    >>> layer(torch.zeros(2, 20), torch.randn(2, 6)).shape
    torch.Size([2, 30])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: Bias = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        generator: Callable[..., Generator] = DenseGenerator,
    ) -> None:
        in_features, out_features = index(in_features), index(out_features)
        if in_features < 1 or out_features < 1:
            raise ValueError(f"features must be 1 or more, got {in_features} in, {out_features} out")
        super().__init__((out_features, in_features), (out_features,), bias, generator, device, dtype)
        self.in_features = in_features
        self.out_features = out_features

    def forward(self, input: Tensor, context: Tensor | None = None) -> Tensor:
        """``(*, I)`` to ``(*, O)``, or ``(B, *, I)`` to ``(B, *, O)`` with a context ``(B, context_dim)``.

        Raises:
            ValueError: a context that is missing, unwanted, of another width, or for another number of samples.
        """
        context = self._context(context)
        per_sample = self._check_batch(input, context, max(input.dim(), 2))
        bias = self._bias(context)
        if self._applies_factors():
            return functional.product_linear(input, *self.generator.thin_factors(context), bias)
        if not per_sample:
            return F.linear(input, self._kernel(context), bias)
        parts = self._parts(per_sample)
        if plan.way_per_sample(parts, input, math.prod(input.shape[1:-1])) is Way.CONTRACTED:
            return functional.contracted_linear(input, *self.generator.mixture(context), bias)
        return functional.linear_per_sample(input, self._kernel(context), bias)

    def _check_channels(self, input: Tensor) -> None:
        if input.dim() == 0 or input.shape[-1] != self.in_features:
            raise ValueError(f"a layer of {self.in_features} features got an input of shape {tuple(input.shape)}")

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self._bias_kind()!r}"
