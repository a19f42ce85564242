"""Scenes, what is predicted of them, and which weights their patches chose."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ...plotting import set_style

_COLOURS = ["#000000", *sns.color_palette("tab10").as_hex()]


def segmented(
    images: np.ndarray,
    classes: np.ndarray,
    predicted: Mapping[str, np.ndarray],
    signals: np.ndarray,
    of_patches: np.ndarray,
    title: str,
) -> Figure:
    """A row a scene; and patches in the plane of their signals' first two principal components.

    Args:
        images: ``(N, H, W)``; ``classes`` likewise, 0 being background and 1 ... 10 the digits.
        predicted: arm to the same as ``classes``.
        signals: ``(M, R, C, 3)``, M >= N: each patch's signal in three principal components.
        of_patches: ``(M, R, C)``: the class that most of a patch's digit pixels are of, or 0.
    """
    set_style()
    columns = 3 + len(predicted)
    figure = plt.figure(figsize=(1.45 * columns + 4.6, 1.5 * len(images) + 1.0), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.45 * columns, 4.6], squeeze=False)[0]
    axes = left.subplots(len(images), columns, squeeze=False)
    shades = _as_shades(signals, of_patches)
    for row, image, truth, *guesses, shade in zip(axes, images, classes, *predicted.values(), shades, strict=False):
        row[0].imshow(image, "gray")
        for axis, each in zip(row[1:-1], (truth, *guesses), strict=True):
            axis.imshow(each, ListedColormap(_COLOURS), vmin=0, vmax=len(_COLOURS) - 1, interpolation="none")
        _draw_patches(row[-1], image, shade)
    for axis, name in zip(axes[0], ("scene", "truth", *predicted, "weights"), strict=True):
        axis.set_title(name)
    for axis in axes.flat:
        axis.set_axis_off()
    _draw_plane(right.subplots(), signals.reshape(-1, signals.shape[-1]), of_patches.ravel(), shades)
    handles = [Patch(color=colour, label=str(digit)) for digit, colour in enumerate(_COLOURS[1:])]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.suptitle(title)
    return figure


def _as_shades(signals: np.ndarray, of_patches: np.ndarray) -> np.ndarray:
    """Components as red, green and blue, which are told apart best where there are digits."""
    low, high = np.quantile(signals[of_patches > 0], (0.02, 0.98), axis=0)
    return np.clip((signals - low) / np.maximum(high - low, 1e-12), 0, 1)


def _draw_patches(axis: plt.Axes, image: np.ndarray, shades: np.ndarray) -> None:
    """Each patch in the shade of its signal, the scene's strokes over it."""
    height, width = image.shape
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axis.imshow(shades, extent=extent, interpolation="none")
    axis.contour(image, levels=[127], colors="white", linewidths=0.9)


def _draw_plane(axis: plt.Axes, points: np.ndarray, classes: np.ndarray, shades: np.ndarray) -> None:
    for number, colour in enumerate(["0.8", *_COLOURS[1:]]):
        chosen = points[classes == number]
        axis.scatter(chosen[:, 0], chosen[:, 1], s=5, color=colour, linewidths=0, alpha=0.8)
    # some of those without are far away
    low, high = np.quantile(points[classes > 0, :2], (0.005, 0.995), axis=0)
    margins = 0.1 * (high - low)
    axis.set(
        xlim=(low[0] - margins[0], high[0] + margins[0]),
        ylim=(low[1] - margins[1], high[1] + margins[1]),
        xlabel="first principal component of the signal",
        ylabel="second",
        title="patches by the digit in them\n(grey: none)",
        xticks=[],
        yticks=[],
    )
