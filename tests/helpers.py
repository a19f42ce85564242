"""What several test files use."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import main
from hyperconv import cli

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


def launch(*args: str) -> subprocess.Popen:
    """main.py in a process of its own."""
    command = [sys.executable, str(ROOT / "main.py"), *args]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()


def kill_when(process: subprocess.Popen, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def rows_in(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
