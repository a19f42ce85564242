"""The next frame of a clip: two kernels a sample beside stored ones, extrapolated motion, and persistence."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics import MeanSquaredError
from torchmetrics.regression import CriticalSuccessIndex

from ..data import Splits, as_float, batch_loader
from ..data.drifting_digits import FASTEST, PREDICTED, SEEN, one_motion, two_motions
from ..data.radar import DBZ, INTERVAL, radar_clips
from ..training import Recipe
from ..training.objectives import LOSS, Batch, Metric, Objective
from ..zoo.dynamic_convolutional_layer import DynamicConvolutionalLayer, FedBack, PlainForecaster
from ..zoo.dynamic_filter_network import LocalFilterNetwork
from ..zoo.extrapolation import Extrapolation, Nowcast, Persistence, lucas_kanade, phase_correlation, tv_l1
from .experiment import Arm, Experiment, Figure, Networks

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

Clips = Literal["digits", "apart", "radar"]
LEADS = (1, 3, 6)
_BATCH = 100


@dataclass(frozen=True)
class WeatherOptions:
    """Options of weather.

    Args:
        clips: what to forecast: digits that move as one; two digits that move apart, for which one kernel a sample
            cannot do, and one a pixel may (arm dfn); or radar, trained on one event and tested on another (--data:
            folder of fmi_256.npz; auto: data/radar_fmi).
    """

    clips: Clips = "digits"


class FilterAPixel(FedBack):
    """`LocalFilterNetwork`, told of nothing but the four frames before each that it predicts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.network = LocalFilterNetwork(predicted=1, width=width)

    def next_frame(self, frames: Tensor) -> Tensor:
        return self.network(frames)


class Task(NamedTuple):
    """What is forecast, and how it is measured.

    Attributes:
        load: the clips, ``(B, T, H, W)``, uint8.
        title: of the figure.
        largest: what the pixel value 255 stands for.
        unit: of that; errors are in its square.
        thresholds: of the critical success index.
        edge: pixels along the frames' edges that are not scored, since what comes in there was not seen.
        turned: whether clips for training are turned and mirrored at random.
    """

    load: Callable[[str], Splits]
    title: str
    largest: float
    unit: str
    thresholds: tuple[float, float]
    edge: int
    turned: bool = False


ERROR = Metric("mse", "MSE", MeanSquaredError, "lower")
TASKS: Mapping[Clips, Task] = {
    "digits": Task(one_motion, "Digits that move as one", 1.0, "", (0.25, 0.5), edge=16),
    "apart": Task(two_motions, "Two digits that move apart", 1.0, "", (0.25, 0.5), edge=0),
    "radar": Task(radar_clips, "Precipitation radar", DBZ, "dBZ", (20.0, 30.0), edge=16, turned=True),
}


def next_frame(task: Task, network: nn.Module, batch: Batch, draws: torch.Generator | None) -> dict[str, Any]:
    """Mean squared error of the first frame that was not seen, as a loss on pixels in 0 ... 1."""
    clips = as_float(batch[0][:, : SEEN + 1])
    if task.turned and draws is not None:
        clips = turned(clips, draws)
    predicted, true = network(clips[:, :SEEN]), clips[:, SEEN:]
    predicted, true = inner(predicted, task.edge), inner(true, task.edge)
    measured = task.largest * predicted.detach().flatten(), task.largest * true.flatten()
    return {LOSS: (predicted - true).square().mean(), ERROR.column: measured}


def turned(clips: Tensor, draws: torch.Generator) -> Tensor:
    """Clips of square frames by a drawn number of quarter turns, perhaps mirrored too."""
    quarters, mirrored = torch.randint(4, (2,), generator=draws).tolist()
    clips = clips.rot90(quarters, (2, 3))
    return clips.flip(3) if mirrored % 2 else clips


def inner(frames: Tensor, edge: int) -> Tensor:
    """Frames ``(B, T, H, W)`` without so many pixels along their edges."""
    return frames[..., edge : frames.shape[2] - edge, edge : frames.shape[3] - edge]


@torch.no_grad()
def figures_by_lead_time(task: Task, network: nn.Module, splits: Splits) -> list[Figure]:
    """Test error and critical success indices after 5, 15 and 30 minutes, the forecast fed back."""
    unit = f" {task.unit}".rstrip()
    makes: dict[str, Callable[[], Any]] = {
        ERROR.name: ERROR.make,
        # what reaches a threshold does so however it was rounded
        **{f"CSI at {t:g}{unit}": partial(CriticalSuccessIndex, t * (1 - 1e-6)) for t in task.thresholds},
    }
    measured = {(name, lead): make() for lead in LEADS for name, make in makes.items()}
    for (clips,) in batch_loader(splits.test, _BATCH):
        frames = as_float(clips)
        predicted = task.largest * inner(network(frames[:, :SEEN], steps=PREDICTED), task.edge)
        true = task.largest * inner(frames[:, SEEN:], task.edge)
        for (_, lead), metric in measured.items():
            metric.update(predicted[:, lead - 1].flatten(), true[:, lead - 1].flatten())
    return [Figure(name, float(metric.compute()), minutes(lead)) for (name, lead), metric in measured.items()]


