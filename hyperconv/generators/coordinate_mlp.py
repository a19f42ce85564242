"""A kernel as a function of its own coordinates."""

import copy
import math
import operator
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from ..calls import PerCall, compiling, full_precision, has_hooks
from ..coordinates import kernel_grid
from .base import (
    VARIANCE_EPS,
    ContextCode,
    Generator,
    Init,
    at_least_single,
    decorrelation,
    leaky_relu,
    perceptron,
    reset_linear_layers,
    with_constant,
)
from .dense import unit_contexts
from .forms import Filters

Norm = Literal["decorrelated", "stateless", "batchnorm", "none"]
Encoding = Literal["raw", "fourier", "siren"]
Conditioning = Literal["concat", "film"]
_FOURIER_WAVELENGTHS = (2, 4, 8, 16)
_SIREN_FREQUENCY = 30.0
_FEW_TAPS = 4
# multiplications; to mix a kernel of fewer costs more in calls than in arithmetic
_FEW_PRODUCTS = 2**21
# numbers; features that are copied for every output channel
_FEW_COPIED = 2**16


class CoordinateMLP(Generator):
    """A kernel as a function of its own coordinates (Ma et al., WACV 2022, arXiv 2105.10559).

    A trunk of small layers turns each tap's position into features, which all C_out x C_in kernels share; a linear
    head mixes them into one value a kernel. Every kernel is then standardised over its taps, and given a learned
    scale and mean, in units of ``kernel_std``, at first the standard deviation that ``nn.Conv*d`` would start with.

    Args:
        kernel_shape: ``(O, I/groups, *k)``, any number of spatial axes.
        hidden: widths of the trunk's layers. The parameters are ``(hidden[-1] + 2) O I`` and the trunk's:
            with ``hidden[-1] + 2`` above the number of taps, more than the kernel itself has.
        negative_slope: of the LeakyReLU after each hidden layer.
        norm: how a kernel is standardised over its taps.
            ``stateless``: by its own mean and variance, always. With a single tap there is nothing to
            standardise, and it means ``none``.
            ``decorrelated``: likewise, and the features that all kernels are mixed from are decorrelated over the
            taps before. The kernels that there are stay the same, but fine detail is learned about as fast as
            coarse: networks come out more accurate, and less robust to noise.
            ``batchnorm``: by running statistics in evaluation, as the first release on MNIST did
            (github.com/mkarmann/hyper-conv): the kernels then differ between training and evaluation.
            ``none``: not at all, as in the paper.
        encoding: of the coordinates. ``raw``: as they are, in taps from the centre; ``fourier``: beside them sines
            and cosines of wavelengths 2 to 16 taps along each axis (Tancik et al., NeurIPS 2020); ``siren``: sines in
            place of LeakyReLU, over coordinates in -1 ... 1 (Sitzmann et al., NeurIPS 2020; first layer bound 1 / d).
        context_dim: width of a context that the kernel depends on, or None.
        conditioning: ``concat``: the context stands beside every coordinate; ``film``: it scales and shifts every
            hidden layer (Perez et al., AAAI 2018).

    Raises:
        ValueError: a shape, width or option that makes no generator.

    >>> CoordinateMLP((8, 4, 5, 5))().shape
    torch.Size([8, 4, 5, 5])
    >>> CoordinateMLP((8, 4, 5, 5), context_dim=3)(torch.randn(2, 3)).shape
    torch.Size([2, 8, 4, 5, 5])
    """

    grid: Tensor

    def __init__(
        self,
        kernel_shape: Sequence[int],
        hidden: Sequence[int] = (16, 16, 16),
        negative_slope: float = 0.1,
        norm: Norm = "decorrelated",
        encoding: Encoding = "raw",
        context_dim: int | None = None,
        conditioning: Conditioning = "concat",
        init: Init = "torch",
        encode_context: ContextCode = "none",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(kernel_shape, context_dim, init, encode_context)
        if len(self.kernel_shape) < 3:
            raise ValueError(
                f"a kernel of coordinates has shape (O, I/groups, *k) with one axis or more in k, "
                f"got {self.kernel_shape}"
            )
        if dtype is not None and dtype.is_complex:
            raise ValueError(f"a CoordinateMLP makes real kernels, not {dtype}; a DenseGenerator can make complex ones")
        if not hidden or min(hidden) < 1:
            raise ValueError(f"hidden widths must be 1 or more, got {tuple(hidden)}")
        for name, value, choices in (
            ("norm", norm, Norm),
            ("encoding", encoding, Encoding),
            ("conditioning", conditioning, Conditioning),
        ):
            if value not in get_args(choices):
                raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}; got {value!r}")
        out_channels, in_channels, *kernel_size = self.kernel_shape
        taps = math.prod(kernel_size)
        if norm == "batchnorm" and taps == 1:
            raise ValueError("norm 'batchnorm' needs more than one tap to take statistics of; use 'stateless'")
        if conditioning == "film" and context_dim is None:
            raise ValueError("conditioning 'film' needs a context_dim")
        if norm == "batchnorm" and context_dim is not None:
            raise ValueError("norm 'batchnorm' would mix the statistics of all contexts; use 'stateless'")
        self.norm = "none" if taps == 1 else norm
        self.encoding = encoding
        self.conditioning = conditioning
        self.hidden = tuple(map(operator.index, hidden))
        self.negative_slope = negative_slope

        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        # the size at which statistics are taken, and the distance of the kernel's own taps; see `resized`
        self._reference_size = tuple(kernel_size)
        self._spacing = (1.0,) * len(kernel_size)
        self.register_buffer("grid", kernel_grid(kernel_size, **factory), persistent=False)
        self.register_load_state_dict_post_hook(_refill_grid)
        width = len(kernel_size)
        if encoding == "fourier":
            width *= 1 + 2 * len(_FOURIER_WAVELENGTHS)
        if context_dim is not None and conditioning == "concat":
            width += self.context_width
        self.trunk = perceptron(
            (width, *hidden), _Sine if encoding == "siren" else partial(leaky_relu, negative_slope), **factory
        )
        if context_dim is not None and conditioning == "film":
            self.film = nn.Linear(self.context_width, 2 * sum(hidden), **factory)
        # (O, features, I): its product with the features comes out as (O, taps, I), which is a kernel in
        # channels-last memory without a copy
        self.head = nn.Parameter(torch.empty(out_channels, hidden[-1], in_channels, **factory))
        self.scale = nn.Parameter(torch.empty(out_channels, 1, in_channels, **factory))
        self.mean = nn.Parameter(torch.empty(out_channels, 1, in_channels, **factory))
        if self.norm == "batchnorm":
            self.running_norm = nn.BatchNorm1d(out_channels * in_channels, affine=False, **factory)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new parameters; kernels then have mean 0 and standard deviation ``kernel_std``."""
        self.grid.copy_(self._taps())
        reset_linear_layers(self)
        if self.encoding == "siren":
            self._reset_siren()
        # standardised kernels do not depend on the head's scale, but it sets how fast the head learns
        nn.init.normal_(self.head).div_(self.head.shape[1] ** 0.5)
        nn.init.ones_(self.scale)
        nn.init.zeros_(self.mean)
        if self.norm == "none":
            self._reset_scale_and_mean()
        if self.norm == "batchnorm":
            self.running_norm.reset_running_stats()

    def _reset_scale_and_mean(self) -> None:
        """For kernels that nothing standardises.

        Features of neighbouring taps are alike, and most of all in what they have in common: a kernel would start
        with an offset, which adds up over its taps where a stored kernel's taps cancel.
        """
        features = self._features(self.grid, None if self.context_dim is None else unit_contexts(self)).flatten(0, -2)
        if len(self.grid) > 1:
            offset = torch.matmul(features.mean(dim=0), self.head).unsqueeze(1)
            features = features - features.mean(dim=0)
        else:
            offset = features.new_zeros(())
        gain = self.head.shape[1] ** 0.5 / features.square().sum(dim=1).mean().sqrt()
        self.scale.mul_(gain)
        self.mean.sub_(gain * offset)

    def _reset_siren(self) -> None:
        linear = [layer for layer in self.trunk if isinstance(layer, nn.Linear)]
        for number, layer in enumerate(linear):
            bound = 1 / layer.in_features if number == 0 else math.sqrt(6 / layer.in_features) / _SIREN_FREQUENCY
            nn.init.uniform_(layer.weight, -bound, bound)

    def zero_output_(self) -> None:
        nn.init.zeros_(self.scale)
        nn.init.zeros_(self.mean)

    def generate(self, context: Tensor | None) -> Tensor:
        """The kernel, ``(O, I/groups, *k)``, channels last in memory; or ``(B, O, I/groups, *k)``."""
        kernels = self._kernels(None, context)
        if len(self.grid) == 1:
            # in strides that are channels last too, torch takes it for that, and can crash in its own backward pass
            return kernels.flatten(-2).unflatten(-1, (-1, *self.kernel_shape[2:]))
        return kernels.unflatten(-2, self.kernel_shape[2:]).movedim(-1, -1 - len(self.kernel_shape[2:]))

    def sample(self, positions: Tensor, context: Tensor | None = None) -> Tensor:
        """The kernels as the continuous functions that they are.

        Args:
            positions: ``(P, d)``, in taps from the kernel's centre.
            context: ``(context_dim,)``, ``(B, context_dim)`` or None.

        Returns:
            ``(O, P, I)`` or ``(B, O, P, I)``. The statistics for standardising are those of the kernel's own taps, so
            that a position on a tap gives the tap's weight (with ``batchnorm`` in training mode: pass the taps
            themselves).
        """
        return self._kernels(positions, self.checked(context))

    def resized(self, kernel_size: Sequence[int]) -> "CoordinateMLP":
        """A copy whose kernels are the same functions over the same extent, sampled at ``kernel_size`` taps.

        They are multiplied by the ratio of the numbers of taps, old to new. A state dict does not hold the size at
        which a generator began: load it into one that was made and resized alike.

        Raises:
            ValueError: another number of axes, or a single tap.
        """
        old, new = self.kernel_shape[2:], tuple(kernel_size)
        if len(new) != len(old) or math.prod(new) < 2 or math.prod(old) < 2:
            raise ValueError(f"a kernel of {old} taps cannot be sampled at {new}")
        twin = copy.deepcopy(self)
        twin.kernel_shape = (*self.kernel_shape[:2], *new)
        twin.kernel_std = self.kernel_std * math.prod(old) / math.prod(new)
        twin._spacing = tuple(space * a / b for space, a, b in zip(self._spacing, old, new, strict=True))
        twin.grid = twin._taps().to(self.grid)
        return twin

    def _taps(self) -> Tensor:
        return kernel_grid(self.kernel_shape[2:]) * torch.tensor(self._spacing)

    def trunk_kind(self) -> Hashable | None:
        """Generators whose answer is the same have trunks that `features_together` may run as one; None: never so.

        Only plain layers are read instead of called: no subclass, no hook, no parametrisation, nothing replaced.
        """
        if type(self) is not CoordinateMLP or self.context_dim is not None:
            return None
        if self.norm not in ("decorrelated", "stateless") or self.kernel_shape[2:] != self._reference_size:
            return None
        activation: type[nn.Module] = _Sine if self.encoding == "siren" else nn.LeakyReLU
        layers = list(self.trunk) if type(self.trunk) is nn.Sequential else []
        plain = [nn.Linear, activation] * len(self.hidden)
        if [type(layer) for layer in layers] != plain or any(_runs_more(part) for part in (self.trunk, *layers)):
            return None
        slopes = [layer.negative_slope for layer in layers if isinstance(layer, nn.LeakyReLU)]
        weights = _linear_tensors(layers)
        if any(weight is None for weight in weights):
            return None
        shapes = [weight.shape for weight in weights]
        kinds = {(tensor.dtype, tensor.device) for tensor in (self.grid, *weights)}
        learned = [weight.requires_grad for weight in weights]
        return self.kernel_shape[2:], self.norm, self.encoding, *slopes, *shapes, *learned, frozenset(kinds)

    @property
    def filter_count(self) -> int | None:
        return None if self.norm == "batchnorm" else self.hidden[-1] + 1

    def filters(self, context: Tensor | None) -> Filters:
        features, gain = self._features_and_gain(None, context)
        filters = with_constant(features).mT.unflatten(-1, self.kernel_shape[2:])
        return Filters(filters, torch.cat([self.head * gain, self.mean * self.kernel_std], dim=1))

    def _kernels(self, positions: Tensor | None, context: Tensor | None) -> Tensor:
        """``(O, P, I)`` or ``(B, O, P, I)``; without positions at the kernel's own taps."""
        if self.norm == "batchnorm":
            raw = torch.matmul(self._features(positions, context), self.head).transpose(0, 1)
            standardized = self.running_norm(raw.flatten(1)).view_as(raw).transpose(0, 1)
            return (standardized * self.scale + self.mean) * self.kernel_std
        computed = self._computed(positions)
        if computed is not None and computed.kernels is not None:
            return computed.kernels.clone()  # which a hook may work in place on
        features, gain = self._features_and_gain(positions, context)
        offset = self.mean * self.kernel_std
        if features.dim() > 2:
            return torch.matmul(features.unsqueeze(-3), self.head) * gain + offset
        # matmul would copy the features for every output channel where bmm only strides over them
        return torch.baddbmm(offset, features.expand(len(self.head), -1, -1), self.head * gain)

    def _features_and_gain(self, positions: Tensor | None, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Features ``(P, F)``, and what to multiply each kernel by once the head has mixed them; or a batch of both.

        A kernel's variance over the taps is a quadratic form of its row of the head, so that the standardised head
        gives standardised kernels in one product, without a second pass over them.
        """
        if self.norm == "none":
            return self._features(positions, context), self.scale * self.kernel_std
        computed = self._computed(positions)
        if computed is not None:
            return computed.features, self._gain(computed.features, self.head, self.scale)
        features = self._features(positions, context)
        own = positions is None and self.kernel_shape[2:] == self._reference_size
        at_taps = features if own else self._features(kernel_grid(self._reference_size).to(self.grid), context)
        features, at_taps = self._normalized(features, at_taps)
        return features, self._gain(at_taps, self.head, self.scale)

    def _computed(self, positions: Tensor | None) -> "_Computed | None":
        computed = None if positions is not None or compiling() else _TOGETHER.get(self)
        return computed if computed is not None and computed.stands_for(self) else None

    def _gain(self, at_taps: Tensor, head: Tensor, scale: Tensor) -> Tensor:
        """What to multiply kernels by, from features at the taps, ``(P, F)``; or of a batch of features.

        Args:
            head: ``(O, F, I)``, or one for each of the batch; ``scale`` likewise.
        """
        unit = self.kernel_std**2
        # half precision cannot hold a variance in these units
        wide, head = at_least_single(at_taps), at_least_single(head)
        if wide.shape[-2] <= _FEW_TAPS:
            # what differs between few taps can be far smaller than the terms of the form, which would cancel
            variance = torch.matmul(wide.unsqueeze(-3), head).square().mean(dim=-2, keepdim=True) / unit
            return scale * (variance + VARIANCE_EPS / unit).rsqrt().to(scale.dtype)
        covariance = wide.mT @ wide / (wide.shape[-2] * unit)
        if covariance.dim() > 2:
            mixed = torch.matmul(covariance.unsqueeze(1), head)
        else:
            mixed = torch.bmm(covariance.expand(len(head), -1, -1), head)
        variance = (mixed * head).sum(dim=-2, keepdim=True).clamp_min(0)
        return scale * (variance + VARIANCE_EPS / unit).rsqrt().to(scale.dtype)

    def _normalized(self, features: Tensor, at_taps: Tensor) -> tuple[Tensor, Tensor]:
        """Features somewhere and at the taps, ``(..., P, F)``, centred over the taps and, if so asked, decorrelated."""
        at_grid = features is at_taps
        centre = at_taps.mean(dim=-2, keepdim=True)
        at_taps = at_taps - centre
        features = at_taps if at_grid else features - centre
        if self.norm == "decorrelated":
            mixing = decorrelation(at_taps)
            at_taps = at_taps @ mixing
            features = at_taps if at_grid else features @ mixing
        return features, at_taps

    def _features(self, positions: Tensor | None, context: Tensor | None) -> Tensor:
        """``(P, F)``, or ``(B, P, F)`` for a context a sample."""
        inputs = self._encoded(self.grid if positions is None else positions)
        if context is None:
            return self.trunk(inputs)
        leading = context.shape[:-1]
        if self.conditioning == "concat":
            beside = context.unsqueeze(-2).expand(*leading, len(inputs), -1)
            return self.trunk(torch.cat([inputs.expand(*leading, -1, -1), beside], dim=-1))
        features = inputs
        gains, shifts = (each.split(self.hidden, dim=-1) for each in self.film(context).unsqueeze(-2).chunk(2, dim=-1))
        for linear, activation, gain, shift in zip(self.trunk[::2], self.trunk[1::2], gains, shifts, strict=True):
            features = activation(linear(features) * (1 + gain) + shift)
        return features

    def _encoded(self, positions: Tensor) -> Tensor:
        if self.encoding == "raw":
            return positions
        if self.encoding == "siren":
            return positions / positions.new_tensor([max(size - 1, 1) / 2 for size in self._reference_size])
        angles = [positions * (2 * math.pi / wavelength) for wavelength in _FOURIER_WAVELENGTHS]
        return torch.cat([positions, *(wave for angle in angles for wave in (angle.sin(), angle.cos()))], dim=-1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "CoordinateMLP":
        made_on_meta = self.grid.is_meta
        super()._apply(fn, recurse)
        if made_on_meta and not self.grid.is_meta:
            # as by torch.nn.utils.skip_init, which leaves memory as it finds it
            self.grid = self._taps().to(self.grid)
        return self

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, norm={self.norm!r}"


def _refill_grid(generator: CoordinateMLP, incompatible_keys: object) -> None:
    """A state dict holds no grid: on a module that was made on the meta device, nothing else would fill it."""
    generator.grid = generator._taps().to(generator.head)


class _Sine(nn.Module):
    def forward(self, input: Tensor) -> Tensor:
        return torch.sin(_SIREN_FREQUENCY * input)


class _Computed(NamedTuple):
    """What was computed for one call: normalised features, kernels that are small; and what of."""

    features: Tensor
    kernels: Tensor | None
    weights: tuple[Tensor, ...]
    versions: tuple[int, ...]
    differentiable: bool

    def stands_for(self, generator: CoordinateMLP) -> bool:
        """Whether the generator would compute the same now, and keep the same for its backward pass."""
        if (torch.is_grad_enabled() and not self.differentiable) or _saved_tensors_are_hooked():
            return False
        weights = _made_from(generator)
        same = len(weights) == len(self.weights) and all(map(operator.is_, weights, self.weights))
        return same and _versions(weights) == self.versions


_TOGETHER: PerCall[_Computed] = PerCall("features of trunks that were run together")


def features_together(generators: Sequence[CoordinateMLP]) -> dict[nn.Module, _Computed]:
    """What `within_features` gives the generators: features, and small kernels, from few batched products.

    Sixteen small trunks one after the other cost more in calls than in arithmetic.

    Args:
        generators: whose `trunk_kind` is the same.
    """
    first = generators[0]
    with full_precision(first):
        features = first._encoded(first.grid).expand(len(generators), -1, -1)
        for linear in range(0, len(first.trunk), 2):
            layers: list[Any] = [generator.trunk[linear] for generator in generators]
            weights = torch.stack([layer.weight for layer in layers])
            biases = torch.stack([layer.bias for layer in layers])
            features = first.trunk[linear + 1](torch.baddbmm(biases.unsqueeze(1), features, weights.mT))
        features, _ = first._normalized(features, features)
        features_of = dict(zip(generators, features.unbind(), strict=True))
        kernels = _small_kernels(features_of)
    computed: dict[nn.Module, _Computed] = {}
    for generator, own in features_of.items():
        sources = _made_from(generator)
        computed[generator] = _Computed(
            own, kernels.get(generator), sources, _versions(sources), torch.is_grad_enabled()
        )
    return computed


def _small_kernels(features: Mapping[CoordinateMLP, Tensor]) -> dict[CoordinateMLP, Tensor]:
    """Those that are of one shape are mixed in one product."""
    kinds: dict[Hashable, list[CoordinateMLP]] = defaultdict(list)
    for generator in features:
        outputs, width, inputs = generator.head.shape
        copied = outputs * width * len(generator.grid)
        if copied <= _FEW_COPIED and copied * inputs <= _FEW_PRODUCTS:
            tensors = [
                (each.shape, each.dtype, each.device, each.requires_grad)
                for each in (generator.head, generator.scale, generator.mean)
            ]
            kinds[generator.kernel_shape, generator.kernel_std, *tensors].append(generator)
    kernels: dict[CoordinateMLP, Tensor] = {}
    for alike in kinds.values():
        own = torch.stack([features[generator] for generator in alike])
        head, scale, mean = (
            torch.stack([getattr(generator, name) for generator in alike]) for name in ("head", "scale", "mean")
        )
        mixing = (head * alike[0]._gain(own, head, scale)).flatten(0, 1)
        for_outputs = own.repeat_interleave(head.shape[1], dim=0)
        mixed = torch.baddbmm((mean * alike[0].kernel_std).flatten(0, 1), for_outputs, mixing)
        kernels.update(zip(alike, mixed.unflatten(0, head.shape[:2]).unbind(), strict=True))
    return kernels


def within_features(computed: dict[nn.Module, _Computed]) -> AbstractContextManager[None]:
    """Within the block, the thread that entered it takes the features that were computed."""
    return _TOGETHER.within(computed)


def _made_from(generator: CoordinateMLP) -> tuple[Tensor, ...]:
    return *_linear_tensors(generator.trunk), generator.head, generator.scale, generator.mean


def _linear_tensors(layers: Iterable[nn.Module]) -> list[Tensor]:
    return [tensor for layer in layers if isinstance(layer, nn.Linear) for tensor in (layer.weight, layer.bias)]


def _versions(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    """How often each was changed in place (in inference mode, torch does not count)."""
    return tuple([0 if tensor.is_inference() else tensor._version for tensor in tensors])


def _runs_more(module: nn.Module) -> bool:
    """Whether a call of the module runs more than its class' ``forward``."""
    return "forward" in vars(module) or has_hooks(module)


def _saved_tensors_are_hooked() -> bool:
    """As by checkpointing, whose second pass must save what the first one saved, after the features are gone."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
