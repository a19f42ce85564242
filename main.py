"""Train the networks that an experiment compares, digit classifiers first of all; see --help."""

import sys
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from hyperconv import cli
from hyperconv.experiments.declared import experiments, flags_of
from hyperconv.experiments.results import FAILED, Result
from hyperconv.experiments.run import Outcome, run
from hyperconv.experiments.settings import Run, as_text
from hyperconv.experiments.shipped import Compared, Files, evaluate, pack
from hyperconv.experiments.statistics import mean_interval
from hyperconv.experiments.sweep import Sweep, sweep
from hyperconv.experiments.tune import tune
from hyperconv.extras import command_for, missing


def settings_for(args: Sequence[str]) -> tuple[type, ...]:
    """What flags there are: those of every run, of files, and those that the experiment declares."""
    of_every_run, *options = flags_of(args)
    return (of_every_run, Files, *options)


def main(settings: Run, files: Files, options: Any = None) -> None:
    console = cli.console()
    if files.pack:
        print(f"written: {pack(files.pack, settings.out)}")
    elif files.evaluate:
        compared = evaluate(files.evaluate, settings)
        console.print(_again(files.evaluate, compared))
        if not all(each.agrees for each in compared):
            raise SystemExit(1)
    elif settings.list:
        console.print(_experiments())
    elif settings.tune:
        console.print(_chosen(settings, options))
    else:
        outcome = run(settings, options)
        console.print(_figures(outcome))
        if all(row.metric == FAILED for row in outcome.rows):
            raise SystemExit(1)


def _again(folder: str, compared: Sequence[Compared]) -> Table:
    table = Table(title=folder)
    for column in ("test figure", "told", "measured", ""):
        table.add_column(column)
    for each in compared:
        name = f"{each.figure.metric} {each.figure.at}".strip()
        values = f"{each.figure.value:.7g}", f"{each.measured:.7g}"
        table.add_row(name, *values, "" if each.agrees else "differs")
    return table


def _experiments() -> Table:
    table = Table(title="experiments, for --experiment", show_lines=True)
    for column in ("name", "paper", "task", "arms"):
        table.add_column(column, overflow="fold")
    table.add_column("minutes", justify="right")
    for each in experiments().values():
        lacking = missing(each.extras)
        needed = f" (needs more packages: {command_for(*lacking)})" if lacking else ""
        table.add_row(each.name, each.paper, each.task + needed, ", ".join(each.arms), str(each.minutes))
    return table


def _chosen(settings: Run, options: Any) -> Table:
    experiment, chosen = tune(settings, options)
    metric = experiment.objective.metrics[0]
    table = Table(title=f"{experiment.name}: the best of each grid on validation data")
    for column in (
        "arm",
        "settings",
        f"validation {metric.name}",
        "trials",
        "failed trainings",
        "at the end of its range",
    ):
        table.add_column(column, overflow="fold")
    for each in chosen:
        ends = "; ".join(f"{name}: {why}" for name, why in each.ends.items())
        counts = str(each.trials), str(each.failed)
        best = as_text(dict(each.trial or {}))
        table.add_row(each.arm, best, "" if each.value is None else metric.text(each.value), *counts, ends)
    return table


def _figures(outcome: Outcome) -> Table:
    table = Table(title=outcome.folder.name)
    shown = [(split, metric) for metric in outcome.experiment.objective.metrics for split in ("validation", "test")]
    table.add_column("arm", no_wrap=True)
    heads = [f"{split} {metric.name}" for split, metric in shown]
    for column in ("parameters", "operations", "seconds", "trainings", "failed", *heads):
        table.add_column(column, justify="right")
    for arm in outcome.experiment.arms:
        rows = [row for row in outcome.rows if row.arm == arm]
        failed = {row.training for row in rows if row.metric == FAILED}
        trainings = {row.training: row for row in rows}
        first = rows[0]
        good = [row for row in rows if row.training not in failed and not row.at]
        kept = [row.seconds for training, row in trainings.items() if training not in failed]
        seconds = sum(kept) / max(1, len(kept))
        cells = [f"{first.parameters:,}", f"{first.operations or 0:,}", f"{seconds:.0f}"]
        cells += [str(len(trainings)), str(len(failed))]
        for split, metric in shown:
            values = [row.value for row in good if (row.split, row.metric) == (split, metric.name)]
            interval = mean_interval(values) if len(values) > 1 else values
            cells.append(" ± ".join(metric.text(value) for value in interval))
        table.add_row(arm, *cells)
    return table


def main_of_sweep(settings: Sweep) -> None:
    cli.console().print(_swept(settings.file, sweep(settings)))


def _swept(title: str, rows: Sequence[Result]) -> Table:
    table = Table(title=title)
    for column in ("experiment", "settings", "arm"):
        table.add_column(column, overflow="fold")
    for column in ("trainings", "failed", "metric", "validation", "test"):
        table.add_column(column, justify="right")
    for network in dict.fromkeys((row.experiment, row.settings, row.arm, row.data) for row in rows):
        own = [row for row in rows if (row.experiment, row.settings, row.arm, row.data) == network]
        failed = {row.training for row in own if row.metric == FAILED}
        metric = experiments()[network[0]].objective.metrics[0]
        cells = [str(len({row.training for row in own})), str(len(failed)), metric.name]
        for split in ("validation", "test"):
            values = [
                row.value
                for row in own
                if (row.split, row.metric, row.at) == (split, metric.name, "") and row.training not in failed
            ]
            interval = mean_interval(values) if len(values) > 1 else values
            cells.append(" ± ".join(metric.text(value) for value in interval))
        table.add_row(*network[:3], *cells)
    return table


def arguments_of_sweep(args: Sequence[str]) -> list[str]:
    """The file may stand without its flag."""
    return [*(["--file"] if args and not args[0].startswith("-") else []), *args]


if __name__ == "__main__":
    if sys.argv[1:2] == ["sweep"]:
        cli.run(main_of_sweep, Sweep, arguments_of_sweep(sys.argv[2:]))
    else:
        cli.run(main, settings_for)
