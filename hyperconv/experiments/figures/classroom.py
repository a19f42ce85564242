"""What autoencoders make of digits, and where they put them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from ...plotting import kernel_mosaic, set_style

_GAP = 4


class Row(NamedTuple):
    """Images of one autoencoder, or the digits that it was given: each of ``(N, 1, H, W)``."""

    label: str
    reconstructed: np.ndarray
    between: np.ndarray
    new: np.ndarray


def latent_figure(
    planes: Mapping[str, Mapping[str, np.ndarray]], labels: np.ndarray, rows: list[Row], title: str
) -> Figure:
    """Maps of codes, a column an autoencoder and a row a kind of map; below, images, a row an autoencoder.

    Args:
        planes: autoencoder to kind of map to ``(N, 2)``.
        labels: ``(N,)``, classes of the digits on the maps.
    """
    set_style()
    kinds = list(next(iter(planes.values())))
    heights = [1.75 * len(kinds) + 0.3, 0.42 * len(rows) + 0.5]
    figure = plt.figure(figsize=(1.85 * len(planes) + 0.4, sum(heights) + 0.4), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=heights)
    above, below = parts
    axes = above.subplots(len(kinds), len(planes), squeeze=False)
    for column, (name, maps) in zip(axes.T, planes.items(), strict=True):
        column[0].set_title(name)
        for axis, places in zip(column, maps.values(), strict=True):
            _draw_map(axis, places, labels)
    for axis, kind in zip(axes[:, 0], kinds, strict=True):
        axis.set_ylabel(kind)
    panels = {
        "test digits, reconstructed": [row.reconstructed for row in rows],
        "from one's code to the other's": [row.between for row in rows],
        "new, one of each class": [row.new for row in rows],
    }
    widths = [len(images[0]) for images in panels.values()]
    for axis, (name, images) in zip(below.subplots(1, len(panels), width_ratios=widths), panels.items(), strict=True):
        mosaic = kernel_mosaic(np.concatenate([each.swapaxes(0, 1) for each in images]), _GAP)
        axis.imshow(mosaic, "gray_r", vmin=0, vmax=1, interpolation="none")
        axis.set(title=name, xticks=[], yticks=[])
        sns.despine(ax=axis, left=True, bottom=True)
        if axis is below.axes[0]:
            step = len(mosaic) / len(rows)
            axis.set_yticks((np.arange(len(rows)) + 0.5) * step, [row.label for row in rows])
            axis.tick_params(length=0)
    figure.suptitle(title)
    return figure


def _draw_map(axis: plt.Axes, places: np.ndarray, labels: np.ndarray) -> None:
    for label, colour in zip(np.unique(labels), sns.color_palette("tab10"), strict=False):
        of_class = places[labels == label]
        axis.plot(*of_class.T, ".", color=colour, markersize=2, alpha=0.6)
        outlined = [withStroke(linewidth=2.5, foreground="white")]
        axis.annotate(
            str(label), np.median(of_class, axis=0), ha="center", va="center", weight="bold", path_effects=outlined
        )
    axis.set(xticks=[], yticks=[])
    sns.despine(ax=axis, top=False, right=False)
