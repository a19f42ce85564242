"""What several test files use."""

import csv
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

import main
from hyperconv import cli
from hyperconv.data import DigitDataset, Splits

ROOT = Path(main.__file__).parent


def run(capsys, *args: str) -> tuple[int, str, str]:
    """Exit code, output and errors of main.py in this process."""
    return run_script(capsys, main.main, main.settings_for, *args)


def run_script(capsys, script: Callable, settings, *args: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a script's ``main`` in this process."""
    try:
        cli.run(script, settings, args)
        code = 0
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


BRIGHTEST = {"train": 100, "validation": 150, "test": 200}


def told_apart(splits: Splits) -> Splits:
    """Digits each of whose splits is as bright as `BRIGHTEST` says, so that it can be seen which one an image shows."""
    dimmed = {
        split: DigitDataset((digits.images.float() / 255 * most).round().to(torch.uint8), digits.labels)
        for split, most in BRIGHTEST.items()
        for digits in [getattr(splits, split)]
    }
    return replace(splits, **dimmed)


def launch(*args: str) -> BaseProcess:
    """main.py in a process of its own, which starts with everything imported; its errors go to this one's."""
    return started(_main, args)


def started(target: Callable[..., None], args: Sequence[Any] = ()) -> BaseProcess:
    process = _context().Process(target=target, args=args)
    process.start()
    return process


def finish(process: BaseProcess) -> None:
    process.join(timeout=300)
    assert process.exitcode == 0


def kill_when(process: BaseProcess, ready: Callable[[], bool], number: int = signal.SIGKILL) -> None:
    deadline = time.monotonic() + 120
    try:
        while not ready():
            assert process.is_alive(), "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(process.pid, number)
        process.join(60)
        assert process.exitcode == -number
    finally:
        process.kill()


@cache
def _context() -> BaseContext:
    """A server that forks imports main.py once. It has no threads yet, so that its forks may make their own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([main.__name__, "hyperconv.experiments.run", __name__])
    return context


def _main(*args: str) -> None:
    cli.run(main.main, main.settings_for, args)


def rows_in(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
