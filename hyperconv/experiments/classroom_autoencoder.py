"""Autoencoders of digits around 16 numbers: convolutional ones, with generated and stored kernels, and perceptrons."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanSquaredError

from ..data import Splits, as_float, batch_loader
from ..training import Recipe
from ..training.objectives import LOSS, Batch, Measured, Metric, Objective
from ..zoo.classroom import HYPER, NORMAL, Autoencoder, Layers, convolutional_autoencoder, perceptron_autoencoder
from .experiment import Arm, Experiment, Networks

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

_RECIPE = Recipe("adamw", 1e-2, 1e-4, "one-cycle", batch_size=128, epochs=3, patience=None, shuffle=True)
_GRID = {"learning_rate": (5e-3, 1e-2, 2e-2, 4e-2, 8e-2, 1.6e-1)}
# the best of these on validation digits, around 16x1x1
_CHOSEN = {"hyper": 1.6e-1, "normal": 8e-2, "mlp": 1e-2, "mlp-small": 4e-2}
_END = {"learning_rate": "half of it comes within a hundredth of its error"}
_CODES = 16
_BOTTLENECKS = {"16x1x1": (16, 1), "4x2x2": (4, 2)}
# about as many operations as normal-transposed, and as many parameters as the arms with stored kernels
_PERCEPTRONS = {"mlp": (512, 128), "mlp-small": (28,)}
_MAPPED = 1000
_BETWEEN = 9


@dataclass(frozen=True)
class AutoencoderOptions:
    """Options of classroom-autoencoder.

    Args:
        bottleneck: channels x height x width of what convolutional encoders make of a digit; those of perceptrons make
            16 numbers either way.
    """

    bottleneck: Literal["16x1x1", "4x2x2"] = "16x1x1"


def reconstruction(network: nn.Module, batch: Batch, draws: torch.Generator | None) -> dict[str, Any]:
    """Mean squared error of pixels, in 0 ... 1, of digits that went through an autoencoder."""
    images = as_float(batch[0])
    reconstructed = network(images)
    return {LOSS: F.mse_loss(reconstructed, images), "mse": (reconstructed.detach(), images)}


RECONSTRUCTION = Objective(
    reconstruction, (Metric("mse", "mean squared error", MeanSquaredError, "lower"),), loss="mean squared error"
)


def _arms(options: AutoencoderOptions) -> dict[str, Arm]:
    convolutional = partial(convolutional_autoencoder, _BOTTLENECKS[options.bottleneck])
    kinds: dict[str, Layers] = {"hyper": HYPER, "normal": NORMAL}
    arms = {
        f"{kind}-{enlarging}": _arm(kind, partial(convolutional, enlarging, layers))
        for kind, layers in kinds.items()
        for enlarging in ("transposed", "upsampling")
    }
    for name, hidden in _PERCEPTRONS.items():
        arms[name] = _arm(name, partial(perceptron_autoencoder, hidden, _CODES), ignores=("bottleneck",))
    return arms


def _arm(kind: str, network: Callable[[], nn.Module], **more: Any) -> Arm:
    return Arm(network, replace(_RECIPE, learning_rate=_CHOSEN[kind]), _GRID, _END, **more)


def principal_components(images: Tensor) -> Autoencoder:
    """The linear autoencoder of the least squared error on these images.

    Args:
        images: ``(N, 1, H, W)``, float.
    """
    from sklearn.decomposition import PCA

    components = PCA(min(_CODES, len(images))).fit(images.flatten(1).numpy())
    encoder, decoder = nn.Linear(*components.components_.shape[::-1]), nn.Linear(*components.components_.shape)
    rows, mean = torch.from_numpy(components.components_), torch.from_numpy(components.mean_)
    encoder.load_state_dict({"weight": rows, "bias": -rows @ mean})
    decoder.load_state_dict({"weight": rows.T, "bias": mean})
    return Autoencoder(nn.Sequential(nn.Flatten(), encoder), nn.Sequential(decoder, nn.Unflatten(1, images.shape[1:])))


def maps(codes: Tensor) -> dict[str, np.ndarray]:
    """Codes ``(N, *)`` in a plane, ``(N, 2)``: their first two principal components, and by t-SNE."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    flat = codes.flatten(1).numpy()
    perplexity = min(30.0, (len(flat) - 1) / 3)
    return {
        "PCA": PCA(2).fit_transform(flat),
        "t-SNE": TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(flat),
    }


