"""Style, colours of roles, and figures that any experiment may draw; what only one draws stands beside that one.

The suffix of the path that a figure is saved to chooses the format.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .errors import InputError
from .files import read_text, renamed_into_place

ARM_COLOURS = {
    "hyper": "#1b7f5c",
    "normal": "#3a62b0",
    "normal + median 3x3": "#c2701d",
    "concatenated": "#8a4fa3",
    "shared": "#3a62b0",
    "lstm": "#c2701d",
}
_STYLE = {"axes.spines.top": False, "axes.spines.right": False, "savefig.dpi": 160}


def set_style() -> None:
    sns.set_theme(context="paper", style="ticks", font_scale=1.15, rc=_STYLE)


def new_figure(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure, and its axes ``(rows, columns)``."""
    set_style()
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", **options)
    return figure, axes


def save(figure: Figure, path: Path) -> None:
    with renamed_into_place(path) as beside:
        figure.savefig(beside)
    plt.close(figure)
    print(f"wrote {path}")


def kernel_mosaic(kernels: np.ndarray, gap: int = 1) -> np.ndarray:
    """Kernels ``(O, I, h, w)`` side by side, a row an output channel, NaN in the gaps between them."""
    padded = np.pad(kernels, ((0, 0), (0, 0), (0, gap), (0, gap)), constant_values=np.nan)
    out_channels, in_channels, height, width = padded.shape
    mosaic = padded.transpose(0, 2, 1, 3).reshape(out_channels * height, in_channels * width)
    return mosaic[:-gap, :-gap]


def kernels(panels: Mapping[str, np.ndarray], title: str) -> Figure:
    """Every kernel of a layer, one panel a network or view, on one colour scale centred at zero.

    Args:
        panels: title to kernels ``(O, I, h, w)``; the views may be sampled more finely than others.
    """
    figure, axes = new_figure(1, len(panels), size=(4.0 * len(panels), 4.6))
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
    return figure


def read_losses(path: Path) -> pd.DataFrame:
    """Columns epoch, step, train_loss and val_loss of a ``metrics.csv``.

    Raises:
        InputError: no table with these columns, or without losses in them.
    """
    try:
        rows = pd.read_csv(io.StringIO(read_text(path)))
        losses = rows[["epoch", "step", "train_loss", "val_loss"]].astype(float)
    except (KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is no table of epoch, step, train_loss and val_loss: {reason}") from error
    losses = losses.mask(losses.abs() > 1e100)
    if losses["val_loss"].isna().all() or losses["train_loss"].isna().all():
        raise InputError(f"{path} has no training or no validation losses yet")
    return losses


def training_curves(runs: Mapping[str, pd.DataFrame], title: str, loss: str = "loss") -> Figure:
    """Losses, training dashed and validation solid; on a log scale where all of them are positive.

    Args:
        runs: label to the rows of a ``metrics.csv``.
        loss: what it is called.
    """
    runs = {label.replace("$", r"\$"): rows for label, rows in runs.items()}
    title = title.replace("$", r"\$")
    many = len(runs) > 2
    figure, axes = new_figure(1, 1, size=(8.8 if many else 6.4, 4.0))
    axis = axes[0, 0]
    # its blue and green would be taken for those of the arms
    spare = [colour for number, colour in enumerate(sns.color_palette("deep").as_hex()) if number not in (0, 2)]
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
    positive = all((rows[["train_loss", "val_loss"]].min() > 0).all() for rows in runs.values())
    axis.set(yscale="log" if positive else "linear", xlabel="epochs", ylabel=loss, title=title)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlim(left=0)
    axis.grid(axis="y", which="major", color="0.92")
    axis.legend(frameon=False, **({"loc": "upper left", "bbox_to_anchor": (1, 1)} if many else {}))
    return figure


def heat_maps(
    tables: Mapping[str, Sequence[Sequence[float]]],
    rows: tuple[str, Sequence[int]],
    columns: tuple[str, Sequence[Any]],
    value: str,
    title: str,
) -> Figure:
    """Tables as annotated heat maps side by side, each on its own colour scale.

    Args:
        tables: title to values, ``rows`` by ``columns``.
        rows: label and ticks of the vertical axis; ``columns``: of the horizontal one.
        value: what the numbers are.
    """
    figure, axes = new_figure(1, len(tables), size=(4.2 * len(tables), 3.5))
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
    return figure
