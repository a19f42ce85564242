"""The notebook of the class, as it is committed. That it runs is shown by ``pytest --nbmake notebooks``."""

import json
import re

import pytest
from helpers import ROOT

FOLDER = ROOT / "notebooks"
NOTEBOOK = FOLDER / "hyper_convolution.ipynb"
MOST_BYTES = 500_000
MACHINE = re.compile(r"/(home|root|tmp|usr|work|opt|var|Users)/|site-packages|[A-Z]:\\\\")


@pytest.fixture(scope="module")
def cells():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_notebook_and_its_text_agree():
    jupytext = pytest.importorskip("jupytext", reason="pip install hyperconv[notebook]")
    notebook, text = (jupytext.read(path) for path in (NOTEBOOK, NOTEBOOK.with_suffix(".md")))
    assert notebook.metadata["jupytext"]["formats"] == "ipynb,md"
    contents = [[(cell.cell_type, cell.source) for cell in each.cells] for each in (notebook, text)]
    assert contents[0] == contents[1], "jupytext --sync notebooks/hyper_convolution.md, and execute it"


def test_every_cell_was_executed_in_order_and_none_failed(cells):
    of_code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in of_code] == list(range(1, len(of_code) + 1))
    kinds = {output["output_type"] for cell in of_code for output in cell["outputs"]}
    assert "display_data" in kinds
    assert "error" not in kinds
    assert not [output for cell in of_code for output in cell["outputs"] if output.get("name") == "stderr"]


def test_notebook_is_small_and_tells_nothing_of_a_machine(cells):
    assert NOTEBOOK.stat().st_size < MOST_BYTES
    pictures = {"image/png"}
    for cell in cells:
        texts = ["".join(cell["source"])]
        for output in cell.get("outputs", []):
            texts.append("".join(output.get("text", [])))
            texts += ["".join(text) for kind, text in output.get("data", {}).items() if kind not in pictures]
        assert not [text for text in texts if MACHINE.search(text)]
        assert "execution" not in cell["metadata"]


def test_every_exercise_is_followed_by_assertions(cells):
    sources = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    exercises = [
        number
        for number, (kind, text) in enumerate(sources)
        if kind == "markdown" and re.search(r"^#.*xercise", text, re.MULTILINE)
    ]
    assert len(exercises) >= 10
    for number, end in zip(exercises, [*exercises[1:], len(sources)], strict=True):
        code = "\n".join(text for kind, text in sources[number:end] if kind == "code")
        assert re.search(r"^ *assert", code, re.MULTILINE), sources[number][1]
