"""The tables of docs, made from ``lightning_logs/results.csv`` and nothing else.

python -m hyperconv.experiments.tables --add lightning_logs/NAME/results.csv out/results.csv
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, TypeVar

from .. import cli
from ..errors import InputError
from ..files import read_text, write_whole
from .declared import experiments
from .experiment import Experiment
from .results import FAILED, NOISE_METRIC, Result, read, with_trainings, write
from .statistics import mean_interval
from .verdicts import CLAIMS, claim_table

Item = TypeVar("Item")
_PRINCIPAL = "digits"


@dataclass(frozen=True)
class Tables:
    """Write the tables of docs anew from the gathered results.

    Args:
        add: results.csv files of runs to take into the gathered ones first; a training of the same experiment,
            settings, arm, data, seeds and fold replaces the old one.
        results: the gathered results.
        pages: the files whose tables stand between <!-- table NAME --> and <!-- end -->.
    """

    add: tuple[str, ...] = ()
    results: str = "lightning_logs/results.csv"
    pages: tuple[str, ...] = ("docs/results.md", "docs/experiments.md", "docs/verdicts.md")


def main(settings: Tables) -> None:
    rows = _read(settings.results)
    for name in settings.add:
        rows = with_trainings(rows, _read(name))
    check_whole(rows)
    pages = {Path(page): with_tables(read_text(Path(page)), rows) for page in settings.pages}
    if settings.add:
        write(Path(settings.results), rows)
    for page, text in pages.items():
        write_whole(page, text)


def _read(name: str) -> list[Result]:
    if not Path(name).is_file():
        raise InputError(f"there are no results {name}")
    return read(Path(name))


def check_whole(rows: Sequence[Result]) -> None:
    """
    Raises:
        InputError: a training that did not fail lacks the headline figure of a split.
    """
    failed = _failed(rows)
    there = {(row.training, row.split, row.metric) for row in rows}
    for training in dict.fromkeys(row.training for row in rows if row.noise_seed is None):
        experiment = experiments().get(training.experiment)
        if experiment is None or training in failed:
            continue
        headline = experiment.objective.metrics[0].name
        for split in ("validation", "test"):
            if (training, split, headline) not in there:
                raise InputError(
                    f"{training.experiment}, arm {training.arm}, seed {training.seed}: no {split} {headline} among the "
                    "results; add all rows of a training or none"
                )


def with_tables(text: str, rows: Sequence[Result]) -> str:
    """``text`` with the tables between its markers made anew.

    Raises:
        InputError: a marker of a table that there is not.
    """
    declared = experiments()
    made: dict[str, Callable[[Sequence[Result]], str]] = {
        "accuracy": partial(headline_table, of=[declared[_PRINCIPAL]]),
        "experiments": partial(headline_table, of=[each for each in declared.values() if each.name != _PRINCIPAL]),
        "noise": noise_table,
        **{name: partial(further_table, of=experiment) for name, experiment in declared.items()},
        **{f"claim-{name}": partial(claim_table, claim=claim) for name, claim in CLAIMS.items()},
    }

    def anew(place: re.Match[str]) -> str:
        if place[0].count("<!-- table ") > 1:
            raise InputError(f"the table {place[2]} has no <!-- end --> before the next one")
        if place[2] not in made:
            raise InputError(f"there is no table {place[2]}; there are {', '.join(made)}")
        return place[1] + made[place[2]](rows) + place[3]

    return re.sub(r"(<!-- table ([^ ]+) -->\n).*?(<!-- end -->)", anew, text, flags=re.DOTALL)


def headline_table(rows: Sequence[Result], of: Sequence[Experiment]) -> str:
    """What each arm of some experiments is measured by: mean and 95 % interval over the trainings that did not fail."""
    failed = _failed(rows)
    lines = []
    for experiment in of:
        own = [row for row in rows if row.experiment == experiment.name and row.noise_seed is None]
        for data, settings, arm in _unique((row.data, row.settings, row.arm) for row in own):
            of_arm = [row for row in own if (row.data, row.settings, row.arm) == (data, settings, arm)]
            trainings = {row.training: row for row in of_arm}
            good = [row for row in of_arm if row.training not in failed and not row.at]
            last = of_arm[-1]
            for metric in experiment.objective.metrics:
                scale, digits = (100, 2) if metric.percent else (1, 4)
                test, validation = (
                    [scale * row.value for row in good if (row.split, row.metric) == (split, metric.name)]
                    for split in ("test", "validation")
                )
                lines.append(
                    (
                        *([experiment.name] if len(of) > 1 else []),
                        data,
                        settings or "default",
                        arm,
                        metric.name + (" %" if metric.percent else ""),
                        _interval(test, digits),
                        _interval(validation, digits),
                        str(len(test)),
                        str(len({training for training in trainings if training in failed})),
                        f"{last.parameters:,}",
                        "" if last.operations is None else f"{last.operations:,}",
                        "/".join(str(epochs) for epochs in sorted({row.epochs for row in good})),
                        f"{mean([row.seconds for key, row in trainings.items() if key not in failed] or [0.0]):.0f}",
                    )
                )
    named = ["experiment"] if len(of) > 1 else []
    counts = ["n", "failed", "parameters", "operations", "epochs", "seconds"]
    return _markdown(
        [*named, "data", "settings", "arm", "metric", "test", "validation", *counts], lines, len(named) + 4
    )


def noise_table(rows: Sequence[Result]) -> str:
    """Mean accuracy over the levels of each noise, over networks; each network's mean over draws counts once."""
    noisy = [row for row in rows if row.metric == NOISE_METRIC and row.split == "test"]
    noises = list(_unique(row.at for row in noisy))
    lines = []
    for key in _unique((row.data, row.settings, row.arm) for row in noisy):
        here = [row for row in noisy if (row.data, row.settings, row.arm) == key]
        seeds = list(_unique(row.seed for row in here))
        cells = []
        for noise in noises:
            of_networks = [[row.value for row in here if (row.seed, row.at) == (seed, noise)] for seed in seeds]
            cells.append(_interval([mean(values) for values in of_networks if values], 3))
        data, settings, arm = key
        lines.append((data, settings or "default", arm, *cells, str(len(seeds))))
    return _markdown(["data", "settings", "arm", *noises, "n"], lines, left=3)


