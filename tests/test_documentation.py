import csv
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

from hyperconv.experiments.statistics import difference_interval, paired_interval

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
OPTIONAL = re.compile(r"^(?:from|import) (voxelmorph)", re.MULTILINE)
MARKER = re.compile(r"<!-- compares (.+?) -->")
# accuracies are fractions in the results and points in sentences
POINTS = ("accuracy", "mIoU")


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def codes(page):
    """The examples of a page; those that import relatively are files of the package, and not run by themselves."""
    found = re.findall(r"```python\n(.*?)```", text_of(page), re.DOTALL)
    return [code for code in found if not re.search(r"^from \.", code, re.MULTILINE)]


def examples():
    for page in PAGES:
        for number, code in enumerate(codes(page)):
            yield pytest.param(code, id=f"{page}-{number}")


@pytest.mark.parametrize("code", list(examples()))
def test_examples_run(code):
    for library in OPTIONAL.findall(code):
        pytest.importorskip(library)
    exec(compile(code, "example", "exec"), {})


def test_shapes_in_comments_are_right():
    """Where a line of an example ends in a comment that begins with a shape, its value has that shape."""
    checked = 0
    for page in PAGES:
        for code in codes(page):
            if not re.search(r"# \(\d", code):
                continue
            names = {}
            for line in code.splitlines():
                exec(line, names) if not line.startswith((" ", "with")) else None
                shape = re.search(r"# \((\d[\d, ]*)\)", line)
                if shape and " = " not in line.split("#")[0]:
                    value = eval(line.split("#")[0], names)
                    assert tuple(value.shape) == tuple(int(size) for size in shape[1].split(",")), line
                    checked += 1
    assert checked >= 8


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target, _, anchor in re.findall(r"\]\(([^)#]+)(#([^)]*))?\)", text_of(page)):
        path = (ROOT / page).parent / target
        assert target.startswith("https://") or path.exists(), target
        if anchor and not target.startswith("https://"):
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings], anchor


def test_readme_is_short_and_its_commands_are_those_of_the_package():
    text = text_of("README.md")
    assert len(text.splitlines()) <= 120
    first, second = re.findall(r"^python3 -m venv .*$", text, re.MULTILINE)
    assert "-r requirements.txt" in first
    assert "main.py" in first
    assert '-e ".[test]"' in second
    assert "pytest" in second


class Claim(NamedTuple):
    """A sentence that compares two arms, and the marker behind it."""

    text: str
    experiment: str
    data: str
    metric: str
    arm: str
    other: str
    verdict: str
    options: dict


def claims():
    """``<!-- compares EXPERIMENT DATA METRIC ARM OTHER greater|less|unclear [at=] [settings=] [difference=] -->``"""
    for page in (*PAGES, "CHANGELOG.md"):
        text = text_of(page)
        for number, marker in enumerate(MARKER.finditer(text)):
            words = shlex.split(marker[1])
            options = dict(word.split("=", 1) for word in words[6:])
            before = re.split(r"\n\n|\n\| |-->", text[: marker.start()])[-1]
            yield pytest.param(Claim(before, *words[:6], options), id=f"{page}-{number}")


@pytest.fixture(scope="module")
def measured():
    with (ROOT / "lightning_logs" / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if row["split"] == "test" and not row["noise_seed"]]


@pytest.mark.parametrize("claim", list(claims()))
def test_sentences_that_compare_say_what_the_results_show(claim, measured):
    def values(arm):
        wanted = (claim.experiment, claim.data, claim.metric, arm, claim.options.get("at", ""))
        found = {
            (row["seed"], row["fold"]): float(row["value"])
            for row in measured
            if (row["experiment"], row["data"], row["metric"], row["arm"], row["at"]) == wanted
            and row["settings"] == claim.options.get("settings", "")
        }
        assert len(found) >= 2, f"no figures of {wanted}"
        return found

    a, b = values(claim.arm), values(claim.other)
    if all(fold for _, fold in a):  # those that a fold's data make hard are so for both arms
        interval = paired_interval(a, b)
    else:
        interval = difference_interval(list(a.values()), list(b.values()))
    shown = abs(interval.mean) > interval.half_width
    verdict = ("greater" if interval.mean > 0 else "less") if shown else "unclear"
    assert claim.verdict == verdict, interval
    assert set(claim.options) <= {"at", "settings", "difference"}
    if quoted := claim.options.get("difference"):
        scale = 100 if claim.metric in POINTS else 1
        decimals = len(quoted.partition("±")[2].partition(".")[2])
        mean, half_width = (f"{scale * value:.{decimals}f}" for value in interval)
        assert quoted == f"{mean}±{half_width}"
        assert f"{mean.removeprefix('-')} ± {half_width}" in claim.text.replace("\n", " "), claim.text
    if claim.verdict == "unclear":
        assert not re.search(r"better|worse|less accurate|more accurate|beats", claim.text), claim.text


def test_there_are_claims_on_every_page_that_tells_results():
    pages = {parameter.id.rpartition("-")[0] for parameter in claims()}
    assert {"README.md", "CHANGELOG.md", "docs/results.md", "docs/experiments.md", "docs/verdicts.md"} <= pages
