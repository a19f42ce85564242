"""Kernel and input in, output out: one kernel for all, one a sample, one a patch, one a position.

Every function is one way to compute; which to take where, `hyperconv.plan` decides for layers. No parameters live here,
and no batch size is fixed anywhere: it is ``shape[0]`` throughout, since torch.export takes ``len`` for a constant.
"""

from .contracted import contracted_convolution, contracted_linear, contracted_transposed_convolution
from .local import local_filter
from .patches import PaddingMode, from_patches, patch_convolution, to_patches
from .per_sample import (
    Backend,
    LinearBackend,
    convolution_per_sample,
    linear_per_sample,
    transposed_convolution_per_sample,
)
from .product import product_convolution, product_linear, product_transposed_convolution
from .shared import convolution, decomposed_convolution, lies_channels_last, paired_convolution, transposed_convolution

__all__ = [
    "Backend",
    "LinearBackend",
    "PaddingMode",
    "contracted_convolution",
    "contracted_linear",
    "contracted_transposed_convolution",
    "convolution",
    "convolution_per_sample",
    "decomposed_convolution",
    "from_patches",
    "lies_channels_last",
    "linear_per_sample",
    "local_filter",
    "paired_convolution",
    "patch_convolution",
    "product_convolution",
    "product_linear",
    "product_transposed_convolution",
    "to_patches",
    "transposed_convolution",
    "transposed_convolution_per_sample",
]