def further_table(rows: Sequence[Result], of: Experiment) -> str:
    """Test figures of an experiment beside its metrics: a line a condition and figure, a column an arm or group."""
    failed = _failed(rows)
    common = ("loss", *(metric.name for metric in of.objective.metrics))
    further = [
        row
        for row in rows
        if (row.experiment, row.split) == (of.name, "test")
        and row.noise_seed is None
        and row.training not in failed
        and (row.at or row.metric not in common)
    ]

    def arm(row: Result) -> str:
        declared = of.arms.get(row.arm)
        return (declared and row.at and declared.group) or row.arm

    cells: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in further:
        of_line = cells.setdefault((_joined(row.data, row.settings, row.at), row.metric), {})
        of_line.setdefault(arm(row), []).append(row.value)
    arms = list(_unique(map(arm, further)))
    lines = [(*line, *(_further(of_line.get(name, ())) for name in arms)) for line, of_line in cells.items()]
    return _markdown(["at", "figure", *arms], lines, left=2)


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _further(values: Sequence[float]) -> str:
    if not values:
        return ""
    if len(set(values)) > 1:
        return _interval(values, 3)
    # counts, and what is no training's
    return f"{values[0]:,.0f}" if float(values[0]).is_integer() else _interval(values[:1], 3)


def _interval(values: Sequence[float], digits: int) -> str:
    """Mean and, of several values, half the width of its 95 % interval.

    >>> _interval([4.6e-7, 3.7e-7], 4), _interval([22.91, 22.89], 4)
    ('4.1e-07 ± 6e-07', '22.90 ± 0.13')
    """
    if not values:
        return ""
    if 0 < abs(mean(values)) < 10 ** (1 - digits):  # of which so many digits would leave little
        rest = f" ± {mean_interval(values).half_width:.1g}" if len(values) > 1 else ""
        return f"{mean(values):.2g}{rest}"
    before_point = len(str(int(abs(mean(values)))))
    # of 22.9 dB, the fourth decimal says nothing
    digits = digits if before_point < 2 else max(min(2, digits), digits - before_point)
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    interval = mean_interval(values)
    return f"{interval.mean:.{digits}f} ± {interval.half_width:.{digits}f}"


def _failed(rows: Iterable[Result]) -> set[Any]:
    return {row.training for row in rows if row.metric == FAILED}


def _unique(items: Iterable[Item]) -> Iterable[Item]:
    return dict.fromkeys(items)


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]], left: int) -> str:
    rule = ["---" if column < left else "---:" for column in range(len(head))]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in (head, rule, *lines))


if __name__ == "__main__":
    cli.run(main, Tables)
