"""Which of the package's extras are missing here."""

from importlib import metadata

from packaging.requirements import Requirement

from ..errors import InputError
from .experiment import Experiment

_PACKAGE = "hyperconv"


def missing_extras(experiment: Experiment) -> list[str]:
    """Those of the experiment's extras of which a package is not installed."""
    return [extra for extra in experiment.extras if not all(map(_installed, _packages(extra)))]


def command_for(extras: list[str]) -> str:
    """
    >>> command_for(["graphs", "medical"])
    'pip install hyperconv[graphs,medical]'
    """
    return f"pip install {_PACKAGE}[{','.join(extras)}]"


def check_extras(experiment: Experiment) -> None:
    """
    Raises:
        InputError: an extra is missing.
    """
    missing = missing_extras(experiment)
    if missing:
        raise InputError(f"{experiment.name} needs more packages: {command_for(missing)}")


def _packages(extra: str) -> list[str]:
    """What the extra brings; nothing is known of a package that is not installed."""
    try:
        required = metadata.requires(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        return []
    requirements = [Requirement(text) for text in required]
    return [
        each.name
        for each in requirements
        if each.marker and each.marker.evaluate({"extra": extra}) and not each.marker.evaluate({"extra": ""})
    ]


def _installed(package: str) -> bool:
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return False
    return True
