"""Forecasts of frames without parameters: nothing moves, or all goes on as it moved.

Phase correlation: C. Kuglin, D. Hines, 1975. Optical flow: TV-L1 (Zach, Pock, Bischof, 2007) and iterative
Lucas-Kanade (Le Besnerais, Champagnat, 2005), all as in scikit-image; sparse Lucas-Kanade, as in pysteps (Pulkkinen et
al., GMD 2019, https://doi.org/10.5194/gmd-12-4185-2019). Motion is taken as steady, and frames are moved along it
backwards, as in precipitation nowcasting (Germann, Zawadzki, 2002).
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .hypermorph import warp

# (frame, the one after it), both (H, W) in 0 ... 1 -> from each pixel of the later frame down and to the right to where
# it came from, (2, H, W) or (2, 1, 1)
Origins = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Persistence(nn.Module):
    """The last frame stays."""

    def forward(self, frames: Tensor, steps: int = 1) -> Tensor:
        """Frames ``(B, T, H, W)`` to ``(B, steps, H, W)``."""
        return frames[:, -1:].expand(-1, steps, -1, -1)


class Extrapolation(nn.Module):
    """The last frame goes on along the mean motion between frames, which it is moved along backwards.

    Args:
        origins: where each pixel came from.
        pairs: of frames that follow each other, the last ones, whose motion is averaged.

    >>> seen = torch.zeros(1, 2, 32, 32)
    >>> seen[0, 0, 8:12, 10:14] = seen[0, 1, 10:14, 9:13] = 1
    >>> later = Extrapolation(phase_correlation)(seen, steps=3)[0, 2]
    >>> bool(later[16:20, 6:10].mean() > 0.99 * later.sum() / 16)
    True
    """

    def __init__(self, origins: Origins, pairs: int = 1) -> None:
        super().__init__()
        self.origins = origins
        self.pairs = pairs

    def forward(self, frames: Tensor, steps: int = 1) -> Tensor:
        """Frames ``(B, T, H, W)`` in 0 ... 1 to ``(B, steps, H, W)``."""
        last = frames[:, -self.pairs - 1 :].double().cpu().numpy()
        origin = torch.from_numpy(np.stack([self._mean_origins(clip) for clip in last])).to(frames)
        predicted, displacement = [], torch.zeros_like(origin)
        for _ in range(steps):
            displacement = origin + warp(displacement, origin)
            predicted.append(warp(frames[:, -1:], displacement))
        return torch.cat(predicted, dim=1)

    def _mean_origins(self, clip: np.ndarray) -> np.ndarray:
        return np.mean([self._origins(*pair) for pair in pairwise(clip)], axis=0)

    def _origins(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """As `warp` takes them, ``(2, H, W)``."""
        if before.min() == before.max() or after.min() == after.max():
            return np.zeros((2, *after.shape))
        down, right = np.broadcast_to(self.origins(before, after), (2, *after.shape))
        return np.stack([right, down])


class Nowcast(nn.Module):
    """The last frame goes on along the motion that pysteps finds in all that are seen, as its users do it."""

    def forward(self, frames: Tensor, steps: int = 1) -> Tensor:
        """Frames ``(B, T, H, W)`` to ``(B, steps, H, W)``; what comes in at the edges is 0."""
        from pysteps import motion, nowcasts

        find, extrapolate = motion.get_method("lk"), nowcasts.get_method("extrapolation")
        later = []
        for clip in frames.double().cpu().numpy():
            velocity = np.zeros((2, *clip.shape[1:])) if clip.min() == clip.max() else find(clip, verbose=False)
            later.append(extrapolate(clip[-1], velocity, steps, extrap_kwargs={"outval": 0.0}))
        return torch.from_numpy(np.stack(later)).to(frames)


def phase_correlation(before: np.ndarray, after: np.ndarray, **settings: Any) -> np.ndarray:
    """One way for the whole frame, to a tenth of a pixel."""
    from skimage.registration import phase_cross_correlation

    shift, _, _ = phase_cross_correlation(after, before, upsample_factor=10, **settings)
    return -shift[:, None, None]


def tv_l1(before: np.ndarray, after: np.ndarray, **settings: Any) -> np.ndarray:
    from skimage.registration import optical_flow_tvl1

    return optical_flow_tvl1(after, before, **settings)


def lucas_kanade(before: np.ndarray, after: np.ndarray, **settings: Any) -> np.ndarray:
    from skimage.registration import optical_flow_ilk

    return optical_flow_ilk(after, before, **settings)
