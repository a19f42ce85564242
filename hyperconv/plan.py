"""Which way a kernel is applied: by its form, the input, the geometry and the machine. All constants are here.

What is decided, and on what grounds, is measured by ``benchmarks/decomposition.py``, ``per_sample.py`` and
``layers.py``, forward and backward. Where nothing was measured, a kernel is built and applied.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

import torch
from torch import Tensor

from .calls import compiling
from .coordinates import Sizes, per_axis
from .functional import Backend, lies_channels_last


class Way(Enum):
    """How an input is convolved with a generated kernel."""

    BUILT = auto()
    """The kernel is built and applied."""
    PAIRED = auto()
    """The kernel is built, and applied to pairs of columns."""
    FILTERED = auto()
    """Never built: every channel is filtered by the filters that the kernel is made of, and the results are mixed."""
    FILTERED_IN_ONE_PRODUCT = auto()
    """Likewise, filtering by one matrix product."""
    CONTRACTED = auto()
    """Never built: every sample is convolved with all kernels that its own is made of, and the results are mixed."""


class Cost(NamedTuple):
    """Of filtering, in multiplications of a convolution.

    Attributes:
        beside: what is added to eight for each tap, or in one product to one for each pixel.
        calls: of the operators, whatever the images' size.
    """

    beside: float
    calls: float


@dataclass(frozen=True)
class Decomposition:
    """What filtering every channel costs, fitted to the sizes of ``benchmarks/decomposition.py``.

    Attributes:
        filtering: filters applied one by one.
        one_product: all at once.
        pixels_per_channel: up to which images are filtered in one product.
    """

    filtering: Cost
    one_product: Cost
    pixels_per_channel: int


@dataclass(frozen=True)
class Machine:
    """What was measured on a kind of processor.

    Attributes:
        pairs_up_to: channels; a vector unit that works on more floats at once idles in part with fewer.
        decomposition: by which kernels of few filters are applied without being built; None: they are not.
        contracts: whether mixtures are applied without being built, where the costs say so.
    """

    pairs_up_to: int
    decomposition: Decomposition | None
    contracts: bool


_UNMEASURED = Machine(pairs_up_to=0, decomposition=None, contracts=False)
PROCESSORS = {
    "AVX512": Machine(8, Decomposition(Cost(50, 5e7), Cost(150, 2e7), pixels_per_channel=1), contracts=True),
    "AVX2": Machine(0, Decomposition(Cost(20, 4e7), Cost(75, 2e6), pixels_per_channel=2), contracts=True),
}
# by the type of torch.device
_MACHINES = {
    "cpu": PROCESSORS.get(torch.backends.cpu.get_cpu_capability(), _UNMEASURED),
    "cuda": _UNMEASURED,
}

# decomposition: up to 7x7 taps, 12,544 output positions in a batch and 64 MiB of filtered images, of which two copies
# exist for a moment
_MOST_TAPS = 7**2
_MOST_POSITIONS = 16 * 28**2
_MOST_FILTERED = 2**24
# one product: its matrix has the images' size in and out
_FEW_PIXELS = 14**2
# channels of a convolution a sample
_NARROWEST = 16


def machine(device_type: str) -> Machine:
    """What is known of this machine's devices of a type."""
    return _MACHINES.get(device_type, _UNMEASURED)


def runs_trunks_together() -> bool:
    """Whether small trunks are run as one; torch.compile fuses what they consist of by itself."""
    return not compiling()


