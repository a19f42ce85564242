"""The tables of README and docs, made from ``lightning_logs/results.csv`` and nothing else.

python -m hyperconv.experiments.tables --add lightning_logs/NAME/results.csv out/results.csv
"""

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from .. import cli
from ..errors import InputError
from .declared import EXPERIMENTS
from .results import Result, read, write, write_whole

Item = TypeVar("Item")


@dataclass(frozen=True)
class Tables:
    """Write the tables of README and docs anew from the gathered results.

    Args:
        add: results.csv files of runs to take into the gathered ones first; a row for the same experiment, arm,
            seed, data, split and metric replaces the old one.
        results: the gathered results.
        pages: the files whose tables stand between <!-- table NAME --> and <!-- end -->.
    """

    add: tuple[str, ...] = ()
    results: str = "lightning_logs/results.csv"
    pages: tuple[str, ...] = ("docs/results.md", "docs/experiments.md")


def main(settings: Tables) -> None:
    gathered = Path(settings.results)
    rows = read(gathered)
    for name in settings.add:
        if not Path(name).is_file():
            raise InputError(f"there are no results {name}")
        rows += read(Path(name))
    latest = {(row.experiment, row.arm, row.seed, row.data, row.split, row.metric): row for row in rows}
    if settings.add:
        write(gathered, latest.values())
    for page in map(Path, settings.pages):
        write_whole(page, with_tables(page.read_text(), list(latest.values())))


def with_tables(text: str, rows: Sequence[Result]) -> str:
    """``text`` with the tables between its markers made anew."""
    made = {"accuracy": accuracy_table, "noise": noise_table, "experiments": experiments_table}
    made |= {name: partial(further_table, name=name) for name in EXPERIMENTS}

    def anew(place: re.Match[str]) -> str:
        if place[2] not in made:
            raise InputError(f"there is no table {place[2]}; there are {', '.join(made)}")
        return place[1] + made[place[2]](rows) + place[3]

    return re.sub(r"(<!-- table ([^ ]+) -->\n).*?(<!-- end -->)", anew, text, flags=re.DOTALL)


def accuracy_table(rows: Sequence[Result]) -> str:
    """Test accuracy of each experiment and arm over seeds."""
    lines = []
    trained = [row for row in rows if row.experiment.startswith("digits-")]
    for data, experiment, arm in _unique((row.data, row.experiment, row.arm) for row in trained):
        runs = [row for row in trained if (row.data, row.experiment, row.arm) == (data, experiment, arm)]
        test, validation = (
            [row for row in runs if (row.split, row.metric) == (split, "accuracy")] for split in ("test", "validation")
        )
        seconds = statistics.mean(row.seconds for row in test)
        epochs = "/".join(str(epoch) for epoch in sorted({row.epochs for row in test}))
        lines.append(
            (
                data,
                experiment.removeprefix("digits-"),
                arm,
                f"{test[0].parameters:,}",
                _mean_sd([100 * row.value for row in test], 2),
                _mean_sd([100 * row.value for row in validation], 2),
                str(len(test)),
                epochs,
                f"{seconds:.0f}",
            )
        )
    head = ("data", "recipe", "arm", "parameters", "test %", "validation %", "seeds", "epochs", "seconds")
    return _markdown(head, lines, left=3)


def noise_table(rows: Sequence[Result]) -> str:
    """Mean accuracy over 20 levels of each noise."""
    noisy = [row for row in rows if row.experiment.startswith("noise ") and row.split == "test"]
    noises = list(_unique(row.metric for row in noisy))
    lines = []
    for data, experiment, arm in _unique((row.data, row.experiment, row.arm) for row in noisy):
        here = [row for row in noisy if (row.data, row.experiment, row.arm) == (data, experiment, arm)]
        values = [[row.value for row in here if row.metric == noise] for noise in noises]
        recipe = experiment.removeprefix("noise ")
        lines.append((data, recipe, arm, *(_mean_sd(value, 3) for value in values)))
    head = ("data", "recipe", "arm", *(noise.removeprefix("mean accuracy, ") for noise in noises))
    return _markdown(head, lines, left=3)


def experiments_table(rows: Sequence[Result]) -> str:
    """What each arm of every experiment but digits is measured by."""
    lines = []
    for name, experiment in EXPERIMENTS.items():
        own = [row for row in rows if row.experiment == name and row.metric == experiment.metric.name]
        scale, digits = (100, 2) if experiment.metric.percent else (1, 4)
        for data, arm in _unique((row.data, row.arm) for row in own):
            runs = [row for row in own if (row.data, row.arm) == (data, arm)]
            test, validation = ([row for row in runs if row.split == split] for split in ("test", "validation"))
            lines.append(
                (
                    name,
                    data,
                    arm,
                    experiment.metric.name + (" %" if experiment.metric.percent else ""),
                    _mean_sd([scale * row.value for row in test], digits),
                    _mean_sd([scale * row.value for row in validation], digits),
                    f"{test[0].parameters:,}",
                    str(len(test)),
                    str(test[0].epochs),
                    f"{statistics.mean(row.seconds for row in test):.0f}",
                )
            )
    head = ("experiment", "data", "arm", "metric", "test", "validation", "parameters", "seeds", "epochs", "seconds")
    return _markdown(head, lines, left=4)


def further_table(rows: Sequence[Result], name: str) -> str:
    """Test figures of an experiment beside its metric; those at several values of something, value by value.

    Such figures are called ``FIGURE at VALUE``, and arms that are for one value each ``ARM-VALUE``.
    """
    common = (EXPERIMENTS[name].metric.name, "loss")
    further = [row for row in rows if row.experiment == name and row.split == "test" and row.metric not in common]
    if not any(" at " in row.metric for row in further):
        return _pivot([(f"{row.data}, {row.arm}", row.metric, row.value) for row in further], "arm")
    cells = []
    for row in further:
        figure, _, place = row.metric.rpartition(" at ")
        kind = row.arm.split("-")[0]
        cells.append((f"{row.data}, {place}" if figure else row.data, f"{figure or row.metric}, {kind}", row.value))
    return _pivot(cells, "at")


def _pivot(cells: Sequence[tuple[str, str, float]], corner: str) -> str:
    """A table of (row, column, value), the mean and deviation of the values in a cell."""
    columns = list(_unique(column for _, column, _ in cells))
    lines = []
    for line in _unique(row for row, _, _ in cells):
        values = [[value for row, column, value in cells if (row, column) == (line, each)] for each in columns]
        lines.append((line, *(_further(each) if each else "" for each in values)))
    return _markdown((corner, *columns), lines, left=1)


def _further(values: Sequence[float]) -> str:
    counted = all(float(value).is_integer() for value in values) and len(set(values)) == 1
    return f"{values[0]:,.0f}" if counted else _mean_sd(values, 3)


def _mean_sd(values: Sequence[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def _unique(items: Iterable[Item]) -> Iterable[Item]:
    return dict.fromkeys(items)


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]], left: int) -> str:
    rule = ["---" if column < left else "---:" for column in range(len(head))]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in (head, rule, *lines))


if __name__ == "__main__":
    cli.run(main, Tables)
