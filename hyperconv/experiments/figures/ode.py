"""Pendulums and what is predicted of them."""

from collections.abc import Mapping

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from ...plotting import ARM_COLOURS, new_figure


def forecasts(
    times: np.ndarray,
    observed: int,
    truth: np.ndarray,
    predicted: Mapping[str, np.ndarray],
    title: str,
    strips: np.ndarray | None = None,
    marks: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """Angles against time, a panel a pendulum, the observed time shaded; and below, frames with what is predicted.

    Args:
        times: ``(T,)`` in s; the first ``observed`` of them were seen.
        truth: ``(P, T)`` in radians.
        predicted: arm to the same.
        strips: ``(P, F, H, W)``, frames at even steps over the times, or None.
        marks: arm to ``(P, F, 2)``, the column and the row that it predicts in each of them, NaN for no mark.
    """
    shown = np.arange(2) if strips is None else np.arange(4)
    heights = np.resize([1.0] if strips is None else [1.0, 0.27], len(shown))
    columns = len(truth) // 2
    figure, axes = new_figure(
        len(shown), columns, size=(5.4 * columns, 2.6 * heights.sum()), sharex=True, height_ratios=heights
    )
    panels = axes[:: len(shown) // 2].flatten()
    for number, axis in enumerate(panels):
        axis.axvspan(times[0], times[observed - 1], color="0.93", linewidth=0)
        axis.plot(times, truth[number], color="0", linewidth=3.2, alpha=0.25, label="true")
        for arm, angles in predicted.items():
            axis.plot(times, angles[number], color=ARM_COLOURS.get(arm), linewidth=1.4, label=arm)
        bound = 1.25 * np.abs(truth[number]).max()
        axis.set(xlim=(times[0], times[-1]), ylim=(-bound, bound))
        axis.grid(axis="y", color="0.92")
    for axis in axes[:: len(shown) // 2, 0]:
        axis.set_ylabel("angle (rad)")
    panels[0].annotate(
        "observed",
        (times[observed - 1], 1),
        (-4, -3),
        ("data", "axes fraction"),
        "offset points",
        ha="right",
        va="top",
        color="0.45",
    )
    if strips is not None:
        _draw_strips(axes[1::2].flatten(), times, strips, marks or {})
    for axis in axes[-1]:
        axis.set_xlabel("time (s)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(title)
    return figure


def _draw_strips(axes: np.ndarray, times: np.ndarray, strips: np.ndarray, marks: Mapping[str, np.ndarray]) -> None:
    count, height, width = strips.shape[1:]
    for number, axis in enumerate(axes):
        extent = (times[0], times[-1], height - 0.5, -0.5)
        axis.imshow(np.concatenate(list(strips[number]), axis=1), "gray", extent=extent, aspect="auto")
        second = (times[-1] - times[0]) / (count * width)
        for place in range(1, count):
            axis.axvline(times[0] + place * width * second, color="1", linewidth=1)
        for arm, places in marks.items():
            across = times[0] + (np.arange(count) * width + 0.5 + places[number, :, 0]) * second
            axis.plot(across, places[number, :, 1], "o", mfc="none", mec=ARM_COLOURS.get(arm), mew=1.2, markersize=6)
        axis.set(yticks=[])
        sns.despine(ax=axis, left=True, bottom=True)
