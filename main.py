"""Train hyper and normal networks, on digits or in another experiment; see --help."""

from rich.console import Console
from rich.table import Table

from hyperconv import cli
from hyperconv.experiments.declared import EXPERIMENTS
from hyperconv.experiments.digits import digits
from hyperconv.experiments.run import run
from hyperconv.experiments.settings import Run


def main(settings: Run) -> None:
    console = Console(width=None if Console().is_terminal else 140)
    console.print(_experiments() if settings.list else _figures(settings))


def _experiments() -> Table:
    table = Table(title="experiments, for --experiment", show_lines=True)
    for column in ("name", "paper", "task", "arms"):
        table.add_column(column, overflow="fold")
    table.add_column("minutes", justify="right")
    for each in (digits(Run()), *EXPERIMENTS.values()):
        table.add_row(each.name, each.paper, each.task, ", ".join(each.arms), str(each.minutes))
    return table


def _figures(settings: Run) -> Table:
    folder, arms = run(settings)
    metric = arms[0].metric
    table = Table(title=folder.name)
    for column in ("arm", "parameters", "seconds", f"validation {metric.name}", f"test {metric.name}"):
        table.add_column(column, justify="left" if column == "arm" else "right", no_wrap=True)
    table.add_column("checkpoint", overflow="fold")
    for arm in arms:
        report = arm.report
        table.add_row(
            arm.arm,
            f"{report.parameters:,}",
            f"{report.seconds:.0f}",
            metric.text(report.val_metric),
            metric.text(report.test_metric),
            str(arm.checkpoint),
        )
    return table


if __name__ == "__main__":
    cli.run(main, Run)