def way_for_all(
    parts: int | None,
    input: Tensor,
    kernel_shape: Sequence[int],
    stride: Sizes = 1,
    padding: str | Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Way:
    """To convolve with one kernel that the whole batch shares.

    Args:
        parts: the filters that the kernel is mixed from, if it need not be built.
        input: ``(B, I, *S)`` or ``(I, *S)``, already padded where the convolution cannot.
    """
    # images that lie channels last, in single precision, are what was measured; torch.compile fuses what lies around a
    # convolution, and does that badly across other ways
    if compiling() or len(kernel_shape) != 4 or groups != 1 or not lies_channels_last(input):
        return Way.BUILT
    stride, dilation = per_axis(stride, 2), per_axis(dilation, 2)
    known = machine(input.device.type)
    if known.decomposition is not None and parts is not None:
        few = has_few_pixels(known.decomposition, input, kernel_shape, stride, padding, dilation)
        cost = known.decomposition.one_product if few else known.decomposition.filtering
        terms = math.prod(input.shape[2:]) if few else 8 * math.prod(kernel_shape[2:])
        if _decomposition_pays(cost, terms, parts, input, kernel_shape, stride, padding, dilation):
            return Way.FILTERED_IN_ONE_PRODUCT if few else Way.FILTERED
    if stride == dilation == (1, 1) and _pairing_pays(known, input, kernel_shape, padding):
        return Way.PAIRED
    return Way.BUILT


def way_per_sample(parts: int | None, input: Tensor, positions: int) -> Way:
    """To apply a kernel a sample.

    For every weight of a kernel: contraction multiplies it J times at every position. Otherwise it is mixed from J
    weights, which costs as much as 9 multiplications each, and applied at every position, which costs 1.5. Whatever the
    batch, contraction reads and writes the basis once more, which costs 38 for each of J.

    Args:
        parts: the J kernels that they are mixed from, if they need not be built.
        input: ``(B, *)``.
        positions: that each of them is applied at.
    """
    if parts is None or not machine(input.device.type).contracts:
        return Way.BUILT
    saved = 9 * parts + 1.5 * positions - positions * parts
    # a compiled or exported layer serves batches of any size, and takes them for large
    pays = saved >= 0 if compiling() else input.shape[0] * saved >= 38 * parts
    return Way.CONTRACTED if pays else Way.BUILT


def factors_pay(rank: int | None, kernel_shape: Sequence[int], groups: int = 1) -> bool:
    """Whether thin factors are applied one after the other instead of a kernel that is built of them.

    Linear maps, and kernels of one tap: where that takes fewer multiplications at every position. Kernels of more taps:
    a convolution a sample to fewer channels than a vector unit has places for takes as long as one to all of them, and
    the convolution that samples share is to be paid for.

    Args:
        rank: of the factors; None where there are none.
    """
    if rank is None:
        return False
    rows, columns, taps = kernel_shape[0], math.prod(kernel_shape[1:]), math.prod(kernel_shape[2:])
    thin = rank if taps == 1 else 2 * max(rank, _NARROWEST)
    return thin * (rows + groups * columns) < rows * columns


def backend_per_sample(input: Tensor, kernel_shape: Sequence[int], groups: int) -> Backend:
    """To apply kernels a sample that are built.

    Kernels of one tap need no patches: they are one batched product. ``benchmarks/per_patch.py`` compares the two.
    """
    one_tap = math.prod(kernel_shape[2:]) == 1 and groups == 1
    return "unfold" if one_tap and input.device.type == "cpu" else "grouped"


def has_few_pixels(
    known: Decomposition,
    input: Tensor,
    kernel_shape: Sequence[int],
    stride: Sequence[int],
    padding: str | Sizes,
    dilation: Sequence[int],
) -> bool:
    """Whether images are small enough to be filtered in one product.

    About as many pixels as channels at most: the matrix's gradient, an image a time, is then hardly larger than the
    filtered images.
    """
    outputs = _output_size(input.shape[2:], kernel_shape[2:], stride, padding, dilation)
    most = min(8 * math.prod(kernel_shape[2:]), known.pixels_per_channel * kernel_shape[1], _FEW_PIXELS)
    return math.prod(input.shape[2:]) <= most and math.prod(outputs) <= most


def _decomposition_pays(
    cost: Cost,
    terms: int,
    filters: int,
    input: Tensor,
    kernel_shape: Sequence[int],
    stride: Sequence[int],
    padding: str | Sizes,
    dilation: Sequence[int],
) -> bool:
    """Both sides of the comparison are times for an input channel, in multiplications of the convolution.

    To mix F filtered images costs what a generated kernel of F taps costs, and the taps that this spares must pay for
    filtering.
    """
    if input.dtype != torch.float32 or torch.is_autocast_enabled(input.device.type):
        return False
    outputs, inputs, *size = kernel_shape
    taps = math.prod(size)
    positions = input.shape[0] * math.prod(_output_size(input.shape[2:], size, stride, padding, dilation))
    if taps > _MOST_TAPS or positions > _MOST_POSITIONS or filters * inputs * positions > _MOST_FILTERED:
        return False
    filtering = filters * positions * (terms + cost.beside) + cost.calls / inputs
    return filtering < (taps - filters) * outputs * (positions + 215)


def _pairing_pays(known: Machine, input: Tensor, kernel_shape: Sequence[int], padding: str | Sizes) -> bool:
    outputs, inputs, rows, columns = kernel_shape
    return (
        padding == "same"
        and max(outputs, inputs) <= known.pairs_up_to
        and rows % 2 == columns % 2 == 1 < columns
        and input.shape[3] % 2 == 0
        and inputs > 1
    )


def _output_size(
    sizes: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: str | Sizes,
    dilation: Sequence[int],
) -> list[int]:
    if padding == "same":
        return list(sizes)
    pads = (0,) * len(sizes) if isinstance(padding, str) else per_axis(padding, len(sizes))
    return [
        max(0, (size + 2 * pad - reach * (taps - 1) - 1) // step + 1)
        for size, taps, step, pad, reach in zip(sizes, kernel_size, stride, pads, dilation, strict=True)
    ]
