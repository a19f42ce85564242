import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/layers.md", "docs/experiments.md")


def examples():
    for page in PAGES:
        for number, code in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)):
            yield pytest.param(code, id=f"{page}-{number}")


@pytest.mark.parametrize("code", list(examples()))
def test_examples_run(code):
    exec(compile(code, "example", "exec"), {})


def test_shapes_in_comments_are_right():
    """Where a line of an example ends in a comment that begins with a shape, its value has that shape."""
    checked = 0
    for page in PAGES:
        for code in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
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
    for target, _, anchor in re.findall(r"\]\(([^)#]+)(#([^)]*))?\)", (ROOT / page).read_text()):
        path = (ROOT / page).parent / target
        assert target.startswith("https://") or path.exists(), target
        if anchor and not target.startswith("https://"):
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings], anchor
