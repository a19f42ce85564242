"""Figures of the study, made from ``lightning_logs/results.csv`` and nothing else.

python main.py sweep studies/frontier.yaml
python -m hyperconv.experiments.tables --add lightning_logs/frontier/results.csv
python -m hyperconv.experiments.study
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from .. import cli, plotting
from ..errors import InputError
from . import results
from .figures import study as figures
from .results import FAILED, Result

_DATA = "mnist"


@dataclass(frozen=True)
class Study:
    """Draw the figures of the study from the gathered results.

    Args:
        only: which: frontier, grid, robustness. Default: all.
        results: the gathered results.
        out: folder for the figures.
    """

    only: tuple[str, ...] = ()
    results: str = "lightning_logs/results.csv"
    out: str = "out"


def main(settings: Study) -> None:
    if unknown := set(settings.only) - FIGURES.keys():
        raise InputError(f"there is no figure {min(unknown)}; there are {', '.join(FIGURES)}")
    if not Path(settings.results).is_file():
        raise InputError(f"there are no results {settings.results}")
    rows = results.read(Path(settings.results))
    for name in settings.only or FIGURES:
        plotting.save(FIGURES[name](rows), Path(settings.out) / f"study-{name}.png")


def of_test(rows: Sequence[Result], experiment: str, settings: str) -> pd.DataFrame:
    """Test figures of an experiment's trainings on MNIST that did not fail, a row each, with the columns of `Result`.

    Args:
        settings: a regular expression of those that the study is made with.

    Raises:
        InputError: there are none.
    """
    of_experiment = [
        row
        for row in rows
        if (row.experiment, row.data) == (experiment, _DATA) and re.fullmatch(settings, row.settings)
    ]
    failed = {row.training for row in of_experiment if row.metric == FAILED}
    good = [row for row in of_experiment if row.split == "test" and row.training not in failed]
    if not good:
        raise InputError(f"there are no results of {experiment}; run main.py sweep studies/{experiment}.yaml")
    return pd.DataFrame([vars(row) for row in good])


def accuracies_by_digits(rows: Sequence[Result]) -> pd.DataFrame:
    """Of frontier, with the number of training digits in the column ``digits`` (``all`` where it is all)."""
    data = of_test(rows, "frontier", r"(few=\d+)?")
    data = data[(data["metric"] == "accuracy") & (data["at"] == "")]
    return data.assign(digits=data["settings"].str.extract(r"few=(\d+)")[0].fillna("all"))


def frontier(rows: Sequence[Result]) -> Figure:
    return figures.frontier(accuracies_by_digits(rows))


def grid(rows: Sequence[Result]) -> Figure:
    return figures.grid(accuracies_by_digits(rows))


def robustness(rows: Sequence[Result]) -> Figure:
    return figures.robustness(of_test(rows, "robustness", "samples=10000"))


FIGURES: dict[str, Callable[[Sequence[Result]], Figure]] = {
    "frontier": frontier,
    "grid": grid,
    "robustness": robustness,
}

if __name__ == "__main__":
    cli.run(main, Study)
