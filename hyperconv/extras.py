"""What a missing package is answered with: the command that brings it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata


def command_for(*extras: str) -> str:
    """
    >>> command_for("graphs", "medical")
    'pip install hyperconv[graphs,medical]'
    """
    return f"pip install hyperconv[{','.join(extras)}]"


def missing(extras: Sequence[str]) -> list[str]:
    """Those of the package's extras of which something is not installed; none where the package itself is not."""
    from packaging.requirements import Requirement

    try:
        needed = [Requirement(text) for text in metadata.requires("hyperconv") or ()]
    except metadata.PackageNotFoundError:
        return []

    def brings(extra: str) -> set[str]:
        return {each.name for each in needed if each.marker is None or each.marker.evaluate({"extra": extra})}

    return [extra for extra in extras if not all(map(_is_installed, brings(extra) - brings("")))]


def _is_installed(package: str) -> bool:
    try:
        return bool(metadata.distribution(package))
    except metadata.PackageNotFoundError:
        return False


@contextmanager
def needing(extra: str, what: str) -> Iterator[None]:
    """Around imports that one of the package's extras brings.

    Raises:
        ImportError: a package is missing; the message names what needs it and the command that brings it.

    >>> with needing("experiments", "hyperconv.cost"):
    ...     import no_such_package
    Traceback (most recent call last):
        ...
    ImportError: hyperconv.cost needs no_such_package: pip install hyperconv[experiments]
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "hyperconv").partition(".")[0] == "hyperconv":
            raise
        raise ImportError(f"{what} needs {error.name}: {command_for(extra)}", name=error.name) from error
