"""Kernels at several numbers of taps, and accuracies at several resolutions."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ...plotting import ARM_COLOURS, set_style


def kernels_and_accuracies(
    kernels: Mapping[str, Mapping[int, np.ndarray]], accuracies: pd.DataFrame, title: str
) -> Figure:
    """One kernel of every arm at each number of taps on the left, and accuracies over the images' side on the right.

    Args:
        kernels: arm to taps to ``(taps, taps)``.
        accuracies: columns arm, side, way and accuracy.
    """
    set_style()
    figure = plt.figure(figsize=(9.6, 1.7 * len(kernels) + 0.7), layout="constrained")
    halves: Any = figure.subfigures(1, 2, width_ratios=[1.15, 1])
    left, right = halves
    axes = left.subplots(len(kernels), len(next(iter(kernels.values()))), squeeze=False)
    for row, (arm, by_taps) in zip(axes, kernels.items(), strict=True):
        row[0].set_ylabel(arm, color=ARM_COLOURS.get(arm, "0.15"))
        for axis, (taps, kernel) in zip(row, by_taps.items(), strict=True):
            # resized kernels are smaller by the ratio of the numbers of taps
            most = np.abs(kernel).max() or 1.0
            axis.imshow(kernel, "RdBu_r", vmin=-most, vmax=most, interpolation="none")
            axis.set(xticks=[], yticks=[])
            axis.set_xlabel(f"{taps}x{taps}")
    axis = right.subplots()
    data = accuracies.assign(accuracy=100 * accuracies["accuracy"])
    sns.lineplot(
        data,
        x="side",
        y="accuracy",
        hue="arm",
        style="way",
        markers=True,
        palette=[ARM_COLOURS.get(arm, "0.5") for arm in kernels],
        ax=axis,
    )
    sides = sorted(set(data["side"]))
    axis.set(xlabel="side of test images (pixels)", ylabel="accuracy (%)", xticks=sides)
    axis.legend(frameon=False, fontsize=8)
    figure.suptitle(title)
    return figure
