"""HyperLSTM with layer norm beside LSTMs of as many parameters, with and without: on rows of digits, and on text."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
import torchmetrics
from torch import Tensor, nn

from ..data import Splits, as_float, batch_loader
from ..data.batches import Samples
from ..data.digits import CLASSES, SIDE
from ..data.text import SYMBOLS, as_text, load_text
from ..training import Recipe
from ..training.objectives import ACCURACY, LOSS, Batch, Metric, Objective, scores
from ..zoo.hyper_lstm import GATES, LayerNormHyperLSTM, LayerNormLSTM, PlainLSTM
from .experiment import TWICE_CHANCE, Arm, Experiment, Networks, rates_around

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

BITS = Metric("bpc", "bits per character", torchmetrics.MeanMetric, "lower")
# in an order that is the same for every digit, seed and arm
_PERMUTATION = torch.randperm(SIDE, generator=torch.Generator().manual_seed(0))
_CHARACTER_DIM = 32
_STRIPS = 4
# hidden units for equally many parameters
_OF_DIGITS = {"hyper": 112, "layer-norm": 132, "plain": 133}
_OF_TEXT = {"hyper": 112, "layer-norm": 131, "plain": 131}

Cell = Callable[[int, int], nn.Module]
CELLS: Mapping[str, Cell] = {
    "hyper": partial(LayerNormHyperLSTM, hyper_hidden=24, embedding_dim=4),
    "layer-norm": LayerNormLSTM,
    "plain": PlainLSTM,
}


def row_network(cell: Cell, hidden: int) -> nn.Module:
    """Rows of digits ``(B, 28, 28)`` to logits ``(B, 28, 10)`` after each."""
    return nn.Sequential(cell(SIDE, hidden), nn.Linear(hidden, CLASSES))


def character_network(cell: Cell, hidden: int) -> nn.Module:
    """ASCII codes ``(B, steps)`` to logits ``(B, steps, 128)`` of the next."""
    return nn.Sequential(
        nn.Embedding(SYMBOLS, _CHARACTER_DIM), cell(_CHARACTER_DIM, hidden), nn.Linear(hidden, SYMBOLS)
    )


def rows_to_classes(
    network: nn.Module, batch: Batch, draws: torch.Generator | None, order: Tensor | slice = slice(None)
) -> dict[str, Any]:
    """Cross-entropy and accuracy after the last row."""
    images, labels = batch
    rows = as_float(images).squeeze(1)[:, order]
    return scores(network(rows)[:, -1], labels)


def next_character(network: nn.Module, batch: Batch, draws: torch.Generator | None) -> dict[str, Any]:
    """Cross-entropy, and the same in bits, with how many characters it is the mean of."""
    (codes,) = batch
    codes = codes.long()
    following = codes[:, 1:].flatten()
    loss = F.cross_entropy(network(codes[:, :-1]).flatten(0, 1), following)
    return {LOSS: loss, BITS.column: (loss.detach() / math.log(2), len(following))}


@torch.no_grad()
def moving_scales(networks: Networks, splits: Splits) -> "Drawing":
    """How the scales that the hyper arm generates move along the first test sequences, and the bits of all arms."""
    from .figures import hyper_lstm as figures

    bits = {name: _bits(network, splits.test) for name, network in networks.items()}
    strips = []
    if "hyper" in networks:
        layers: list[Any] = list(networks["hyper"].children())
        embedding, cell, _ = layers
        (codes,) = splits.test[:_STRIPS]
        shown = codes[:, :-1]
        _, scales = cell.states_and_scales(embedding(shown.long()))
        moves = torch.stack(scales, dim=1)[:, :, 0].diff(dim=1).norm(dim=-1)
        strips = [(as_text(text), move.T.numpy()) for text, move in zip(shown, moves, strict=True)]
    return figures.moving_scales(strips, GATES, bits, f"Test text ({splits.name})")


def _bits(network: nn.Module, texts: Samples) -> float:
    bits = BITS.make()
    for batch in batch_loader(texts, _EVALUATION_BATCH):
        bits.update(*next_character(network, batch, None)[BITS.column])
    return bits.compute().item()


def _experiment(
    name: str,
    task: str,
    network: Callable[[Cell, int], nn.Module],
    widths: Mapping[str, int],
    recipes: Mapping[str, Recipe],
    **more: Any,
) -> Experiment:
    return Experiment(
        name=name,
        paper="HyperNetworks, Ha et al., ICLR 2017",
        task=f"{task}: LSTM whose weights a smaller one scales, or of as many parameters, with or without layer norm",
        minutes=8,
        arms={
            arm: Arm(partial(network, CELLS[arm], widths[arm]), recipe, rates_around(recipe))
            for arm, recipe in recipes.items()
        },
        recipe=recipes["hyper"],
        **more,
    )


# learning rates are the best of several on validation samples, for each arm
_ROWS = Recipe(
    "adamw",
    1e-2,
    1e-2,
    "one-cycle",
    batch_size=128,
    epochs=6,
    patience=None,
    shuffle=True,
    steps_an_epoch=120,
    clip=1.0,
)
_OF_ROWS = {"hyper": _ROWS, "layer-norm": _ROWS, "plain": replace(_ROWS, learning_rate=2e-2)}
_OF_CHARACTERS = dict.fromkeys(CELLS, replace(_ROWS, learning_rate=4e-2, batch_size=64, epochs=8))
_EVALUATION_BATCH = 500


def _rows(name: str, task: str, order: Tensor | slice = slice(None)) -> Experiment:
    objective = Objective(partial(rows_to_classes, order=order), (ACCURACY,), loss="cross-entropy")
    more: dict[str, Any] = {"objective": objective, "quick_epochs": 4, "failed_at": TWICE_CHANCE}
    return _experiment(name, task, row_network, _OF_DIGITS, _OF_ROWS, **more)


EXPERIMENTS = (
    _rows("hyperlstm", "rows of a digit, one after the other, to its class"),
    _rows("hyperlstm-permuted", "rows of a digit, in another order, to its class", _PERMUTATION),
    _experiment(
        "hyperlstm-characters",
        "characters of a text (a .txt file, or a folder with input.txt) to the next one",
        character_network,
        _OF_TEXT,
        _OF_CHARACTERS,
        load=load_text,
        objective=Objective(next_character, (BITS,), loss="cross-entropy (nats)"),
        quick_epochs=3,
        figure=moving_scales,
    ),
)