def minutes(lead: int) -> str:
    return f"{lead * INTERVAL.seconds // 60} minutes"


@torch.no_grad()
def forecasts(task: Task, networks: Networks, splits: Splits) -> "Drawing":
    """The test clip that is brightest when it is last seen, what each arm forecasts, and the kernels that it gets."""
    from .figures.weather import clip

    (clips,) = splits.test[:]
    brightest = clips[:, SEEN - 1].flatten(1).float().mean(1).argmax()
    frames = as_float(clips[brightest : brightest + 1])
    seen, true = frames[:, :SEEN], frames[:, SEEN:]
    predicted = {arm: network(seen, steps=PREDICTED) for arm, network in networks.items()}
    kernels = [
        [kernel[0].numpy() for kernel in network.kernels(seen)]
        for network in networks.values()
        if isinstance(network, DynamicConvolutionalLayer)
    ]
    shown = [lead - 1 for lead in LEADS]
    return clip(
        task.largest * seen[0].numpy(),
        task.largest * true[0, shown].numpy(),
        {arm: task.largest * frames[0, shown].numpy() for arm, frames in predicted.items()},
        [minutes(lead) for lead in LEADS],
        kernels[0] if kernels else None,
        task.edge,
        task.unit,
        f"{task.title} ({splits.name}, test)",
    )


_RATES = {"learning_rate": (2e-3, 4e-3, 8e-3, 1.6e-2)}
_END = {"learning_rate": "where a rate is the last, half of it comes within a hundredth of its error"}
_OF_DIGITS = Recipe("adamw", 8e-3, 1e-2, "one-cycle", batch_size=16, epochs=6, patience=None, shuffle=True, clip=1.0)
_OF_RADAR = replace(_OF_DIGITS, epochs=8)
# an epoch takes six times as long as others' do
_OF_DFN = replace(_OF_DIGITS, epochs=2)
_NORMAL_OF_DIGITS = replace(_OF_DIGITS, learning_rate=4e-3)
# the best rates on validation data
RECIPES: Mapping[Clips, Mapping[str, Recipe]] = {
    "digits": {"hyper": _OF_DIGITS, "normal": _NORMAL_OF_DIGITS},
    "apart": {"hyper": replace(_OF_DIGITS, learning_rate=1.6e-2), "normal": _OF_DIGITS, "dfn": _OF_DFN},
    "radar": {"hyper": replace(_OF_RADAR, learning_rate=4e-3), "normal": _OF_RADAR},
}
# of iterative Lucas-Kanade, chosen on validation data: of 7 and 15 pixels
_RADII: Mapping[Clips, int] = {"digits": 15, "apart": 7, "radar": 7}


def _arms(clips: Clips) -> dict[str, Arm]:
    flow = partial(lucas_kanade, radius=_RADII[clips])
    trained: dict[str, Callable[[], nn.Module]] = {
        "hyper": partial(DynamicConvolutionalLayer, SEEN, FASTEST),
        # of as many parameters and operations
        "normal": partial(PlainForecaster, SEEN, (7, 12, 20, 36)),
        **({"dfn": partial(FilterAPixel, 8)} if clips == "apart" else {}),
    }
    others: dict[str, Callable[[], nn.Module]] = {
        "persistence": Persistence,
        "phase-correlation": partial(Extrapolation, phase_correlation, pairs=3),
        "tv-l1": partial(Extrapolation, tv_l1),
        "lucas-kanade": partial(Extrapolation, flow),
        **({"pysteps": Nowcast} if find_spec("pysteps") else {}),
    }
    recipes = RECIPES[clips]
    return {
        **{arm: Arm(network, recipes[arm], _RATES, _END) for arm, network in trained.items()},
        **{arm: Arm(network) for arm, network in others.items()},
    }


def _adapted(experiment: Experiment, options: WeatherOptions) -> Experiment:
    task = TASKS[options.clips]
    return replace(
        experiment,
        arms=_arms(options.clips),
        objective=Objective(partial(next_frame, task), (ERROR,), loss="squared error of the next frame"),
        load=task.load,
        measure=partial(figures_by_lead_time, task),
        figure=partial(forecasts, task),
    )


_WEATHER = Experiment(
    name="weather",
    paper="A Dynamic Convolutional Layer for Short Range Weather Prediction, Klein, Wolf and Afek, CVPR 2015",
    task="4 frames of moving digits or of radar (--clips) to the next, up to 30 minutes: the last frame convolved with "
    "a vertical and a horizontal kernel made of all four; a U-Net; extrapolated motion; persistence",
    minutes=4,
    arms={},
    recipe=_OF_DIGITS,
    options=WeatherOptions,
    adapted=_adapted,
    quick_epochs=2,
    extras=("images",),
)
EXPERIMENTS = (_adapted(_WEATHER, WeatherOptions()),)
