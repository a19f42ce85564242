"""The README's tables, made from ``lightning_logs/results.csv`` and nothing else.

python -m hyperconv.experiments.tables --add lightning_logs/NAME/results.csv out/results.csv
"""

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from .. import cli
from ..errors import InputError
from .results import Result, read, write, write_whole

Item = TypeVar("Item")


@dataclass(frozen=True)
class Tables:
    """Write the README's tables anew from the gathered results.

    Args:
        add: results.csv files of runs to take into the gathered ones first; a row for the same experiment, arm,
            seed, data, split and metric replaces the old one.
        results: the gathered results.
        readme: the file whose tables stand between <!-- table NAME --> and <!-- end -->.
    """

    add: tuple[str, ...] = ()
    results: str = "lightning_logs/results.csv"
    readme: str = "README.md"


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
    readme = Path(settings.readme)
    write_whole(readme, with_tables(readme.read_text(), list(latest.values())))


def with_tables(text: str, rows: Sequence[Result]) -> str:
    """``text`` with the tables between its markers made anew."""
    tables = {"accuracy": accuracy_table(rows), "noise": noise_table(rows)}
    for name, table in tables.items():
        pattern = rf"(<!-- table {name} -->\n).*?(<!-- end -->)"
        text, found = re.subn(pattern, lambda place, table=table: place[1] + table + place[2], text, flags=re.DOTALL)
        if found != 1:
            raise InputError(
                f"the readme needs one place for a table, <!-- table {name} --> to <!-- end -->, not {found}"
            )
    return text


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
