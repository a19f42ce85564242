"""Pairs registered at several weights of smoothness."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ...plotting import ARM_COLOURS, set_style


def registrations(
    columns: Mapping[str, tuple[Any, Any, Any]],
    figures: pd.DataFrame,
    title: str,
    before: float,
    best: float | None = None,
) -> Figure:
    """Pairs of images registered at several weights of smoothness, and figures against the weight.

    Args:
        columns: title to images ``(P, 1, H, W)``, how far right and down of each pixel its source lay,
            ``(P, 2, H, W)`` or None, and masks to outline, ``(P, parts, H, W)`` or None.
        figures: a row for each ``arm``, weight ``λ`` and ``figure``: its ``value``. The arm ``hyper`` is a line; those
            for one weight, ``fixed-0.5`` or ``hyper-0.5``, are dots.
        before: the Dice of unregistered pairs.
        best: a weight to mark, or None.
    """
    pairs = len(next(iter(columns.values()))[0])
    set_style()
    figure = plt.figure(figsize=(1.3 * len(columns), 2.75 * pairs + 3.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[2.75 * pairs, 2.9], squeeze=False)[:, 0]
    axes = above.subplots(2 * pairs, len(columns), squeeze=False)
    for column, (name, shown) in zip(axes.T, columns.items(), strict=True):
        column[0].set_title(name)
        for pair in range(pairs):
            image = shown[0][pair]
            displacement, masks = (None if each is None else each[pair] for each in shown[1:])
            _draw_outlined(column[2 * pair], image[0], masks)
            _draw_deformed_grid(column[2 * pair + 1], displacement)
    panels = {"Dice": "Dice", "loss": "loss", "folds": "folded pixels (%)"}
    for axis, (name, label) in zip(below.subplots(1, 3), panels.items(), strict=True):
        _draw_against_weight(axis, figures[figures["figure"].str.startswith(name)])
        axis.set(xlabel="λ, weight of smoothness", ylabel=label, xlim=(-0.03, 1.03))
        axis.grid(axis="y", color="0.92")
        if name == "Dice":
            axis.axhline(before, color="0.5", linestyle=":", label="before")
        if best is not None:
            axis.axvline(best, color="0.5", linewidth=0.8, label="best λ on validation pairs")
    figure.suptitle(title)
    below.legend(*below.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return figure


def _draw_outlined(axis: plt.Axes, image: np.ndarray, masks: np.ndarray | None) -> None:
    axis.imshow(image, "gray", vmin=0, vmax=1)
    for mask, colour in zip([] if masks is None else masks, sns.color_palette("bright")[1:], strict=False):
        if mask.max() > 0.5:
            axis.contour(mask, levels=[0.5], colors=[colour], linewidths=0.9)
    axis.set_axis_off()


def _draw_deformed_grid(axis: plt.Axes, displacement: np.ndarray | None) -> None:
    axis.set_axis_off()
    if displacement is None:
        return
    right, down = np.asarray(displacement)
    rows, columns = np.indices(right.shape)
    across, along = columns + right, rows + down
    every = max(1, right.shape[0] // 16)
    for lines in ((across[::every].T, along[::every].T), (across[:, ::every], along[:, ::every])):
        axis.plot(*lines, color="0.25", linewidth=0.5)
    axis.set(xlim=(-2, right.shape[1] + 1), ylim=(right.shape[0] + 1, -2), aspect="equal")


def _draw_against_weight(axis: plt.Axes, rows: pd.DataFrame) -> None:
    """Each figure of the hyper arm as a line, of the others as dots, one colour a figure."""
    names = list(rows["figure"].unique())
    colours = dict(zip(names, [ARM_COLOURS["hyper"], *sns.color_palette("bright")[1:]], strict=False))
    kinds = rows["arm"].str.split("-").str[0] + rows["arm"].str.contains("-").map({True: " at one λ", False: ""})
    for name, line in rows[kinds == "hyper"].groupby("figure", sort=False):
        axis.plot(line["λ"], line["value"], color=colours[name], label=name if len(names) > 1 else "one network")
    of_one = {"fixed at one λ": ("o", "normal", "a network for each λ"), "hyper at one λ": ("D", "hyper", "for one λ")}
    for kind, (marker, role, label) in of_one.items():
        if (dots := rows[kinds == kind]).size:
            axis.plot(dots["λ"], dots["value"], marker, color=ARM_COLOURS[role], label=label)
