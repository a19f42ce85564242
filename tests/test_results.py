import re
import shutil
import subprocess

import pytest
from helpers import ROOT, run_script
from torch import nn

from hyperconv.errors import InputError
from hyperconv.experiments import results, tables
from hyperconv.experiments.declared import experiments
from hyperconv.experiments.experiment import Arm, Experiment
from hyperconv.experiments.results import Result
from hyperconv.training import Recipe
from hyperconv.training.objectives import CLASSIFICATION

TURNS = Experiment(
    name="turns",
    paper="",
    task="",
    minutes=0,
    arms={"told": Arm(nn.Identity), "not-told": Arm(nn.Identity), "for-5": Arm(nn.Identity, group="for one")},
    recipe=Recipe("adam", 0.1, 0.0, "constant", batch_size=1, epochs=1, patience=None, shuffle=False),
    objective=CLASSIFICATION,
)


@pytest.fixture(autouse=True)
def turns(monkeypatch):
    monkeypatch.setitem(experiments(), "turns", TURNS)


def row(arm="told", value=0.5, seed=0, split="test", metric="accuracy", at="", **more):
    told = {
        "experiment": "turns",
        "settings": "",
        "noise_seed": None,
        "fold": None,
        "data": "mnist",
        "parameters": 1000,
        "operations": 2000,
        "epochs": 5,
        "seconds": 60.0,
        "command": "python main.py --name 'it''s, here'",
        "date": "2026-11-22",
        "versions": "",
        "commit": "",
    }
    return Result(
        **{**told, "arm": arm, "value": value, "seed": seed, "split": split, "metric": metric, "at": at, **more}
    )


def both(arm="told", value=0.5, seed=0, **more):
    return [row(arm, value, seed, split, **more) for split in ("validation", "test")]


def cells(table: str) -> list[list[str]]:
    head, _, *lines = [[cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()]
    return [dict(zip(head, line, strict=True)) for line in lines]


def test_rows_are_read_as_they_were_written(tmp_path):
    rows = [row(at="λ=0.1", settings="recipe=robust", fold=3, noise_seed=7), row(operations=None, commit="abc1234+")]
    results.write(tmp_path / "results.csv", rows)
    assert results.read(tmp_path / "results.csv") == rows
    assert results.read(tmp_path / "none.csv") == []
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "results.csv").read_bytes())
    assert results.read(tmp_path / "bom.csv") == rows


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace("experiment,settings", "experiment,recipe"), "expected the columns"),
        (lambda text: text.replace(",", ";"), "expected the columns"),
        (lambda text: "", "expected the columns"),
        (lambda text: text + "turns,told", "line 3: expected 19 columns"),
        (lambda text: text.strip() + ",more\n", "line 2: expected 19 columns"),
        (lambda text: text.replace("0.5", "nan"), "line 2: value cannot be 'nan'"),
        (lambda text: text.replace("0.5", "half"), "line 2: value cannot be 'half'"),
        (lambda text: text.replace(",1000,", ",many,"), "line 2: parameters cannot be 'many'"),
        (lambda text: text + '"turns', ", line "),
        (lambda text: text + "\udcff", "no UTF-8"),
        (lambda text: text + "\0", ", line "),
    ],
)
def test_odd_results_are_refused_in_a_line_that_says_where(tmp_path, damage, message):
    path = tmp_path / "results.csv"
    results.write(path, [row()])
    path.write_text(damage(path.read_text()), encoding="utf-8", errors="surrogateescape")
    with pytest.raises(InputError, match=re.escape(message)) as refused:
        results.read(path)
    assert str(path) in str(refused.value)


