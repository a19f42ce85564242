"""Figures from logs and checkpoints. Every function writes one file, whose suffix chooses the format."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .files import renamed_into_place

ARM_COLOURS = {"hyper": "#1b7f5c", "normal": "#3a62b0", "normal + median 3x3": "#c2701d"}
_STYLE = {"axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 160}


def _new_figure(*grid: int, size: tuple[float, float], **options: object) -> tuple[Figure, np.ndarray]:
    sns.set_theme(context="paper", style="ticks", font_scale=1.15, rc=_STYLE)
    figure, axes = plt.subplots(*grid, figsize=size, squeeze=False, layout="constrained", **options)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    with renamed_into_place(path) as beside:
        figure.savefig(beside)
    plt.close(figure)
    print(f"wrote {path}")


def noise_curves(curves: pd.DataFrame, path: Path, digits: str) -> None:
    """Accuracy against the amount of noise, one panel a noise, bands of a standard deviation over repeats.

    Args:
        curves: as ``hyperconv.experiments.noise.noise_curves`` returns them.
        digits: name of the digits, for the title.
    """
    noises = curves["noiseType"].unique()
    figure, axes = _new_figure(1, len(noises), size=(3.6 * len(noises), 3.3), sharey=True)
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
    _save(figure, path)


def kernel_mosaic(kernels: np.ndarray, gap: int = 1) -> np.ndarray:
    """Kernels ``(O, I, h, w)`` side by side, a row an output channel, NaN in the gaps between them."""
    padded = np.pad(kernels, ((0, 0), (0, 0), (0, gap), (0, gap)), constant_values=np.nan)
    out_channels, in_channels, height, width = padded.shape
    mosaic = padded.transpose(0, 2, 1, 3).reshape(out_channels * height, in_channels * width)
    return mosaic[:-gap, :-gap]


def kernels(panels: Mapping[str, np.ndarray], path: Path, title: str) -> None:
    """Every kernel of a layer, one panel a network or view, on one colour scale centred at zero.

    Args:
        panels: title to kernels ``(O, I, h, w)``; the views may be sampled more finely than others.
    """
    figure, axes = _new_figure(1, len(panels), size=(4.0 * len(panels), 4.6))
    bound = max(np.quantile(np.abs(weights), 0.995) for weights in panels.values())
    for axis, (name, weights) in zip(axes[0], panels.items(), strict=True):
        gap = max(1, round(weights.shape[-1] / 5))
        image = axis.imshow(kernel_mosaic(weights, gap), cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="none")
        axis.set(title=name, xlabel="input channel", ylabel="output channel", xticks=[], yticks=[])
        sns.despine(ax=axis, left=True, bottom=True)
    bar = figure.colorbar(image, ax=axes, orientation="horizontal", shrink=0.4, aspect=40, pad=0.02, extend="both")
    bar.locator = MaxNLocator(nbins=5, symmetric=True)
    bar.set_label("weight")
    figure.suptitle(title)
    _save(figure, path)


def training_curves(runs: Mapping[str, pd.DataFrame], path: Path, title: str) -> None:
    """Losses on a log scale, training dashed and validation solid.

    Args:
        runs: label to the rows of a ``metrics.csv``.
    """
    figure, axes = _new_figure(1, 1, size=(6.4, 4.0))
    axis = axes[0, 0]
    spare = [colour for colour in sns.color_palette("deep").as_hex() if colour not in ARM_COLOURS.values()]
    for number, (label, rows) in enumerate(runs.items()):
        colour = ARM_COLOURS.get(label, spare[number % len(spare)])
        train, validation = rows.dropna(subset="train_loss"), rows.dropna(subset="val_loss")
        steps_an_epoch = (validation["step"].iloc[0] + 1) / (validation["epoch"].iloc[0] + 1)
        window = max(1, len(train) // len(validation))
        smooth = train["train_loss"].rolling(window, center=True, min_periods=1).mean()
        axis.plot((train["step"] + 1) / steps_an_epoch, smooth, "--", color=colour, linewidth=1.1, alpha=0.75)
        axis.plot(validation["epoch"] + 1, validation["val_loss"], "o-", color=colour, markersize=3.5, label=label)
    axis.plot([], [], "--", color="0.4", label="training, running mean over an epoch")
    axis.plot([], [], "o-", color="0.4", markersize=3.5, label="validation")
    axis.set(yscale="log", xlabel="epochs", ylabel="cross-entropy", title=title)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlim(left=0)
    axis.grid(axis="y", which="major", color="0.92")
    axis.legend(frameon=False)
    _save(figure, path)


def heat_maps(
    tables: Mapping[str, Sequence[Sequence[float]]],
    rows: tuple[str, Sequence[int]],
    columns: tuple[str, Sequence[int]],
    value: str,
    path: Path,
    title: str,
) -> None:
    """Tables as annotated heat maps side by side, each on its own colour scale.

    Args:
        tables: title to values, ``rows`` by ``columns``.
        rows: label and ticks of the vertical axis; ``columns``: of the horizontal one.
        value: what the numbers are.
    """
    figure, axes = _new_figure(1, len(tables), size=(4.2 * len(tables), 3.5))
    for axis, (name, values) in zip(axes[0], tables.items(), strict=True):
        sns.heatmap(
            np.asarray(values),
            annot=True,
            fmt=".3f",
            cmap="viridis",
            xticklabels=list(columns[1]),
            yticklabels=list(rows[1]),
            cbar_kws={"label": value},
            linewidths=1.5,
            ax=axis,
        )
        axis.set(title=name, xlabel=columns[0], ylabel=rows[0])
        axis.tick_params(length=0)
    figure.suptitle(title)
    _save(figure, path)
