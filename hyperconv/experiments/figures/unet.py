"""Images outlined by several networks, and the kernels that these begin with."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...plotting import kernel_mosaic, set_style

_LARGEST_MOSAIC = 8


class Outlined(NamedTuple):
    """A case.

    Attributes:
        image: ``(H, W)``, uint8.
        truth: classes of its pixels, ``(H, W)``, 0 for background.
        found: by network, those that it predicts.
        dices: by network, the case's Dice.
    """

    image: np.ndarray
    truth: np.ndarray
    found: Mapping[str, np.ndarray]
    dices: Mapping[str, float]


def segmentations(
    rows: Sequence[Outlined], kernels: Mapping[str, Sequence[np.ndarray]], classes: Sequence[str], title: str
) -> Figure:
    """Cases with their outlined classes, a row a case, a column a network; below, the networks' kernels.

    Args:
        kernels: by network, of its first and its second convolution, ``(O, I, h, w)``.
        classes: names of 1, 2, ...
    """
    set_style()
    colours = sns.color_palette("bright")[1 : 1 + len(classes)]
    arms = list(kernels)
    columns, count = len(arms) + 2, len(rows)
    figure = plt.figure(figsize=(1.9 * columns, 2.1 * count + 4.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[2.1 * count, 4.3], squeeze=False)[:, 0]
    axes = above.subplots(count, columns, squeeze=False)
    for axis, name in zip(axes[0], ("image", "truth", *arms), strict=True):
        axis.set_title(name)
    for line, case in zip(axes, rows, strict=True):
        for axis, labels in zip(line, (None, case.truth, *(case.found[arm] for arm in arms)), strict=True):
            _draw_outlined(axis, case.image, labels, colours)
        for axis, arm in zip(line[2:], arms, strict=True):
            axis.set_xlabel(f"Dice {case.dices[arm]:.3f}")
    panels = below.subplots(2, len(arms), squeeze=False)
    for number, (line, which) in enumerate(zip(panels, ("first", "second"), strict=True)):
        for axis, arm in zip(line, arms, strict=True):
            _draw_kernels(axis, kernels[arm][number])
            axis.set_title(arm)
        line[0].set_ylabel(f"{which} convolution")
    handles = [Line2D([], [], color=colour, label=name) for colour, name in zip(colours, classes, strict=True)]
    above.legend(handles=handles, loc="outside lower center", ncols=len(classes), frameon=False)
    below.suptitle("kernels, each network on a scale of its own (blue negative, red positive)")
    figure.suptitle(title)
    return figure


def _draw_outlined(axis: plt.Axes, image: np.ndarray, labels: np.ndarray | None, colours: Sequence) -> None:
    axis.imshow(image, "gray", vmin=0, vmax=255)
    for number, colour in enumerate(() if labels is None else colours, 1):
        mask: np.ndarray = labels == number  # type: ignore[assignment]
        if mask.any():
            axis.contour(mask, levels=[0.5], colors=[colour], linewidths=1.0)
    axis.set(xticks=[], yticks=[])
    sns.despine(ax=axis, left=True, bottom=True)


def _draw_kernels(axis: plt.Axes, kernels: np.ndarray) -> None:
    """The first kernels of a layer; of a layer with one input channel, in rows of four."""
    if kernels.shape[1] == 1 and len(kernels) >= 4:
        kernels = kernels[: len(kernels) // 4 * 4].reshape(-1, 4, *kernels.shape[2:])
    kernels = kernels[:_LARGEST_MOSAIC, :_LARGEST_MOSAIC]
    bound = np.quantile(np.abs(kernels), 0.995)
    axis.imshow(kernel_mosaic(kernels), cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="none")
    axis.set(xticks=[], yticks=[])
    sns.despine(ax=axis, left=True, bottom=True)
