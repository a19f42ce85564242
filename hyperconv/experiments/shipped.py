"""Trained arms as small files to ship, and their figures measured again."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ..data import Splits, batch_loader
from ..errors import InputError
from ..extras import needing
from ..files import renamed_into_place
from ..training.checkpoints import BEST
from ..training.objectives import Measured
from . import results
from .asked import Asked
from .declared import experiments
from .experiment import Experiment, Figure
from .results import Result
from .settings import Run, plain
from .trained import options_of, trained

LICENCE = "mit"
# of float32 sums in another order, on another machine
_ROUNDING = 5e-4


@dataclass(frozen=True)
class Files:
    """Trained networks in files.

    Args:
        pack: instead of training, write the network of this folder of a run, which holds a best.ckpt, to a new folder
            within --out, with its config, card and test figures.
        evaluate: instead of training, measure the network of such a folder on the test data that its figures are of,
            and print these beside what was measured; exit code 1 if they differ.
    """

    pack: str | None = None
    evaluate: str | None = None


class Compared(NamedTuple):
    """A figure of a packed network.

    Attributes:
        figure: as its config tells it.
        measured: its value now.
    """

    figure: Figure
    measured: float

    @property
    def agrees(self) -> bool:
        return math.isclose(self.figure.value, self.measured, rel_tol=_ROUNDING, abs_tol=1e-7)


def pack(place: str | Path, out: str | Path) -> Path:
    """Write a trained arm as a `hyperconv.hub.HubNetwork`, with the test figures of the run's results.

    Args:
        place: a training's folder within its run's, or the checkpoint in it.
        out: the new folder is made within.

    Returns:
        The new folder, ``EXPERIMENT-ARM``, with what is not the default in between.

    Raises:
        InputError: no checkpoint, no figures of it, or a folder that exists.
    """
    with needing("hub", "--pack"):
        from ..hub import HubNetwork

    path = Path(place) / BEST if Path(place).is_dir() else Path(place)
    found = trained(path)
    rows = _rows(path, (found.experiment, found.settings, found.arm, found.data, found.seed, None, found.fold))
    network = HubNetwork(found.network)
    network.config |= {
        "network": f"{found.experiment}/{found.arm}",
        "arguments": plain(found.options),
        "trained": {
            "data": found.data,
            "seed": found.seed,
            "fold": found.fold,
            "settings": found.settings,
            "recipe": dict(found.recipe),
            "figures": [{"metric": row.metric, "at": row.at, "value": row.value} for row in rows],
            "command": rows[0].command,
            "commit": rows[0].commit,
            "versions": rows[0].versions,
            "licence": LICENCE,
        },
    }
    folder = Path(out) / re.sub(r"[ =]+", "-", f"{found.experiment} {found.settings} {found.arm}")
    if folder.exists():
        raise InputError(f"{folder} exists; remove it, or choose another --out")
    with renamed_into_place(folder, folder=True) as beside:
        network.save_pretrained(beside)
    return folder


def _rows(path: Path, key: tuple[Any, ...]) -> list[Result]:
    """The test figures of a training, from its run's results."""
    for parent in path.resolve().parents[1:5]:
        if (parent / "results.csv").is_file():
            rows = [row for row in results.read(parent / "results.csv") if row.training == key and row.split == "test"]
            if rows:
                return rows
            raise InputError(f"{parent / 'results.csv'} has no test figures of {path}; let the run finish first")
    raise InputError(f"no folder above {path} has a results.csv, of whose figures the files tell")


def evaluate(folder: str | Path, settings: Run) -> list[Compared]:
    """Measure the figures that a packed network's config tells, again, on the test split of their data.

    Args:
        settings: of which ``data`` says where these lie.

    Raises:
        InputError: a folder that `pack` did not write, or other data.
    """
    with needing("hub", "--evaluate"):
        from ..hub import CONFIG, HubNetwork, read_config

    path = Path(folder) / CONFIG
    config = read_config(path)
    told = _figures(path, config)
    of_training = config["trained"]
    name, _, arm = (config["network"] or "").partition("/")
    if name not in experiments():
        raise InputError(f"{path} names no arm of an experiment, which alone has figures to measure again")
    options = options_of(experiments()[name], config["arguments"] or {})
    asked = Asked(replace(settings, experiment=name, arms=(arm,)), options)
    network = HubNetwork.from_pretrained(folder).network
    fold = of_training.get("fold")
    if fold not in asked.folds:
        raise InputError(f"{path} tells figures of fold {fold}, and {name} has {len(asked.folds)}")
    splits = asked.splits(fold)
    if splits.name != of_training.get("data"):
        raise InputError(
            f"{path} tells figures of {of_training.get('data')}, and {settings.data} gives {splits.name}; "
            "say where the data lie: --data"
        )
    measured = {(each.metric, each.at): each.value for each in _figures_on_test(network, asked.experiment, splits)}
    if lacking := [figure for figure in told if (figure.metric, figure.at) not in measured]:
        raise InputError(f"{path} tells a figure {lacking[0].metric!r}, which {name} does not measure")
    return [Compared(figure, measured[figure.metric, figure.at]) for figure in told]


def _figures_on_test(network: nn.Module, experiment: Experiment, splits: Splits) -> list[Figure]:
    """All that an experiment measures on test data, of a network in evaluation mode."""
    objective = experiment.objective
    measured = Measured(objective)
    with torch.inference_mode():
        for batch in batch_loader(splits.test, experiment.evaluation_batch, collate=experiment.collate):
            measured.update(objective.score(network, batch, None), objective.samples(batch))
    names = {metric.column: metric.name for metric in objective.all_metrics}
    figures = [Figure(names[column], value) for column, value in measured.figures().items()]
    return [*figures, *experiment.measure(network, splits)]


def _figures(path: Path, config: dict[str, Any]) -> list[Figure]:
    rows: Any = (config["trained"] or {}).get("figures")
    if not isinstance(rows, Sequence) or not rows:
        raise InputError(f"{path} tells no figures; --evaluate takes what --pack has written")
    try:
        return [Figure(str(row["metric"]), float(row["value"]), str(row["at"])) for row in rows]
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"{path}: figures are rows of metric, at and value") from error
