"""Frames and what is predicted of them; filters, learned and true."""

from collections.abc import Mapping, Sequence

import numpy as np
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ...plotting import new_figure, set_style


def forecasts(
    seen: np.ndarray,
    following: np.ndarray,
    predicted: Mapping[str, np.ndarray],
    filters: Mapping[str, Sequence[np.ndarray]],
    pixels: Sequence[tuple[int, int]],
    title: str,
) -> Figure:
    """A clip, frame after frame, each arm's prediction of its end, and the filters that made some of the pixels.

    Args:
        seen: ``(T, H, W)`` in 0 ... 1.
        following: ``(P, H, W)``.
        predicted: arm to the same.
        filters: arm to the filters ``(k, k)`` of ``pixels``, which are rows and columns of the first predicted frame.
    """
    frames, rows = len(seen) + len(following), 1 + len(predicted)
    set_style()
    figure = plt.figure(figsize=(1.0 * frames, 1.0 * rows + 1.7 * len(filters) + 0.4), layout="constrained")
    heights = [rows, *[1.7] * len(filters)]
    above, *below = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    axes = above.subplots(rows, frames, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    _draw_row(axes[0], "true", np.concatenate([seen, following]))
    for row, (arm, of_arm) in zip(axes[1:], predicted.items(), strict=True):
        _draw_row(row[len(seen) :], arm, of_arm)
    colours = sns.color_palette("bright", len(pixels))
    for axis in axes[:, len(seen)]:
        for (row, column), colour in zip(pixels, colours, strict=True):
            axis.add_patch(Rectangle((column - 1, row - 1), 2, 2, fill=False, edgecolor=colour, linewidth=1.4))
    for number, axis in enumerate(axes[0], 1):
        axis.set_title(str(number))
    for part, (arm, shown) in zip(below, filters.items(), strict=True):
        _draw_filters(part, arm, shown, seen[-1], pixels, colours)
    figure.suptitle(title)
    return figure


def _draw_row(axes: np.ndarray, name: str, frames: np.ndarray) -> None:
    for axis, frame in zip(axes, frames, strict=True):
        axis.imshow(frame, "gray", vmin=0, vmax=1)
    axes[0].annotate(name, (0, 0.5), (-6, 0), "axes fraction", "offset points", ha="right", va="center")


def _draw_filters(
    part: Figure,
    arm: str,
    filters: Sequence[np.ndarray],
    last: np.ndarray,
    pixels: Sequence[tuple[int, int]],
    colours: Sequence[tuple[float, float, float]],
) -> None:
    """Each filter beside the part of the last seen frame that it lies on."""
    axes = part.subplots(1, 2 * len(filters), squeeze=False)[0]
    reach = len(filters[0]) // 2
    padded = np.pad(last, reach)
    for number, ((row, column), own, colour) in enumerate(zip(pixels, filters, colours, strict=True)):
        around, taps = axes[2 * number : 2 * number + 2]
        around.imshow(padded[row : row + len(own), column : column + len(own)], "gray", vmin=0, vmax=1)
        taps.imshow(own, "viridis", vmin=0)
        around.plot(reach, reach, "+", color=colour)
        taps.plot(reach, reach, "+", color=colour)
        around.set_title("last frame", fontsize="small")
        taps.set_title("its filter", fontsize="small")
        for axis in (around, taps):
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set(visible=True, edgecolor=colour, linewidth=1.6)
    part.suptitle(f"{arm}: what of the last frame seen makes the marked pixels of the first predicted one")


def steering(
    angles: np.ndarray, filters: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray], title: str
) -> Figure:
    """Filters and filtered images at some angles, a column an angle, all of a kind on one scale.

    Args:
        angles: ``(A,)``.
        filters: name to ``(A, k, k)``.
        outputs: name to ``(A, H, W)``.
    """
    rows = len(filters) + len(outputs)
    figure, axes = new_figure(rows, len(angles), size=(1.15 * len(angles) + 1, 1.2 * rows + 0.4))
    for panels in (filters, outputs):
        bound = np.abs(next(iter(panels.values()))).max()
        for row, (name, images) in zip(axes, panels.items(), strict=False):
            for axis, image in zip(row, images, strict=True):
                axis.imshow(image, "RdBu_r", vmin=-bound, vmax=bound)
            row[0].annotate(name, (0, 0.5), (-6, 0), "axes fraction", "offset points", ha="right", va="center")
        axes = axes[len(panels) :]
    for axis, angle in zip(figure.axes, np.degrees(angles), strict=False):
        axis.set_title(f"{angle:.0f}°")
    for axis in figure.axes:
        axis.set(xticks=[], yticks=[])
        sns.despine(ax=axis, left=True, bottom=True)
    figure.suptitle(title)
    return figure
