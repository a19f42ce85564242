"""What the study shows: accuracy against cost, the paper's grid, and robustness against how fine kernels are."""

import re
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from scipy.stats import pearsonr

from ...plotting import ARM_COLOURS, heat_maps, new_figure
from ..frontier import FEATURES, TAPS
from ..statistics import mean_interval

_MARKERS = {3: "v", 5: "o", 7: "s"}
_COSTS = {"parameters": "parameters", "operations": "operations for each of 500 digits"}
_NOISES = ("salt-and-pepper", "gaussian", "speckle")


def frontier(rows: pd.DataFrame) -> Figure:
    """Test error against parameters and against operations, a column a number of training digits; 95 % intervals.

    Args:
        rows: columns arm, digits, value (accuracy), parameters and operations.
    """
    counts = _in_order(rows["digits"])
    figure, axes = new_figure(2, len(counts), size=(3.1 * len(counts) + 1.2, 5.8), sharey="col")
    for column, digits in zip(axes.T, counts, strict=True):
        for axis, (cost, label) in zip(column, _COSTS.items(), strict=True):
            for arm, own in rows[rows["digits"] == digits].groupby("arm", sort=False):
                role, taps = ("hyper" if arm.startswith("hyper") else "normal"), int(re.findall(r"(\d)x", arm)[0])
                mean, width = _error(own["value"])
                axis.errorbar(
                    own[cost].iloc[0],
                    mean,
                    width,
                    color=ARM_COLOURS[role],
                    marker=_MARKERS[taps],
                    markerfacecolor="white" if _is_variant(arm) else None,
                    capsize=2,
                    linewidth=0.9,
                )
            axis.set(xscale="log", xlabel=label)
        column[0].set_title(f"{digits} training digits" if digits != "all" else "all training digits")
    for axis in axes[:, 0]:
        axis.set_ylabel("test error (%)")
    labels = [("generated", ARM_COLOURS["hyper"], "o"), ("stored", ARM_COLOURS["normal"], "o")]
    labels += [(f"{taps}x{taps} taps", "0.3", marker) for taps, marker in _MARKERS.items()]
    handles = [
        plt.Line2D([], [], color=colour, marker=marker, linestyle="", label=name) for name, colour, marker in labels
    ]
    handles.append(
        plt.Line2D(
            [], [], color="0.3", marker="o", markerfacecolor="white", linestyle="", label="narrower, or another norm"
        )
    )
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.suptitle("What accuracy costs: generated and stored kernels, means and 95 % intervals of five trainings")
    return figure


def grid(rows: pd.DataFrame) -> Figure:
    """Accuracy over kernel size and the generator's last width, stored kernels beside it: a panel a number of digits.

    Args:
        rows: as of `frontier`.
    """
    means = rows.groupby(["digits", "arm"])["value"].mean()
    names = [[*(f"hyper-{taps}x{taps}-{last}" for last in FEATURES), f"normal-{taps}x{taps}"] for taps in TAPS]
    tables = {
        f"{digits} training digits": [[means.get((digits, arm), np.nan) for arm in row] for row in names]
        for digits in _in_order(rows["digits"])
    }
    return heat_maps(
        tables,
        rows=("kernel size", TAPS),
        columns=("$N_L$, and stored kernels", [*FEATURES, "stored"]),
        value="test accuracy",
        title="The paper's grid on digits",
    )


def robustness(rows: pd.DataFrame) -> Figure:
    """Mean accuracy over all noises, with a median filter and without; and that against how fine kernels are.

    The correlation is that of networks that saw clean digits only, and within their arms: with what arms differ in
    taken off.

    Args:
        rows: columns arm, seed, metric, at and value.
    """
    from ..robustness import HIGH_FREQUENCIES, MEDIAN

    noisy = pd.concat(
        [
            rows[(rows["metric"] == "accuracy") & rows["at"].isin([f"{noise}{end}" for noise in _NOISES])]
            .groupby(["arm", "seed"], sort=False)["value"]
            .mean()
            .rename(way)
            for way, end in (("as it is", ""), (MEDIAN, f", {MEDIAN}"))
        ],
        axis=1,
    ).reset_index()
    fine = rows[(rows["metric"] == HIGH_FREQUENCIES) & (rows["at"] == "")].set_index(["arm", "seed"])["value"]
    figure, axes = new_figure(1, 2, size=(10.4, 4.2), width_ratios=[1.25, 1])
    left, right = axes[0]
    arms = list(dict.fromkeys(noisy["arm"]))
    for way, marker, offset in (("as it is", "o", -0.12), (MEDIAN, "s", 0.12)):
        errors = [_error(noisy[noisy["arm"] == arm][way]) for arm in arms]
        left.errorbar(
            [100 - mean for mean, _ in errors],
            np.arange(len(arms)) + offset,
            xerr=[width for _, width in errors],
            fmt=marker,
            color="0.25" if way == "as it is" else ARM_COLOURS["normal + median 3x3"],
            capsize=2,
            label=way,
        )
    left.set(yticks=range(len(arms)), yticklabels=arms, xlabel="accuracy on noisy digits (%)")
    left.invert_yaxis()
    left.grid(axis="x", color="0.92")
    left.legend(frameon=False)
    shown = noisy.join(fine.rename("fine"), on=["arm", "seed"])
    sns.scatterplot(
        shown.assign(accuracy=100 * shown["as it is"]), x="fine", y="accuracy", hue="arm", style="arm", ax=right
    )
    right.set(xlabel="high frequencies, share of kernels' energy", ylabel="accuracy on noisy digits (%)")
    right.legend(frameon=False, fontsize=8)
    clean = shown[~shown["arm"].str.endswith("trained-on-noise")][["arm", "fine", "as it is"]]
    within = clean.set_index("arm") - clean.groupby("arm").mean()
    found = {"clean trainings": clean, "within their arms": within}
    lines = [f"{name}: {correlation(each['fine'].tolist(), each['as it is'].tolist())}" for name, each in found.items()]
    right.set_title("\n".join(lines), fontsize=9)
    figure.suptitle("Robustness: all test digits under three noises at 20 levels, means and 95 % intervals")
    return figure


def correlation(first: Sequence[float], second: Sequence[float]) -> str:
    """Pearson's, with its 95 % interval.

    >>> correlation([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 3.0])
    'r = 0.94 (-0.19 to 1.00), n = 4'
    """
    found: Any = pearsonr(first, second)
    low, high = found.confidence_interval()
    return f"r = {found.statistic:.2f} ({low:.2f} to {high:.2f}), n = {len(first)}"


def _error(accuracies: pd.Series) -> tuple[float, float]:
    """Mean and half the width of the interval, in %; of one value, no width."""
    errors = [100 * (1 - value) for value in accuracies]
    return mean_interval(errors) if len(errors) > 1 else (errors[0], 0.0)


def _is_variant(arm: str) -> bool:
    """Whether it is narrower, or has another norm."""
    return "width" in arm or arm.count("-") > 2


def _in_order(digits: pd.Series) -> list[str]:
    return sorted(digits.unique(), key=lambda count: float("inf") if count == "all" else int(count))