def test_a_row_says_which_commit_made_it():
    commit = results.provenance()["commit"]
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        assert commit == ""
    else:
        command = ["git", "merge-base", "--is-ancestor", commit.rstrip("+"), "HEAD"]
        assert len(commit) >= 7 and subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def test_a_training_that_is_measured_again_replaces_all_of_the_old_one():
    old = [*both(value=0.5), row(metric="failed", split="validation", value=1.0), row(at="5 degrees"), row(seed=1)]
    new = both(value=0.7)
    assert results.with_trainings(old, new) == [row(seed=1), *new]


def test_tables_give_mean_interval_and_number_and_count_failed_trainings_apart():
    good = [*both(value=0.98), *both(value=0.99, seed=1)]
    failed = [row(seed=2, split="validation", metric="failed", value=1.0, epochs=0)]
    lazy = [*both(value=0.1, seed=3), row(seed=3, split="validation", metric="failed", value=1.0)]
    (line,) = cells(tables.headline_table([*good, *failed, *lazy], [TURNS]))
    # the 0.975 quantile of t with one degree of freedom is 12.706
    assert line["test"] == line["validation"] == "98.50 ± 6.35"
    assert (line["n"], line["failed"], line["metric"]) == ("2", "2", "accuracy %")
    assert (line["parameters"], line["operations"], line["settings"]) == ("1,000", "2,000", "default")
    (alone,) = cells(tables.headline_table(both(value=0.98), [TURNS]))
    assert alone["test"] == "98.00"


def test_settings_and_data_have_lines_of_their_own():
    rows = [*both(), *both(settings="epochs=2"), *both(data="mnist5k")]
    lines = cells(tables.headline_table(rows, [TURNS, experiments()["mlp"]]))
    assert [(line["experiment"], line["data"], line["settings"]) for line in lines] == [
        ("turns", "mnist", "default"),
        ("turns", "mnist", "epochs=2"),
        ("turns", "mnist5k", "default"),
    ]


def test_arms_and_metrics_are_called_what_they_are_called_whatever_their_names():
    rows = [
        row("not-told", 0.25, metric="error at 5", at="10 degrees"),
        row("told", 0.75, metric="error at 5", at="10 degrees"),
        row("for-5", 0.5, metric="error at 5", at="20 degrees"),
    ]
    assert cells(tables.further_table(rows, TURNS)) == [
        {"at": "mnist, 10 degrees", "figure": "error at 5", "not-told": "0.250", "told": "0.750", "for one": ""},
        {"at": "mnist, 20 degrees", "figure": "error at 5", "not-told": "", "told": "", "for one": "0.500"},
    ]


def test_what_an_arm_was_not_measured_by_is_left_empty():
    rows = [row("told", 0.25, metric="dB", at="10 degrees"), row("not-told", 0.5, metric="folds", at="10 degrees")]
    assert cells(tables.further_table(rows, TURNS)) == [
        {"at": "mnist, 10 degrees", "figure": "dB", "told": "0.250", "not-told": ""},
        {"at": "mnist, 10 degrees", "figure": "folds", "told": "", "not-told": "0.500"},
    ]


def test_figures_without_conditions_stand_by_arm_and_counts_are_whole():
    rows = [
        row(arm, count, seed, metric="kernel parameters")
        for arm, count in (("told", 4244), ("not-told", 12544))
        for seed in (0, 1)
    ]
    assert cells(tables.further_table(rows, TURNS)) == [
        {"at": "mnist", "figure": "kernel parameters", "told": "4,244", "not-told": "12,544"},
    ]


def test_a_network_counts_once_in_the_table_of_noise_however_often_noise_was_drawn():
    noisy = {"metric": results.NOISE_METRIC, "at": "speckle"}
    rows = [
        row(value=value, seed=seed, noise_seed=draw, **noisy)
        for seed, draw, value in ((0, 0, 0.5), (0, 1, 0.7), (1, 0, 0.8))
    ]
    (line,) = cells(tables.noise_table(rows))
    assert (line["speckle"], line["n"]) == ("0.700 ± 1.271", "2")


PAGE = "a\n<!-- table turns -->\nstale\n<!-- end -->\nb\n<!-- table noise -->\n<!-- end -->\n"


