"""Digits that are hard to tell: every one under every noise; and as a lens, a hand or a pen might spoil them."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from .batches import Samples
from .images import as_float
from .noise import NOISES, add_noise

LEVELS = 20


def under_every_noise(digits: Samples, seed: int) -> TensorDataset:
    """Every digit once under each noise, at one of 20 levels from 0 to 1, which take turns.

    Accuracy over all of it is the mean over noises and levels, each level of a noise seen on a twentieth of the digits.

    Args:
        digits: images ``(B, 1, 28, 28)``, uint8, and labels.
        seed: the noise is a function of it and the digits alone.

    Returns:
        Noisy images ``(B, 1, 28, 28)``, uint8; labels; which of `NOISES`, ``(B,)``; and the images without noise.
    """
    images, labels = digits[torch.arange(len(digits))]
    levels = (torch.arange(len(digits)) % LEVELS / (LEVELS - 1)).view(-1, 1, 1, 1)
    draws = torch.Generator().manual_seed(seed)
    noisy = torch.cat([as_bytes(add_noise(as_float(images), noise, levels, draws)) for noise in NOISES])
    kinds = torch.arange(len(NOISES)).repeat_interleave(len(digits))
    return TensorDataset(noisy, labels.repeat(len(NOISES)), kinds, images.repeat(len(NOISES), 1, 1, 1))


def as_bytes(images: Tensor) -> Tensor:
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def blurred(images: Tensor, draws: torch.Generator) -> Tensor:
    from torchvision.transforms.v2.functional import gaussian_blur

    return gaussian_blur(images, [9, 9], [2.0, 2.0])


def occluded(images: Tensor, draws: torch.Generator) -> Tensor:
    """A square of 10 pixels is grey, somewhere within the middle 20."""
    spoilt = images.clone()
    for image, (down, right) in zip(spoilt, torch.randint(4, 15, (len(images), 2), generator=draws), strict=True):
        image[..., down : down + 10, right : right + 10] = 0.5
    return spoilt


def rotated(images: Tensor, draws: torch.Generator) -> Tensor:
    """By 15 to 45 degrees either way."""
    from torchvision.transforms.v2.functional import rotate

    sizes, signs = torch.rand(2, len(images), generator=draws)
    degrees = (15 + 30 * sizes) * torch.where(signs < 0.5, -1, 1)
    return torch.stack([rotate(each, angle) for each, angle in zip(images, degrees.tolist(), strict=True)])


def distorted(images: Tensor, draws: torch.Generator) -> Tensor:
    from torchvision.transforms.v2 import ElasticTransform

    elastic = ElasticTransform(alpha=60.0, sigma=4.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=draws)))
        return torch.stack([elastic(each) for each in images])


def faint(images: Tensor, draws: torch.Generator) -> Tensor:
    from torchvision.transforms.v2.functional import adjust_contrast

    return adjust_contrast(images, 0.2)


CORRUPTIONS: Mapping[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "blur": blurred,
    "occlusion": occluded,
    "rotation": rotated,
    "elastic": distorted,
    "contrast": faint,
}
"""From images ``(B, 1, H, W)``, float in 0 ... 1, to such, by torchvision's transforms."""


def corrupted(images: Tensor, name: str, seed: int) -> Tensor:
    """Images ``(B, 1, 28, 28)``, uint8, under one of `CORRUPTIONS`, a function of the seed and the images alone."""
    return as_bytes(CORRUPTIONS[name](as_float(images), torch.Generator().manual_seed(seed)))
