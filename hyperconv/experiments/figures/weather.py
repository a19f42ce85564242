"""A clip, and what is forecast of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ...plotting import ARM_COLOURS, set_style


def clip(
    seen: np.ndarray,
    true: np.ndarray,
    predicted: Mapping[str, np.ndarray],
    leads: Sequence[str],
    kernels: Sequence[np.ndarray] | None,
    edge: int,
    unit: str,
    title: str,
) -> Figure:
    """Frames that were seen and the kernels made of them, on the left; on the right, what came, and what was forecast.

    Args:
        seen: ``(T, H, W)``.
        true: ``(leads, H, W)``.
        predicted: arm to the same; what is within the frame's edge is scored, and its error stands above.
        kernels: a vertical and a horizontal one, ``(taps,)``, or None.
        edge: pixels along the edges that are not scored.
    """
    set_style()
    rows = {"what came": true, **predicted}
    figure = plt.figure(figsize=(10.4, 1.55 * len(rows) + 0.8), layout="constrained")
    halves: Any = figure.subfigures(1, 2, width_ratios=[1, 1.35])
    left, right = halves
    top = max(float(seen.max()), float(true.max()))
    kind: dict[str, Any] = {"cmap": "gray" if not unit else "turbo", "vmin": 0, "vmax": top}
    above, below = left.subfigures(2, 1, height_ratios=[1, 1]) if kernels is not None else (left, left)
    for axis, (number, frame) in zip(above.subplots(2, 2).flat, enumerate(seen), strict=True):
        axis.imshow(frame, **kind)
        axis.set(title=f"seen {number + 1}", xticks=[], yticks=[])
    if kernels is not None:
        _draw_kernels(below, *kernels)
    axes = right.subplots(len(rows), len(leads), squeeze=False)
    for column, lead in enumerate(leads):
        axes[0, column].set_title(f"after {lead}")
    for line, (name, frames) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name, color=ARM_COLOURS.get(name, "0.15"))
        for axis, frame, wanted in zip(line, frames, true, strict=True):
            image = axis.imshow(frame, **kind)
            axis.set(xticks=[], yticks=[])
            if frames is not true:
                within = (slice(edge, frame.shape[0] - edge), slice(edge, frame.shape[1] - edge))
                axis.set_xlabel(f"MSE {np.square(frame - wanted)[within].mean():.3g}", fontsize=8, labelpad=1)
            if edge:
                sides = (size - 2 * edge for size in reversed(frame.shape))
                axis.add_patch(Rectangle((edge - 0.5, edge - 0.5), *sides, fill=False, color="0.6", linewidth=0.7))
    if unit:
        right.colorbar(image, ax=axes, label=unit, shrink=0.5)
    figure.suptitle(title)
    return figure


def _draw_kernels(place: Figure, vertical: np.ndarray, horizontal: np.ndarray) -> None:
    """Both as bars along the image of their product, turned so that brightness moves as it does in the frames."""
    vertical, horizontal = vertical[::-1], horizontal[::-1]
    reach = len(vertical) // 2
    ways = np.arange(-reach, reach + 1)
    axes = place.subplots(2, 2, width_ratios=[3, 1], height_ratios=[1, 3])
    axes[0, 1].set_axis_off()
    colour = ARM_COLOURS["hyper"]
    axes[0, 0].bar(ways, horizontal, color=colour)
    axes[0, 0].set(title="the sample's kernels", xticks=[], yticks=[], xlim=(-reach - 0.5, reach + 0.5))
    axes[1, 1].barh(ways, vertical, color=colour)
    axes[1, 1].set(xticks=[], yticks=[], ylim=(reach + 0.5, -reach - 0.5))
    extent = (-reach - 0.5, reach + 0.5, reach + 0.5, -reach - 0.5)
    axes[1, 0].imshow(np.outer(vertical, horizontal), "Greens", extent=extent, aspect="auto")
    axes[1, 0].axhline(0, color="0.7", linewidth=0.6)
    axes[1, 0].axvline(0, color="0.7", linewidth=0.6)
    axes[1, 0].set(xlabel="moved to the right (pixels)", ylabel="moved down (pixels)")
