"""Frames made of the last one by a filter for every position, or by one for each clip; and filters steered by an angle.

B. De Brabandere, X. Jia, T. Tuytelaars, L. Van Gool, "Dynamic Filter Networks", NIPS 2016,
https://arxiv.org/abs/1605.09673. The network beside it: X. Shi et al., "Convolutional LSTM Network", NIPS 2015,
https://arxiv.org/abs/1506.04214
"""

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..functional import convolution_per_sample, local_filter
from ..generators import DenseGenerator
from ..layers import HyperConv2d

_SLOPE = 0.01


class Forecaster(nn.Module):
    """Sees a clip's frames one after the other, and then those that it predicts.

    Args:
        predicted: frames to predict.
    """

    def __init__(self, predicted: int) -> None:
        super().__init__()
        self.predicted = predicted

    def see(self, frame: Tensor, state: Any) -> Any:
        """What is remembered after another frame ``(B, 1, H, W)``; the first finds the state None."""
        raise NotImplementedError

    def next_frame(self, last: Tensor, state: Any) -> Tensor:
        """``(B, 1, H, W)``, each pixel in 0 ... 1."""
        raise NotImplementedError

    def remembered(self, frames: Tensor) -> Any:
        """The state after frames ``(B, T, H, W)``."""
        state = None
        for frame in frames.split(1, dim=1):
            state = self.see(frame, state)
        return state

    def forward(self, frames: Tensor) -> Tensor:
        """``(B, T, H, W)`` in 0 ... 1 to the frames that follow, ``(B, predicted, H, W)``."""
        state, last = self.remembered(frames), frames[:, -1:]
        predictions = [self.next_frame(last, state)]
        while len(predictions) < self.predicted:
            state = self.see(predictions[-1], state)
            predictions.append(self.next_frame(predictions[-1], state))
        return torch.cat(predictions, dim=1)


class Persistence(Forecaster):
    """Nothing moves."""

    def see(self, frame: Tensor, state: None) -> None:
        return None

    def next_frame(self, last: Tensor, state: None) -> Tensor:
        return last


class FilterNetwork(Forecaster):
    """The filter-generating network: an encoder, a recurrent sum at half the resolution, and a decoder.

    Args:
        predicted: as of `Forecaster`.
        width: channels of the first layer; 32 in the paper.
        size: of the filters, whose ``size**2`` taps it gives for every position.
    """

    def __init__(self, predicted: int, width: int = 32, size: int = 9) -> None:
        super().__init__(predicted)
        half, whole = 2 * width, 4 * width
        self.size = size
        self.encoder = nn.Sequential(
            _conv3x3(1, width),
            _conv3x3(width, width, stride=2),
            _conv3x3(width, half),
            _conv3x3(half, half),
            _conv3x3(half, whole),
        )
        self.recurrence = nn.Sequential(_conv3x3(whole, whole), _conv3x3(whole, whole))
        self.decoder = nn.Sequential(
            _conv3x3(whole, half),
            _conv3x3(half, half),
            nn.Upsample(scale_factor=2),
            _conv3x3(half, half),
            _conv3x3(half, half),
            nn.Conv2d(half, whole, 1),
            nn.LeakyReLU(_SLOPE),
            nn.Conv2d(whole, size**2, 1),
        )

    def see(self, frame: Tensor, state: Tensor | None) -> Tensor:
        seen = self.encoder(frame)
        return seen if state is None else seen + self.recurrence(state)


class LocalFilterNetwork(FilterNetwork):
    """Dynamic local filtering: every pixel is a mean of the last frame's around it, weighted as its own filter says.

    637,361 parameters at the published width.

    >>> LocalFilterNetwork(predicted=3, width=2)(torch.rand(2, 4, 16, 16)).shape
    torch.Size([2, 3, 16, 16])
    """

    def filters(self, state: Tensor) -> Tensor:
        """``(B, size**2, H, W)``, those of a position with the sum 1."""
        return self.decoder(state).softmax(dim=1)

    def next_frame(self, last: Tensor, state: Tensor) -> Tensor:
        return local_filter(last, self.filters(state), self.size)


class FilterAClipNetwork(FilterNetwork):
    """Dynamic convolution: one filter moves the whole of a clip's last frame.

    >>> FilterAClipNetwork(predicted=3, width=2)(torch.rand(2, 4, 16, 16)).shape
    torch.Size([2, 3, 16, 16])
    """

    def next_frame(self, last: Tensor, state: Tensor) -> Tensor:
        filters = self.decoder(state).mean(dim=(2, 3)).softmax(dim=1)
        return convolution_per_sample(last, filters.view(-1, 1, 1, self.size, self.size), padding="same")