def between(first: Tensor, last: Tensor, count: int) -> Tensor:
    """Points at even steps on a straight line, both ends among them: ``(*)`` and ``(*)`` to ``(count, *)``."""
    return torch.stack([torch.lerp(first, last, step) for step in torch.linspace(0, 1, count).tolist()])


def drawn(codes: Tensor, labels: Tensor, seed: int) -> Tensor:
    """For each class one code from the Gaussian whose mean and covariance are those of the class's codes.

    Args:
        codes: ``(N, *)``.
        labels: ``(N,)``.

    Returns:
        ``(classes, *)``, in the order of the labels.
    """
    draws = np.random.default_rng(seed)
    samples = []
    for label in labels.unique():
        of_class = codes[labels == label].flatten(1).double().numpy()
        covariance = np.cov(of_class, rowvar=False, bias=True)
        samples.append(draws.multivariate_normal(of_class.mean(axis=0), covariance, method="eigh"))
    return torch.from_numpy(np.stack(samples)).float().unflatten(1, codes.shape[1:])


def _error(network: nn.Module, splits: Splits) -> float:
    measured = Measured(RECONSTRUCTION)
    for batch in batch_loader(splits.test, AUTOENCODER.evaluation_batch):
        measured.update(reconstruction(network, batch, None), len(batch[0]))
    return measured.figures()["mse"]


@torch.no_grad()
def figure(networks: Networks, splits: Splits) -> "Drawing":
    """Maps of the first test digits' codes, and what each arm decodes; principal components beside them.

    Decoded are the codes of a test digit of each class, points between two of these, and new codes, drawn as `drawn`
    does from those of the training digits.
    """
    from .figures.classroom import Row, latent_figure

    training, classes = splits.train[: len(splits.train)]
    test, labels = splits.test[: len(splits.test)]
    training, test = as_float(training), as_float(test)
    shown = test[_firsts(labels)]
    autoencoders: dict[str, Any] = {"linear (PCA)": principal_components(training), **networks}
    real = shown, between(shown[0], shown[-1], _BETWEEN), training[_firsts(classes)]
    rows = [Row("digits", *(images.numpy() for images in real))]
    planes = {}
    for name, autoencoder in autoencoders.items():
        encoded = torch.cat([autoencoder.encoder(images) for images in training.split(AUTOENCODER.evaluation_batch)])
        of_shown = autoencoder.encoder(shown)
        codes = of_shown, between(of_shown[0], of_shown[-1], _BETWEEN), drawn(encoded, classes, seed=0)
        label = f"{name}, {_error(autoencoder, splits):.4f}"
        rows.append(Row(label, *(autoencoder.decoder(each).numpy() for each in codes)))
        planes[name] = maps(autoencoder.encoder(test[:_MAPPED]))
    arms = (autoencoders[name] for name in networks)
    shapes = {"x".join(map(str, network.encoder(shown).shape[1:])) for network in arms}
    title = f"Autoencoders of digits ({splits.name}) around {_CODES} numbers ({', '.join(sorted(shapes))})"
    return latent_figure(planes, labels[:_MAPPED].numpy(), rows, title)


def _firsts(labels: Tensor) -> Tensor:
    """Where each class is seen first."""
    return torch.stack([(labels == label).nonzero()[0, 0] for label in labels.unique()])


AUTOENCODER = Experiment(
    name="classroom-autoencoder",
    paper="PC lab 13, github.com/gdewael/teaching",
    task=f"digits to themselves through {_CODES} numbers: transposed convolutions or upsampling, generated or stored "
    "kernels; perceptrons",
    minutes=5,
    arms=_arms(AutoencoderOptions()),
    recipe=_RECIPE,
    objective=RECONSTRUCTION,
    options=AutoencoderOptions,
    adapted=lambda autoencoder, options: replace(autoencoder, arms=_arms(options)),
    quick_epochs=5,
    figure=figure,
)
EXPERIMENTS = (AUTOENCODER,)
