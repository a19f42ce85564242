"""Images as numbers that networks take."""

import torch
from torch import Tensor


def as_float(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Images in 0 ... 1 where their type says in what range they were.

    Args:
        images: any shape; uint8 holds 0 ... 255, bool 0 and 1.
        dtype: of what is made of those two.

    Returns:
        The same shape; images of a floating point type as they are.

    Raises:
        TypeError: another type, whose range nothing tells.

    >>> as_float(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist()
    [0.0, 0.20000000298023224, 1.0]
    """
    if images.is_floating_point():
        return images
    if images.dtype == torch.uint8:
        return images.to(dtype) / 255
    if images.dtype == torch.bool:
        return images.to(dtype)
    raise TypeError(f"images of {images.dtype} have no known range; give uint8, bool or floats")
