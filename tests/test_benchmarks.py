"""The benchmarks run, and write down what they measured; how fast anything is, is not tested."""

import csv
import importlib
import math
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))
common = importlib.import_module("common")
ALL = importlib.import_module("all")
BENCHMARKS = {
    path.stem for path in FOLDER.glob("*.py") if "def cases(" in path.read_text(encoding="utf-8") and path.stem != "all"
}
COLUMNS = "benchmark,case,side,ratio,low,high,ms,peak MB,device,instruction set,dtype,torch version,commit"


def command(*flags):
    return [sys.executable, str(FOLDER / "all.py"), "--device", "cpu", *flags]


def rows_of(file):
    with file.open(encoding="utf-8", newline="") as opened:
        header, *rows = csv.reader(opened)
    assert header == COLUMNS.split(",")
    assert all(len(row) == len(header) for row in rows)
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_every_benchmark_yields_finite_ratios(tmp_path, digits_folder):
    file = tmp_path / "figures.csv"
    flags = ("--minutes", "0.2", "--quick", "--data", str(digits_folder), "--csv", str(file))
    ended = subprocess.run(command(*flags), capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = rows_of(file)
    assert {row["benchmark"] for row in rows} == BENCHMARKS
    for row in rows:
        low, middle, high = (float(row[name]) for name in ("low", "ratio", "high"))
        assert 0 < low <= middle <= high < math.inf, row
        assert float(row["ms"]) > 0
    sides = {row["side"].partition(" (")[0] for row in rows}
    assert {"auto to the best of the others", "the layer to the best way", "floor: plain and generator"} <= sides
    assert {(row["instruction set"], row["dtype"]) for row in rows} == {
        (torch.backends.cpu.get_cpu_capability(), "float32")
    }


def test_an_interrupted_run_keeps_what_it_finished(tmp_path):
    file = tmp_path / "figures.csv"
    running = subprocess.Popen(
        command("--only", "local_filter", "decomposition", "--minutes", "1", "--csv", str(file)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        # what runs in a shell's background ignores Ctrl-C, and so would its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        deadline = time.monotonic() + 300
        while not file.exists() and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130
    assert errors.splitlines()[-1] == "error: interrupted"
    assert {"unfolding", "local_filter"} <= {row["side"] for row in rows_of(file)}
    assert [each.name for each in tmp_path.iterdir()] == [file.name]


TABLES = importlib.import_module("tables")
FIGURES = f"""{COLUMNS}
mlp,case a,plain,1,1,1,2.5,1,"CPU, 2 threads",AVX2,float32,2.14,abc
mlp,case a,auto to the best (loop),1.234,1.1,1.3,2.5,1,"CPU, 2 threads",AVX2,float32,2.14,abc
mlp,case b,plain,1,1,1,0.5,,"CPU, 2 threads",AVX2,float32,2.14,abc
mlp,case b,auto to the best (bmm),0.0123,0.011,0.013,2.5,,"CPU, 2 threads",AVX2,float32,2.14,abc
"""
EXPECTED = """before
<!-- mlp, AVX2 -->

CPU, 2 threads, AVX2, torch 2.14, commit abc:

| case | type | plain, ms | auto to the best |
| --- | --- | ---: | ---: |
| case a | float32 | 2.5 | 1.23 (1.10 to 1.30) |
| case b | float32 | 0.5 | 0.012 (0.011 to 0.013) |
<!-- end -->
between
<!-- mlp, sm_90 -->
kept
<!-- end -->
"""


def test_tables_are_written_between_their_marks(tmp_path):
    figures, page = tmp_path / "figures.csv", tmp_path / "page.md"
    figures.write_text(FIGURES, encoding="utf-8")
    page.write_text(
        re.sub(r"(AVX2 -->\n).*?(<!-- end)", r"\1old\n\2", EXPECTED, count=1, flags=re.DOTALL), encoding="utf-8"
    )
    for _ in range(2):
        TABLES.main(TABLES.Tables(str(figures), str(page)))
        assert page.read_text(encoding="utf-8") == EXPECTED


def test_tables_of_another_file_leave_the_page(tmp_path, capsys):
    figures, page = tmp_path / "figures.csv", tmp_path / "page.md"
    figures.write_text("a,b\n1,2\n", encoding="utf-8")
    page.write_text(EXPECTED, encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        common.command(TABLES.main, TABLES.Tables, ("--csv", str(figures), "--page", str(page)))
    assert stop.value.code == 2
    assert "is no file of all.py" in capsys.readouterr().err
    assert page.read_text(encoding="utf-8") == EXPECTED


@pytest.mark.parametrize(
    ("flags", "expected"),
    (
        (("--device", "tpu"), "invalid choice: 'tpu'"),
        (("--minutes", "0"), "invalid positive number value: '0'"),
        (("--minutes", "nan"), "invalid positive number value: 'nan'"),
        (("--only", "layer"), "the benchmarks are train_step, layers"),
        (("--csv", "."), "--csv . is a folder"),
        (("--min", "3"), "unrecognized arguments: --min 3"),
        (("--quick", "--data"), "expected one argument"),
    ),
)
def test_bad_flags_end_in_one_line(flags, expected, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        common.command(ALL.main, ALL.All, flags)
    output, errors = capsys.readouterr()
    assert stop.value.code == 2
    assert expected in errors
    assert len(errors.splitlines()) == 1
    assert not output
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said(capsys):
    with pytest.raises(SystemExit) as stop:
        common.command(ALL.main, ALL.All, ("--device", "cuda"))
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: --device cuda: torch finds no GPU here; give --device cpu\n"


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_every_script_explains_its_flags(name, capsys):
    module = importlib.import_module(name)
    settings = next(
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, common.Settings) and kind is not common.Settings
    )
    with pytest.raises(SystemExit) as stop:
        common.command(module.main, settings, ("--help",))
    assert stop.value.code == 0
    assert "--json" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        common.command(module.main, settings, ("--precision", "tf32", "--device", "cpu"))
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: --precision tf32 needs a GPU; give float32 or bf16\n"


def test_time_left_bounds_the_rounds():
    runs = {"a": 0, "b": 0}

    def run(side):
        runs[side] += 1
        time.sleep(0.02)

    sides = {side: lambda side=side: run(side) for side in runs}
    times = common.alternate(sides, torch.device("cpu"), rounds=1000, seconds=0.5)
    assert common.FEWEST_ROUNDS <= len(times["a"]) == len(times["b"]) <= 12
    times = common.alternate(sides, torch.device("cpu"), rounds=1000, seconds=0)
    assert len(times["a"]) == common.FEWEST_ROUNDS


def test_comparisons_add_and_take_the_fastest():
    quick, slow = (lambda: torch.zeros(10)), (lambda: [torch.zeros(10) for _ in range(50)])
    comparisons = (
        common.Comparison("sum", ("quick", "slow"), ("slow",)),
        common.Comparison("best", ("slow",), ("slow", "quick")),
    )
    case = common.Sides("case", lambda: {"quick": quick, "slow": slow}, "slow", comparisons)
    rows = {row.side: row for row in case.rows(common.Machine(torch.device("cpu")), 3, None)}
    assert list(rows) == ["quick", "slow", "sum", "best (quick)"]
    assert rows["slow"].ratio == (1, 1, 1)
    assert rows["sum"].ratio.middle == pytest.approx(1 + rows["quick"].ratio.middle)
    assert rows["best (quick)"].ratio.middle > 1


def test_peak_memory_counts_what_exists_at_once():
    def run():
        first = torch.empty(1_000_000)
        second = torch.empty(500_000)
        del first
        return second, torch.empty(250_000)

    assert common.peak_memory(run, torch.device("cpu")) == 6_000_000
