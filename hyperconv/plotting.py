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

ARM_COLOURS = {
    "hyper": "#1b7f5c",
    "normal": "#3a62b0",
    "normal + median 3x3": "#c2701d",
    "concatenated": "#8a4fa3",
    "shared": "#3a62b0",
    "lstm": "#c2701d",
}
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
    many = len(runs) > 2
    figure, axes = _new_figure(1, 1, size=(8.8 if many else 6.4, 4.0))
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
    axis.set(yscale="log", xlabel="epochs", ylabel="cross-entropy", title=title)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlim(left=0)
    axis.grid(axis="y", which="major", color="0.92")
    axis.legend(frameon=False, **({"loc": "upper left", "bbox_to_anchor": (1, 1)} if many else {}))
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


def moving_scales(
    strips: Sequence[tuple[str, np.ndarray]],
    gates: Sequence[str],
    bits: Mapping[str, float],
    path: Path,
    title: str,
) -> None:
    """Texts over how far the scales of each gate move at each character, and the arms' bits per character.

    Args:
        strips: text of T characters and the norms of the changes from each to the next, ``(gates, T - 1)``.
        bits: arm to bits per character.
    """
    heights = [1.0] * len(strips) + [0.25 + 0.2 * len(bits)]
    figure, axes = _new_figure(len(heights), 1, size=(12.0, 1.15 * sum(heights) + 0.9), height_ratios=heights)
    most = np.quantile(np.concatenate([moves.ravel() for _, moves in strips] or [[1.0]]), 0.995)
    for axis, (text, moves) in zip(axes[:-1, 0], strips, strict=True):
        image = axis.pcolormesh(
            np.arange(1, len(text) + 1), np.arange(len(gates) + 1), moves, cmap="rocket_r", vmin=0, vmax=most
        )
        for place, character in enumerate(text):
            shown = {" ": "\u00b7", "\n": "\u21b5"}.get(character, character)
            colour = "0.65" if shown != character else "0"
            axis.text(place + 0.5, -0.25, shown, family="monospace", fontsize=9, ha="center", color=colour)
        axis.set(xlim=(0, len(text)), ylim=(len(gates), -1.1), xticks=[])
        axis.set_yticks(np.arange(len(gates)) + 0.5, gates, fontsize=9)
        axis.tick_params(length=0)
        sns.despine(ax=axis, left=True, bottom=True)
    if strips:
        bar = figure.colorbar(image, ax=axes[:-1, 0], aspect=25, pad=0.01, extend="max")
        bar.set_label("change of the state weights' row scales")
    bars = axes[-1, 0]
    drawn = bars.barh(list(bits), list(bits.values()), color=[ARM_COLOURS.get(arm, "0.7") for arm in bits], height=0.7)
    bars.bar_label(drawn, fmt="%.3f", padding=3)
    bars.invert_yaxis()
    bars.set(xlabel="bits per character of the test text")
    figure.suptitle(title)
    _save(figure, path)


def forecasts(
    times: np.ndarray,
    observed: int,
    truth: np.ndarray,
    predicted: Mapping[str, np.ndarray],
    path: Path,
    title: str,
    strips: np.ndarray | None = None,
    marks: Mapping[str, np.ndarray] | None = None,
) -> None:
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
    figure, axes = _new_figure(
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
    _save(figure, path)


def _draw_strips(
    axes: Sequence[plt.Axes], times: np.ndarray, strips: np.ndarray, marks: Mapping[str, np.ndarray]
) -> None:
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


def registrations(
    columns: Mapping[str, tuple[np.ndarray, np.ndarray | None, np.ndarray | None]],
    figures: pd.DataFrame,
    path: Path,
    title: str,
    before: float,
    best: float | None = None,
) -> None:
    """Pairs of images registered at several weights of smoothness, and figures against the weight.

    Args:
        columns: title to images ``(P, 1, H, W)``, how far right and down of each pixel its source lay,
            ``(P, 2, H, W)`` or None, and masks to outline, ``(P, parts, H, W)`` or None.
        figures: a row for each ``arm``, weight ``λ`` and ``figure``: its ``value``. Arms but ``hyper`` are dots.
        before: the Dice of unregistered pairs.
        best: a weight to mark, or None.
    """
    pairs = len(next(iter(columns.values()))[0])
    sns.set_theme(context="paper", style="ticks", font_scale=1.15, rc=_STYLE)
    figure = plt.figure(figsize=(1.3 * len(columns), 2.75 * pairs + 3.2), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[2.75 * pairs, 2.9])
    axes = above.subplots(2 * pairs, len(columns), squeeze=False)
    for column, (name, shown) in zip(axes.T, columns.items(), strict=True):
        column[0].set_title(name)
        for pair in range(pairs):
            image, displacement, masks = (None if each is None else each[pair] for each in shown)
            _draw_outlined(column[2 * pair], image[0], masks)
            _draw_deformed_grid(column[2 * pair + 1], displacement)
    panels = {"dice": "Dice", "loss": "loss", "folds": "folded pixels (%)"}
    for axis, (name, label) in zip(below.subplots(1, 3), panels.items(), strict=True):
        _draw_against_weight(axis, figures[figures["figure"].str.startswith(name)])
        axis.set(xlabel="λ, weight of smoothness", ylabel=label, xlim=(-0.03, 1.03))
        axis.grid(axis="y", color="0.92")
        if name == "dice":
            axis.axhline(before, color="0.5", linestyle=":", label="before")
        if best is not None:
            axis.axvline(best, color="0.5", linewidth=0.8, label="best λ on validation pairs")
    figure.suptitle(title)
    below.legend(*below.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    _save(figure, path)


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
    fixed = rows["arm"] != "hyper"
    for name, line in rows[~fixed].groupby("figure", sort=False):
        axis.plot(line["λ"], line["value"], color=colours[name], label=name if len(names) > 1 else "one network")
    if fixed.any():
        dots = rows[fixed]
        axis.plot(dots["λ"], dots["value"], "o", color=ARM_COLOURS["normal"], label="a network for each λ")
