"""Restored images, the kernels that blurred them, and the filters that are made of these."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ...plotting import set_style


class Restored(NamedTuple):
    """An image and what is made of it.

    Attributes:
        kernel: that blurred it, ``(k, k)``.
        seen: what is seen of it, ``(h, w)``.
        restored: arm to ``(H, W)``.
        psnr: arm to its PSNR in dB over the whole image.
        truth: ``(H, W)``.
        filters: that were made of the kernel, ``(F, f, f)``, or None.
    """

    kernel: np.ndarray
    seen: np.ndarray
    restored: Mapping[str, np.ndarray]
    psnr: Mapping[str, float]
    truth: np.ndarray
    filters: np.ndarray | None


def restorations(images: Sequence[Restored], title: str) -> Figure:
    """A row an image; and, where filters were made of kernels, below it a row a kernel with its filters."""
    with_filters = [image for image in images if image.filters is not None]
    arms = list(images[0].restored)
    columns = len(arms) + 3
    set_style()
    heights = [1.45 * len(images), 0.95 * len(with_filters) + 0.35][: 2 if with_filters else 1]
    figure = plt.figure(figsize=(1.35 * columns, sum(heights) + 0.4), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    axes = parts[0].subplots(len(images), columns, squeeze=False)
    for axis, name in zip(axes[0], ("blur kernel", "seen", *arms, "truth"), strict=True):
        axis.set_title(name)
    for row, image in zip(axes, images, strict=True):
        _draw_kernel(row[0], image.kernel)
        for axis, shown in zip(row[1:], (image.seen, *image.restored.values(), image.truth), strict=True):
            axis.imshow(shown, "gray", vmin=0, vmax=1, interpolation="none")
            axis.set(xticks=[], yticks=[], frame_on=False)
        for axis, arm in zip(row[2:-1], arms, strict=True):
            axis.set_xlabel(f"{image.psnr[arm]:.1f} dB", labelpad=2)
    if with_filters:
        _draw_filters(parts[1], [(image.kernel, image.filters) for image in with_filters if image.filters is not None])
    figure.suptitle(title)
    return figure


def _draw_filters(figure: plt.Figure, rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """One colour scale a column, so that a filter can be followed from kernel to kernel."""
    bounds = np.abs([filters for _, filters in rows]).max(axis=(0, 2, 3))
    axes = figure.subplots(len(rows), 1 + len(bounds), squeeze=False)
    for row, (kernel, filters) in zip(axes, rows, strict=True):
        _draw_kernel(row[0], kernel)
        for axis, weights, bound in zip(row[1:], filters, bounds, strict=True):
            axis.imshow(weights, "RdBu_r", vmin=-bound, vmax=bound, interpolation="none")
            axis.set(xticks=[], yticks=[])
    figure.suptitle("first filters that hyper makes of each kernel: those that differ most")


def _draw_kernel(axis: plt.Axes, kernel: np.ndarray) -> None:
    axis.imshow(kernel, "viridis", vmin=0, interpolation="none")
    axis.set(xticks=[], yticks=[])
