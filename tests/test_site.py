import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers import ROOT

pytest.importorskip("mkdocs")


class Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def elements(site) -> dict[str, list[tuple[str, dict[str, str | None]]]]:
    return {str(path.relative_to(site)): Elements(path.read_text()).found for path in site.rglob("*.html")}


def test_every_image_says_what_it_shows(elements):
    images = [(page, each) for page, found in elements.items() for tag, each in found if tag == "img"]
    assert len(images) > 15
    assert [(page, each["src"]) for page, each in images if not each.get("alt")] == []


def test_nothing_is_fetched_from_elsewhere_when_it_is_read(elements):
    attributes = {"img": "src", "script": "src", "iframe": "src", "link": "href"}
    fetched = [
        (page, each[attributes[tag]])
        for page, found in elements.items()
        for tag, each in found
        if tag in attributes and re.match("(https?:)?//", each.get(attributes[tag]) or "")
    ]
    assert fetched == []


def test_links_and_images_lead_to_files(site, elements):
    for page, found in elements.items():
        for tag, each in found:
            target = each.get("href" if tag == "a" else "src" if tag == "img" else "") or "#"
            if page == "404.html" or re.match(r"\w+:|#|//", target):
                continue
            path = (site / page).parent / target.partition("#")[0]
            assert path.is_file() or (path / "index.html").is_file(), (page, target)


def test_every_public_name_has_its_place_in_the_reference(elements):
    import hyperconv

    places = {each.get("id") for _, each in elements["api/index.html"]}
    documented = {(place or "").rpartition(".")[2] for place in places}
    missing = set(hyperconv.__all__) - documented
    assert missing <= {"MNISTClassifier", "load_trained"}


def test_the_gallery_has_every_figure():
    shown = set(re.findall(r"\(\.\./out/([^)]+)\)", (ROOT / "docs/gallery.md").read_text()))
    drawn = subprocess.run(["git", "ls-files", "out/*.png"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not drawn:
        pytest.skip("needs a checkout")
    assert shown == {Path(path).name for path in drawn}
