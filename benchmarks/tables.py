"""The README's tables of a machine, from the CSV file that all.py writes; see --help.

python benchmarks/tables.py --csv out/benchmarks-cpu.csv
"""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from common import command

from hyperconv.errors import InputError
from hyperconv.files import renamed_into_place

Row = dict[str, str]


@dataclass(frozen=True)
class Tables:
    """Write each benchmark's tables into a page, between the page's marks for it and the CSV's instruction set.

    Args:
        csv: what all.py wrote.
        page: Markdown file with the marks.
    """

    csv: str = "out/benchmarks-cpu.csv"
    page: str = str(Path(__file__).with_name("README.md"))


def main(settings: Tables) -> None:
    try:
        with Path(settings.csv).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        tables = {key: tables_of(list(some)) for key, some in groupby(rows, _benchmark)}
    except (KeyError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{settings.csv} is no file of all.py: {error}") from error
    page = Path(settings.page)
    text = page.read_text(encoding="utf-8")
    for (benchmark, instruction_set), made in tables.items():
        mark = f"<!-- {benchmark}, {instruction_set} -->\n"
        parts = re.split(f"({re.escape(mark)}).*?(<!-- end -->)", text, maxsplit=1, flags=re.DOTALL)
        if len(parts) == 1:
            print(f"{page} has no place for {mark.strip()}")
            continue
        text = f"{parts[0]}{parts[1]}\n{made}\n{parts[2]}{parts[3]}"
    with renamed_into_place(page) as beside:
        beside.write_text(text, encoding="utf-8")


def tables_of(rows: Sequence[Row]) -> str:
    """A table for each set of sides: time of the reference, and the ratio of every other side to it."""
    alike: dict[tuple[str, ...], list[list[Row]]] = {}
    for _, case in groupby(rows, lambda row: (row["case"], row["dtype"])):
        sides = list(case)
        alike.setdefault(_columns(sides), []).append(sides)
    first = rows[0]
    title = f"{first['device']}, {first['instruction set']}, torch {first['torch version']}, commit {first['commit']}:"
    return "\n\n".join([title, *("\n".join(_table(*each)) for each in alike.items())])


def _table(columns: Sequence[str], cases: Sequence[Sequence[Row]]) -> Iterator[str]:
    reference, *others = columns
    yield _line(["case", "type", f"{reference}, ms", *others])
    yield _line(["---", "---", *["---:"] * (1 + len(others))])
    for own in cases:
        ratios = [f"{_short(row['ratio'])} ({_short(row['low'])} to {_short(row['high'])})" for row in own[1:]]
        yield _line([own[0]["case"], own[0]["dtype"], f"{float(own[0]['ms']):.3g}", *ratios])


def _columns(case: Sequence[Row]) -> tuple[str, ...]:
    # which of the others was the best differs from case to case
    return tuple(re.sub(r"( to the best.*) \(.*\)$", r"\1", row["side"]) for row in case)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _short(ratio: str) -> str:
    return f"{float(ratio):.2f}" if float(ratio) >= 0.1 else f"{float(ratio):.2g}"


def _benchmark(row: Row) -> tuple[str, str]:
    return row["benchmark"], row["instruction set"]


if __name__ == "__main__":
    command(main, Tables)
