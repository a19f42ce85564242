"""Scenes of digits segmented by a decoder with other weights in every patch, in every scene, or the same always."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassJaccardIndex

from ..data import Splits, as_float, batch_loader
from ..data.scenes import SCENE_CLASSES, digit_scenes
from ..training import Recipe
from ..training.objectives import LOSS, Batch, Metric, Objective
from ..zoo.hyperseg import HyperSeg, MetaDecoder, StaticDecoder
from .experiment import Arm, Experiment, Figure, Networks

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

MIOU = Metric(
    "miou", "mIoU", partial(MulticlassJaccardIndex, num_classes=SCENE_CLASSES, validate_args=False), "higher", True
)
_EVALUATION_BATCH = 100
_SHOWN = 5
_IN_PLANE = 300


def segmentation(network: nn.Module, batch: Batch, draws: torch.Generator | None) -> dict[str, Any]:
    """Cross-entropy over all pixels, and what mIoU takes.

    Args:
        batch: images ``(B, 1, H, W)`` and classes ``(B, H, W)``.
    """
    images, classes = batch
    logits, classes = network(as_float(images)), classes.long()
    return {LOSS: F.cross_entropy(logits, classes), MIOU.column: (logits.detach().argmax(1), classes)}


def borders(height: int, width: int, patch: int, shift: int = 0) -> Tensor:
    """Pixels next to a line between patches, ``(H, W)``; the edge of the image is no such line.

    Args:
        shift: moves the lines down and right by so many pixels; those that come closer to the edge than a patch are
            left out.

    >>> borders(1, 8, 4).int().tolist()
    [[0, 0, 0, 1, 1, 0, 0, 0]]
    """

    def beside(side: int) -> Tensor:
        place = torch.arange(side)
        lines = place[(place % patch == shift) & (place >= patch) & (place <= side - patch)].unsqueeze(1)
        return ((place == lines) | (place == lines - 1)).any(0)

    return beside(height).unsqueeze(1) | beside(width)


@torch.no_grad()
def seams(network: Any, splits: Splits) -> Sequence[Figure]:
    """How much more often test pixels at `borders` are wrong than others, and likewise half a patch away.

    Errors are not spread evenly over scenes, patches or not: the second figure, and a network without patches, tell.
    """
    wrong: Tensor = sum((network(as_float(images)).argmax(1) != classes).sum(0) for images, classes in _batches(splits))
    height, width = wrong.shape
    figures = []
    for shift, at in ((0, "patch borders"), (network.patch // 2, "half a patch away")):
        beside = borders(height, width, network.patch, shift)
        over = wrong[beside].double().mean() / wrong[~beside].double().mean()
        figures.append(Figure("error at borders over inside", over.item(), at))
    return figures


def _batches(splits: Splits) -> Iterable[tuple[Tensor, Tensor]]:
    return batch_loader(splits.test, _EVALUATION_BATCH)


@torch.no_grad()
def figure(networks: Networks, splits: Splits) -> "Drawing":
    """Test scenes, what each arm makes of them, and the signals that patches' weights are made from."""
    from sklearn.decomposition import PCA

    from .figures.hyperseg import segmented

    images, classes = splits.test[:_IN_PLANE]
    predicted = {arm: network(as_float(images[:_SHOWN])).argmax(1).numpy() for arm, network in networks.items()}
    network: Any = networks.get("hyper", next(iter(networks.values())))
    signals = network.signal(as_float(images)).movedim(1, -1)
    of_patches = commonest(classes, network.patch).numpy()
    signals = signals.numpy()
    components = PCA(n_components=3).fit(signals[of_patches > 0])
    plane = components.transform(signals.reshape(-1, signals.shape[-1]))
    return segmented(
        images[:_SHOWN, 0].numpy(),
        classes[:_SHOWN].numpy(),
        predicted,
        plane.reshape(*signals.shape[:3], -1),
        of_patches,
        f"Scenes of digits ({splits.name}, test) segmented with weights of each patch's own",
    )


def commonest(classes: Tensor, patch: int) -> Tensor:
    """The class of most pixels of each patch but for the background, ``(B, H, W)`` to ``(B, R, C)``; 0 where none is.

    >>> commonest(torch.tensor([[[0, 3, 0, 0], [3, 4, 0, 0]]]), 2)
    tensor([[[3, 0]]])
    """
    counts = F.one_hot(classes.long(), SCENE_CLASSES)[..., 1:].movedim(-1, 1).float()
    most, where = F.avg_pool2d(counts, patch).max(1)
    return torch.where(most > 0, where + 1, 0)


_RECIPE = Recipe("adamw", 5e-3, 1e-2, "one-cycle", batch_size=8, epochs=2, patience=None, shuffle=True)
_RATES = {"learning_rate": (2e-3, 5e-3, 1.25e-2, 3e-2, 7.5e-2, 2e-1)}
# the best of these on validation scenes
_CHOSEN = {"hyper": 1.25e-2, "global": 7.5e-2, "static": 3e-2}
_DECODERS: dict[str, Callable[..., nn.Module]] = {
    "hyper": MetaDecoder,
    "global": partial(MetaDecoder, one_kernel=True),
    "static": StaticDecoder,
}
HYPERSEG = Experiment(
    name="hyperseg",
    paper="HyperSeg, Nirkin et al., CVPR 2021",
    task="scenes of digits to each pixel's digit: the decoder's weights are of every patch, of every scene, or stored",
    minutes=4,
    arms={
        arm: Arm(partial(HyperSeg, decoder, SCENE_CLASSES), replace(_RECIPE, learning_rate=_CHOSEN[arm]), _RATES)
        for arm, decoder in _DECODERS.items()
    },
    recipe=_RECIPE,
    objective=Objective(segmentation, (MIOU,), chosen_by=MIOU.column, loss="cross-entropy"),
    load=digit_scenes,
    evaluation_batch=_EVALUATION_BATCH,
    quick_samples=2400,
    measure=seams,
    figure=figure,
)
EXPERIMENTS = (HYPERSEG,)
