"""Accuracy of digit classifiers as their digits grow noisy."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ...plotting import ARM_COLOURS, new_figure


def noise_figure(curves: pd.DataFrame, digits: str) -> Figure:
    """Accuracy against the amount of noise, one panel a noise, bands of a standard deviation over repeats.

    Args:
        curves: as ``hyperconv.experiments.noise.noise_curves`` returns them.
        digits: name of the digits, for the title.
    """
    noises = curves["noiseType"].unique()
    figure, axes = new_figure(1, len(noises), size=(3.6 * len(noises), 3.3), sharey=True)
    for axis, noise in zip(axes[0], noises, strict=True):
        shown = curves[curves["noiseType"] == noise]
        sns.lineplot(
            shown,
            x="amount",
            y="accuracy",
            hue="modelType",
            hue_order=[name for name in ARM_COLOURS if name in set(shown["modelType"])],
            palette=ARM_COLOURS,
            errorbar="sd",
            ax=axis,
            legend=axis is axes[0, -1],
        )
        axis.axhline(0.1, color="0.7", linewidth=0.8, linestyle=":")
        unit = {"amount": "fraction of pixels", "std": "standard deviation"}[shown["noiseUnit"].iloc[0]]
        axis.set(title=noise, xlabel=unit, ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
        axis.yaxis.set_major_formatter(PercentFormatter(1))
    sns.move_legend(axes[0, -1], "lower left", title=None, frameon=False)
    repeats = curves["repeat"].nunique()
    figure.suptitle(f"Accuracy on noisy digits ({digits}; mean and sd of {repeats} draws)")
    return figure
