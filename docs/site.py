"""Makes a site of the repository's own pages: ``mkdocs build``.

Links on a page are as the repository has them; on the site, pages and what they show lie side by side.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
_ELSEWHERE = {"README.md": "index.md", "benchmarks/README.md": "benchmarks.md", "CHANGELOG.md": "changelog.md"}
_MODULES = (
    "layers",
    "norms",
    "generators",
    "convert",
    "costs",
    "conditional",
    "together",
    "adapters",
    "functional",
    "coordinates",
    "blocks",
)
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take in the pages outside docs/, the reference, and whatever pages link to."""
    for path, name in _ELSEWHERE.items():
        files.append(File.generated(config, name, content=(ROOT / path).read_text(encoding="utf-8")))
    files.append(File.generated(config, "api.md", content=_reference()))
    pages = _pages(files)
    for path in sorted({target for page in pages for target in _targets(page)} - pages.keys()):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point its links to where the site has what they mean."""
    pages = _pages(files)
    places = {place: path for path, place in pages.items()}
    path = places.get(page.file.src_uri)
    if path is None:
        return markdown
    return _LINK.sub(lambda link: pages.get(target := _from_root(path, link[0]), target), markdown)


def _pages(files: Files) -> dict[str, str]:
    """Of every page that the repository has, its path there, and on the site."""
    within = {f"docs/{file.src_uri}": file.src_uri for file in files.documentation_pages() if not file.generated_by}
    return {**_ELSEWHERE, **within}


def _targets(page: str) -> Iterator[str]:
    for link in _LINK.findall((ROOT / page).read_text(encoding="utf-8")):
        target = _from_root(page, link)
        if (ROOT / target).is_file():
            yield target


def _from_root(page: str, link: str) -> str:
    return normpath(PurePosixPath(page).parent / link)


def _reference() -> str:
    parts: list[Any] = ["# API", *(f"::: hyperconv.{module}" for module in _MODULES)]
    return "\n\n".join(parts) + "\n"
