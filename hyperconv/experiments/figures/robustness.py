"""Digits as they are spoilt, and how fine kernels are, layer by layer."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from ...plotting import ARM_COLOURS, set_style

_OF_WHITE_NOISE = 0.75


def digits_and_spectra(digits: Mapping[str, np.ndarray], shares: Mapping[str, Sequence[float]], title: str) -> Figure:
    """A row of images, and below it the share of high frequencies in each convolution's kernels, a line an arm.

    Args:
        digits: name to ``(H, W)``.
        shares: arm to a share a layer, in order.
    """
    set_style()
    figure = plt.figure(figsize=(9.6, 4.9), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=[1, 2.6])
    for axis, (name, image) in zip(parts[0].subplots(1, len(digits)), digits.items(), strict=True):
        axis.imshow(image, "gray", vmin=0, vmax=255, interpolation="none")
        axis.set(xticks=[], yticks=[], frame_on=False)
        axis.set_title(name, fontsize=9)
    axis = parts[1].subplots()
    rows = pd.DataFrame(
        [(arm, layer, share) for arm, each in shares.items() for layer, share in enumerate(each, 1)],
        columns=["arm", "layer", "share"],
    )
    spare = iter(sns.color_palette("deep").as_hex()[3:])
    palette = {arm: ARM_COLOURS.get(arm) or next(spare) for arm in shares}
    sns.lineplot(
        rows, x="layer", y="share", hue="arm", style="arm", palette=palette, markers=True, dashes=False, ax=axis
    )
    axis.axhline(_OF_WHITE_NOISE, color="0.6", linewidth=0.8, linestyle=":")
    axis.annotate("white noise", (1, _OF_WHITE_NOISE), color="0.4", fontsize=8, va="bottom")
    axis.set(xlabel="convolution", ylabel="high frequencies,\nshare of kernels' energy", ylim=(0, None))
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    figure.suptitle(title)
    return figure
