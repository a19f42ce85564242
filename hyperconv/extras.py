"""What a missing package is answered with: the command that brings it."""

from collections.abc import Iterator
from contextlib import contextmanager


def command_for(extra: str) -> str:
    """
    >>> command_for("experiments")
    'pip install hyperconv[experiments]'
    """
    return f"pip install hyperconv[{extra}]"


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
