"""How training goes at several depths, with every seed."""

from collections.abc import Mapping, Sequence

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...plotting import ARM_COLOURS, new_figure

Logs = Mapping[str, Mapping[int, Sequence[pd.DataFrame]]]
# rows of a log that are averaged
_WINDOW = 5


def stability(logs: Logs, title: str) -> Figure:
    """Training losses, a line a training and a panel a depth, and by how much they rose again.

    Args:
        logs: arm to depth to the rows of each training's ``metrics.csv``.
    """
    depths = sorted({depth for of_arm in logs.values() for depth in of_arm})
    spare = [colour for number, colour in enumerate(sns.color_palette("deep").as_hex()) if number not in (0, 2)]
    colours = {arm: ARM_COLOURS.get(arm, spare[number % len(spare)]) for number, arm in enumerate(logs)}
    figure, axes = new_figure(1, len(depths) + 1, size=(2.6 * (len(depths) + 1.3), 3.1))
    for axis, depth in zip(axes[0], depths, strict=False):
        for arm, of_arm in logs.items():
            for number, rows in enumerate(of_arm.get(depth, ())):
                losses = running_loss(rows)
                label = arm if number == 0 else None
                axis.plot(losses.index, losses, color=colours[arm], linewidth=0.9, alpha=0.7, label=label)
        axis.set(title=f"{depth} layers", xlabel="steps", ylim=(0, None), xlim=(0, None))
        axis.sharey(axes[0, 0])
        axis.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    axes[0, 0].set_ylabel("training loss, running mean")
    last = axes[0, -1]
    for number, (arm, of_arm) in enumerate(logs.items()):
        points = [(depth, largest_rise(rows)) for depth, trainings in of_arm.items() for rows in trainings]
        offset = 0.4 * (number - (len(logs) - 1) / 2)
        last.plot([d + offset for d, _ in points], [rise for _, rise in points], "o", ms=3.5, color=colours[arm])
    last.set(title="largest rise of it", xlabel="layers", ylim=(0, None), xticks=depths)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(logs), frameon=False)
    figure.suptitle(title)
    return figure


def running_loss(rows: pd.DataFrame) -> pd.Series:
    """The running mean of a log's training losses, by step."""
    losses = rows.dropna(subset="train_loss").set_index("step")["train_loss"]
    return losses.rolling(_WINDOW, min_periods=1).mean()


def largest_rise(rows: pd.DataFrame) -> float:
    """How far the running mean of training losses came to stand above its lowest value so far.

    >>> largest_rise(pd.DataFrame({"step": range(15), "train_loss": [2.0] * 5 + [1.0] * 5 + [3.0] * 5}))
    2.0
    """
    losses = running_loss(rows)
    return float((losses - losses.cummin()).max())