@pytest.fixture
def written(tmp_path):
    """Gathered results and a page, as flags."""
    results.write(tmp_path / "all.csv", both())
    (tmp_path / "page.md").write_text(PAGE)
    return "--results", str(tmp_path / "all.csv"), "--pages", str(tmp_path / "page.md")


def test_added_rows_are_gathered_and_pages_written(tmp_path, written, capsys):
    results.write(tmp_path / "new.csv", [*both(value=0.7), row(at="5 degrees", value=0.25)])
    code, _, err = run_script(capsys, tables.main, tables.Tables, *written, "--add", str(tmp_path / "new.csv"))
    assert code == 0, err
    assert len(results.read(tmp_path / "all.csv")) == 3
    text = (tmp_path / "page.md").read_text()
    assert "| mnist, 5 degrees | accuracy | 0.250 |" in text
    assert "stale" not in text and text.startswith("a\n") and "\nb\n" in text


@pytest.mark.parametrize(
    ("added", "flags", "message"),
    [
        ([row(seed=1)], (), "no validation accuracy among the results"),
        ([row(seed=1, split="validation")], (), "no test accuracy among the results"),
        (both(seed=1), ("--results", "{}/typo.csv"), "there are no results"),
        (both(seed=1), ("--pages", "{}/typo.md"), "there is no such file"),
        (both(seed=1), ("--pages", "{}/page.md", "{}/strange.md"), "there is no table strange"),
        (None, (), "there are no results"),
        ("value", (), "value cannot be 'nan'"),
    ],
)
def test_what_cannot_be_written_whole_changes_nothing(tmp_path, written, capsys, added, flags, message):
    (tmp_path / "strange.md").write_text("<!-- table strange -->\n<!-- end -->\n")
    if added == "value":
        results.write(tmp_path / "new.csv", both(seed=1))
        (tmp_path / "new.csv").write_text((tmp_path / "new.csv").read_text().replace("0.5", "nan"))
    elif added is not None:
        results.write(tmp_path / "new.csv", added)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    changed = [flag.format(tmp_path) for flag in flags]
    add = ("--add", str(tmp_path / "new.csv"))
    code, _, err = run_script(capsys, tables.main, tables.Tables, *written, *add, *changed)
    assert code == 2
    assert message in err and len(err.splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_pages_hold_the_tables_that_the_results_give():
    rows = results.read(ROOT / "lightning_logs" / "results.csv")
    assert rows
    tables.check_whole(rows)
    marked = 0
    for page in tables.Tables().pages:
        text = (ROOT / page).read_text(encoding="utf-8")
        marked += text.count("<!-- table ")
        assert tables.with_tables(text, rows) == text
    assert marked > 3


def test_gathered_trainings_are_of_declared_experiments_and_arms():
    declared = experiments()
    weather = declared["weather"]
    of_options = {"weather": weather.with_options(weather.options(clips="apart")).arms}
    noisy, where_installed = {"normal + median 3x3"}, {"pysteps"}
    for each in results.read(ROOT / "lightning_logs" / "results.csv"):
        assert each.arm in {
            *declared[each.experiment].arms,
            *of_options.get(each.experiment, ()),
            *noisy,
            *where_installed,
        }, each


def test_a_table_without_its_end_takes_no_prose_with_it():
    text = "<!-- table accuracy -->\n\nprose\n\n<!-- table noise -->\n<!-- end -->\n"
    with pytest.raises(InputError, match="accuracy has no <!-- end -->"):
        tables.with_tables(text, [])


def test_failed_trainings_took_no_part_of_the_mean_time():
    diverged = row(seed=1, split="validation", metric=results.FAILED, value=1, seconds=0.0)
    (line,) = cells(tables.headline_table([*both(), diverged], [TURNS]))
    assert (line["n"], line["failed"], line["seconds"]) == ("1", "1", "60")
