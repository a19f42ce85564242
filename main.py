"""Train hyper and normal CNNs on digits; see --help."""

from rich.console import Console
from rich.table import Table

from hyperconv import cli
from hyperconv.experiments.digits import DigitsRun, run_digits


def main(settings: DigitsRun) -> None:
    folder, arms = run_digits(settings)
    table = Table(title=folder.name)
    for column in ("arm", "parameters", "seconds", "validation", "test"):
        table.add_column(column, justify="left" if column == "arm" else "right", no_wrap=True)
    table.add_column("checkpoint", overflow="fold")
    for arm in arms:
        report = arm.report
        table.add_row(
            arm.arm,
            f"{report.parameters:,}",
            f"{report.seconds:.0f}",
            f"{report.val_acc:.2%}",
            f"{report.test_acc:.2%}",
            str(arm.checkpoint),
        )
    Console(width=None if Console().is_terminal else 140).print(table)


if __name__ == "__main__":
    cli.run(main, DigitsRun)
