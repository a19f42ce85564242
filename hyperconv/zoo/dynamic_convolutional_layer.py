"""The next frame as the last one, convolved with a vertical and a horizontal kernel made of the frames before.

B. Klein, L. Wolf, Y. Afek, "A Dynamic Convolutional Layer for Short Range Weather Prediction", CVPR 2015,
https://openaccess.thecvf.com/content_cvpr_2015/html/Klein_A_Dynamic_Convolutional_2015_CVPR_paper.html
Widths here are ours, and what is fed back.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..functional import convolution_per_sample


class FedBack(nn.Module):
    """A forecast of one frame, which is fed back for those that follow it."""

    def next_frame(self, frames: Tensor) -> Tensor:
        """Frames ``(B, T, H, W)`` to the one after them, ``(B, 1, H, W)``."""
        raise NotImplementedError

    def forward(self, frames: Tensor, steps: int = 1) -> Tensor:
        """Frames ``(B, T, H, W)`` to as many as there are steps after them, ``(B, steps, H, W)``."""
        predicted = []
        for _ in range(steps):
            predicted.append(self.next_frame(frames))
            frames = torch.cat([frames[:, 1:], predicted[-1]], dim=1)
        return torch.cat(predicted, dim=1)


class DynamicConvolutionalLayer(FedBack):
    """A network makes two kernels of each sample's frames; these move its last frame.

    The kernels pass through a softmax: brightness is moved and spread, neither made nor lost but at the image's edge,
    whose values go on beyond it.

    Args:
        frames: that are seen.
        reach: pixels up and down, left and right, that the last frame can be moved by.
        widths: of the convolutions that look at the frames, each of which halves their sides.
        hidden: width of the layer between these, pooled, and the kernels.

    >>> DynamicConvolutionalLayer(frames=4, reach=8)(torch.zeros(2, 4, 32, 32), steps=3).shape
    torch.Size([2, 3, 32, 32])
    """

    def __init__(self, frames: int, reach: int, widths: Sequence[int] = (12, 24, 48), hidden: int = 64) -> None:
        super().__init__()
        self.reach = reach
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 5, stride=2, padding=2) for inputs, outputs in pairwise((frames, *widths))
        )
        self.hidden = nn.Linear(widths[-1], hidden)
        self.logits = nn.Linear(hidden, 2 * (2 * reach + 1))

    def kernels(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Frames ``(B, T, H, W)`` to a vertical and a horizontal kernel each, ``(B, taps)``, whose taps sum to one."""
        for convolution in self.convolutions:
            frames = F.relu(convolution(frames))
        logits = self.logits(F.relu(self.hidden(frames.mean((2, 3)))))
        vertical, horizontal = logits.chunk(2, dim=1)
        return vertical.softmax(1), horizontal.softmax(1)

    def next_frame(self, frames: Tensor) -> Tensor:
        vertical, horizontal = self.kernels(frames)
        last = F.pad(frames[:, -1:], [self.reach] * 4, mode="replicate")
        return convolution_per_sample(
            convolution_per_sample(last, vertical[:, None, None, :, None]), horizontal[:, None, None, None, :]
        )


class PlainForecaster(FedBack):
    """A U-Net from the frames to the next one, whose kernels are stored.

    Args:
        frames: that are seen.
        widths: at each resolution, from half of the frames' sides down.

    >>> PlainForecaster(frames=4, widths=(8, 16))(torch.zeros(2, 4, 32, 32), steps=3).shape
    torch.Size([2, 3, 32, 32])
    """

    def __init__(self, frames: int, widths: Sequence[int]) -> None:
        super().__init__()
        every = (frames, *widths)
        self.down = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 5, stride=2, padding=2) for inputs, outputs in pairwise(every)
        )
        self.up = nn.ModuleList(
            nn.Conv2d(below + skip, skip, 3, padding=1) for skip, below in list(pairwise(every))[:0:-1]
        )
        self.next = nn.Conv2d(widths[0] + frames, 1, 3, padding=1)

    def next_frame(self, frames: Tensor) -> Tensor:
        skips, features = [], frames
        for convolution in self.down:
            skips.append(features)
            features = F.relu(convolution(features))
        for convolution in self.up:
            features = F.relu(convolution(_joined(features, skips.pop())))
        return self.next(_joined(features, skips.pop()))


def _joined(features: Tensor, skip: Tensor) -> Tensor:
    return torch.cat([F.interpolate(features, scale_factor=2.0), skip], dim=1)
