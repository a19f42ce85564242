"""Noise on images, in the units of github.com/mkarmann/hyper-conv's robustness test."""

from typing import Literal, get_args

import torch
from torch import Tensor

Noise = Literal["salt-and-pepper", "gaussian", "speckle"]
NOISES: tuple[Noise, ...] = get_args(Noise)
UNITS: dict[Noise, str] = {"salt-and-pepper": "amount", "gaussian": "std", "speckle": "std"}


def add_noise(images: Tensor, noise: Noise, amount: float | Tensor, generator: torch.Generator) -> Tensor:
    """Noisy copies of images.

    Args:
        images: any shape, float in 0 ... 1.
        amount: one number, or a tensor that broadcasts to the images.
        noise: ``salt-and-pepper`` replaces a fraction ``amount`` of the pixels by 0 or 1, evenly;
            ``gaussian`` adds noise of standard deviation ``amount``;
            ``speckle`` multiplies by noise of mean 1 and standard deviation ``amount``.
        generator: draws the noise.

    Returns:
        The same shape, clipped to 0 ... 1.

    Raises:
        ValueError: another noise.

    >>> add_noise(torch.zeros(4), "speckle", 0.5, torch.Generator()).tolist()
    [0.0, 0.0, 0.0, 0.0]
    """
    if noise == "salt-and-pepper":
        replaced = torch.rand(images.shape, generator=generator) < amount
        extremes = torch.randint(0, 2, images.shape, generator=generator, dtype=images.dtype)
        return torch.where(replaced, extremes, images)
    draw = torch.randn(images.shape, generator=generator)
    if noise == "gaussian":
        return (images + amount * draw).clamp(0, 1)
    if noise == "speckle":
        return (images * (1 + amount * draw)).clamp(0, 1)
    raise ValueError(f"noise must be one of {', '.join(NOISES)}; got {noise!r}")
