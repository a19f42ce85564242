"""Where in a text the scales that a hypernetwork generates move."""

from collections.abc import Mapping, Sequence

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from ...plotting import ARM_COLOURS, new_figure


def moving_scales(
    strips: Sequence[tuple[str, np.ndarray]],
    gates: Sequence[str],
    bits: Mapping[str, float],
    title: str,
) -> Figure:
    """Texts over how far the scales of each gate move at each character, and the arms' bits per character.

    Args:
        strips: text of T characters and the norms of the changes from each to the next, ``(gates, T - 1)``.
        bits: arm to bits per character.
    """
    heights = [1.0] * len(strips) + [0.25 + 0.2 * len(bits)]
    figure, axes = new_figure(len(heights), 1, size=(12.0, 1.15 * sum(heights) + 0.9), height_ratios=heights)
    most = np.quantile(np.concatenate([moves.ravel() for _, moves in strips] or [np.ones(1)]), 0.995)
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
    return figure