class UnfilteredNetwork(FilterNetwork):
    """The paper's baseline: in place of filtering, a 1x1 convolution of what would be the filters is the next frame.

    >>> UnfilteredNetwork(predicted=3, width=2)(torch.rand(2, 4, 16, 16)).shape
    torch.Size([2, 3, 16, 16])
    """

    def __init__(self, predicted: int, width: int = 32, size: int = 9) -> None:
        super().__init__(predicted, width, size)
        self.pixel = nn.Sequential(nn.LeakyReLU(_SLOPE), nn.Conv2d(size**2, 1, 1), nn.Sigmoid())

    def next_frame(self, last: Tensor, state: Tensor) -> Tensor:
        return self.pixel(self.decoder(state))


class ConvLSTM(Forecaster):
    """Two convolutional LSTM layers, on frames whose 2x2 pixels are channels.

    Args:
        predicted: as of `Forecaster`.
        width: channels of both layers. 19 for every 8 of a `FilterNetwork` give about as many parameters.

    >>> ConvLSTM(predicted=3, width=4)(torch.rand(2, 4, 16, 16)).shape
    torch.Size([2, 3, 16, 16])
    """

    _FOLD = 2

    def __init__(self, predicted: int, width: int = 76) -> None:
        super().__init__(predicted)
        pixels = self._FOLD**2
        self.gates = nn.ModuleList(nn.Conv2d(inputs + width, 4 * width, 3, padding=1) for inputs in (pixels, width))
        self.width = width
        self.pixels = nn.Sequential(nn.Conv2d(width, pixels, 1), nn.PixelShuffle(self._FOLD), nn.Sigmoid())

    def see(self, frame: Tensor, state: list[tuple[Tensor, Tensor]] | None) -> list[tuple[Tensor, Tensor]]:
        features, after = F.pixel_unshuffle(frame, self._FOLD), []
        if state is None:
            nothing = features.new_zeros(len(features), self.width, *features.shape[2:])
            state = [(nothing, nothing)] * len(self.gates)
        for gates, (hidden, cell) in zip(self.gates, state, strict=True):
            update, keep, show, new = gates(torch.cat([features, hidden], dim=1)).chunk(4, dim=1)
            cell = (keep + 1).sigmoid() * cell + update.sigmoid() * new.tanh()
            features = show.sigmoid() * cell.tanh()
            after.append((features, cell))
        return after

    def next_frame(self, last: Tensor, state: list[tuple[Tensor, Tensor]]) -> Tensor:
        return self.pixels(state[-1][0])


class SteeredFilter(nn.Module):
    """One filter for each image, a function of an angle.

    Args:
        size: of the filter.
        hidden: widths of the layers between.

    >>> SteeredFilter()(torch.rand(2, 1, 28, 28), torch.zeros(2)).shape
    torch.Size([2, 1, 28, 28])
    """

    def __init__(self, size: int = 9, hidden: tuple[int, int] = (64, 128)) -> None:
        super().__init__()
        first, second = hidden
        self.features = nn.Sequential(
            nn.Linear(1, first), nn.LeakyReLU(_SLOPE), nn.Linear(first, second), nn.LeakyReLU(_SLOPE)
        )
        generator = partial(DenseGenerator, context_dim=second)
        self.convolution = HyperConv2d(1, 1, size, padding="same", bias=False, generator=generator)

    def filters(self, angles: Tensor) -> Tensor:
        """Angles ``(B,)`` in 0 ... 2 pi to ``(B, size, size)``."""
        return self.convolution.generator(self.features(_about_zero(angles))).flatten(1, 3)

    def forward(self, images: Tensor, angles: Tensor) -> Tensor:
        return self.convolution(images, self.features(_about_zero(angles)))


class ConcatenatedAngle(nn.Module):
    """Four 3x3 convolutions, which reach as far as a 9x9 filter; the angle is a channel of the image.

    >>> ConcatenatedAngle()(torch.rand(2, 1, 28, 28), torch.zeros(2)).shape
    torch.Size([2, 1, 28, 28])
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.network = nn.Sequential(
            _conv3x3(2, width), _conv3x3(width, width), _conv3x3(width, width), nn.Conv2d(width, 1, 3, padding=1)
        )

    def forward(self, images: Tensor, angles: Tensor) -> Tensor:
        plane = _about_zero(angles)[..., None, None].expand_as(images)
        return self.network(torch.cat([images, plane], dim=1))


class OneFilter(nn.Module):
    """The same filter whatever the angle."""

    def __init__(self, size: int = 9) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 1, size, padding="same", bias=False)

    def forward(self, images: Tensor, angles: Tensor) -> Tensor:
        return self.convolution(images)


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
    # torch's own start lets the features shrink from layer to layer
    nn.init.kaiming_uniform_(convolution.weight, a=_SLOPE)
    return nn.Sequential(convolution, nn.LeakyReLU(_SLOPE))


def _about_zero(angles: Tensor) -> Tensor:
    """``(B,)`` in 0 ... 2 pi to ``(B, 1)`` in -1 ... 1."""
    return angles.unsqueeze(1) / math.pi - 1
