"""Clean digits seen from another angle and distance."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def turn_and_zoom(images: Tensor, rotation: float, zoom: float, generator: torch.Generator) -> Tensor:
    """Turn and scale each image about its centre by an angle and a factor of its own.

    Args:
        images: ``(B, C, H, W)``, float.
        rotation: the largest angle either way, in degrees.
        zoom: the largest relative change of size either way.
        generator: on the CPU; draws both, evenly.

    Returns:
        ``(B, C, H, W)``, sampled bilinearly, zero beyond the old edges.
    """
    angle, size = torch.rand(2, len(images), generator=generator) * 2 - 1
    return turn(images, angle * math.radians(rotation), 1 + size * zoom)


def turn(images: Tensor, angle: Tensor, size: Tensor | float = 1.0) -> Tensor:
    """Turn each image about its centre by an angle, and scale it.

    Args:
        images: ``(B, C, H, W)``, float.
        angle: ``(B,)``, in radians.
        size: ``(B,)`` or one number: how much larger a part of the image is shown.

    Returns:
        ``(B, C, H, W)``, sampled bilinearly, zero beyond the old edges.
    """
    none = torch.zeros_like(angle)
    rows = [size * angle.cos(), -size * angle.sin(), none, size * angle.sin(), size * angle.cos(), none]
    affine = torch.stack(rows, dim=1).unflatten(1, (2, 3)).to(images)
    return F.grid_sample(images, F.affine_grid(affine, list(images.shape), align_corners=False), align_corners=False)


def pad_and_crop(images: Tensor, margin: int, generator: torch.Generator) -> Tensor:
    """Move each image by up to ``margin`` pixels along both axes, zeros coming in.

    Args:
        images: ``(B, C, H, W)``.
        margin: the largest shift either way.
        generator: on the CPU; draws the shifts, evenly.

    Returns:
        ``(B, C, H, W)``.
    """
    height, width = images.shape[2:]
    padded = F.pad(images, [margin] * 4)
    down, right = torch.randint(2 * margin + 1, (2, len(images), 1, 1, 1), generator=generator).to(images.device)
    rows = down + torch.arange(height, device=images.device).view(1, 1, -1, 1)
    columns = right + torch.arange(width, device=images.device)
    channels = torch.arange(images.shape[1], device=images.device).view(1, -1, 1, 1)
    samples = torch.arange(len(images), device=images.device).view(-1, 1, 1, 1)
    return padded[samples, channels, rows, columns]
