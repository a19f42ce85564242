"""Draw the paper's tables of Dice against kernel size and width of the generator; see --help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hyperconv import cli, plotting

KERNEL_SIZES = (3, 5, 7)
HEAD_WIDTHS = (2, 4, 8)
# Ma, Dalca, Sabuncu, "Hyper-Convolution Networks for Biomedical Image Segmentation", WACV 2022, tables 2 and 4
DICE = {
    "liver lesion": ((0.604, 0.627, 0.648), (0.692, 0.728, 0.705), (0.683, 0.704, 0.717)),
    "multiple sclerosis lesion": ((0.622, 0.625, 0.617), (0.648, 0.655, 0.651), (0.634, 0.644, 0.646)),
}


@dataclass(frozen=True)
class PaperHeatMap:
    """Draw the Dice scores that the paper reports as heat maps over kernel size and N_L, the last hidden width.

    Args:
        format: of the figure.
        out: folder for the figure.
    """

    format: Literal["png", "pdf", "svg"] = "png"
    out: str = "out"


def main(settings: PaperHeatMap) -> None:
    figure = plotting.heat_maps(
        DICE,
        rows=("kernel size", KERNEL_SIZES),
        columns=("$N_L$", HEAD_WIDTHS),
        value="Dice",
        title="Hyper-convolutional U-Nets as published (Ma, Dalca, Sabuncu, WACV 2022)",
    )
    plotting.save(figure, Path(settings.out) / f"heatmap_from_paper.{settings.format}")


if __name__ == "__main__":
    cli.run(main, PaperHeatMap)
