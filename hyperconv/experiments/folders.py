"""A run's folder: made whole with its settings in it, found again to be resumed."""

import re
import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..cli import from_stored
from ..errors import InputError
from ..files import read_yaml, renamed_into_place, write_whole
from .declared import experiments
from .settings import Run, changes, plain

_SETTINGS_FILE = "settings.yaml"
ONLY_5K = "-mnist5k"
_MAY_CHANGE = ("logs", "name", "resume", "accelerator", "strategy", "compile", "out", "list")


class Begun(NamedTuple):
    """A run that has a folder.

    Attributes:
        settings: that it began with, but for what may change.
        options: of its experiment, or None.
        data: the name of its data.
    """

    folder: Path
    settings: Run
    options: Any
    data: str


def check_name(settings: Run) -> None:
    """
    Raises:
        InputError: the run's name is no name of one folder within ``--logs``.
    """
    name = settings.name
    if name is None:
        return
    if name != Path(name).name or name.startswith(".") or not name.isprintable():
        raise InputError(f"--name {name!r} must be the name of a folder within --logs: no path, no leading dot")


def new_folder(settings: Run, options: Any, data: str) -> Path:
    """The run's new folder with its settings in it. Its name says so when the data are only mnist5k."""
    logs = Path(settings.logs)
    seeds = "-".join(map(str, settings.all_seeds))
    name = settings.name or f"{data}-{file_name(settings, options)}-seed{seeds}"
    if data == "mnist5k" and data not in name:
        name += ONLY_5K
    folder, number = logs / name, 1
    while folder.exists():
        if settings.name:
            raise InputError(f"{folder} exists; give another --name, or --resume to continue that run")
        number += 1
        folder = logs / f"{name}-{number}"
    # a run exists once its settings do, whenever it is killed
    with renamed_into_place(folder, folder=True) as beside:
        write_yaml(beside / _SETTINGS_FILE, {**plain(settings), "options": plain(options), "splits": data})
    return folder


def begun(settings: Run, options: Any) -> Begun:
    """The named run, to be continued.

    Args:
        options: as asked for now.

    Raises:
        InputError: no such run, one whose settings are damaged, or one that began with others than those asked for.
    """
    if settings.name is None:
        raise InputError(f"--resume needs the --name of the run to continue, a folder in {settings.logs}")
    names = (settings.name, f"{settings.name}{ONLY_5K}")
    folder = next((path for name in names if (path := Path(settings.logs) / name).is_dir()), None)
    if folder is None:
        raise InputError(
            f"there is no run {settings.name} in {settings.logs} to resume; leave out --resume to start it"
        )
    path = folder / _SETTINGS_FILE
    try:
        began, began_options, data = _stored(path)
    except (OSError, InputError) as error:
        raise InputError(f"{path} is missing or damaged ({error}); start the run anew under another name") from error
    for name, default in vars(Run()).items():
        if name not in _MAY_CHANGE:
            _check_same(settings.name, name, getattr(settings, name), getattr(began, name), default)
    for field in fields(options) if options is not None else ():
        asked, default = getattr(options, field.name), getattr(type(options)(), field.name)
        _check_same(settings.name, field.name, asked, getattr(began_options, field.name, default), default)
    asked = {key: getattr(settings, key) for key in _MAY_CHANGE}
    asked = {key: value for key, value in asked.items() if key in ("logs", "resume") or value != getattr(Run, key)}
    return Begun(folder, replace(began, **asked), began_options, data)


def _check_same(run: str, name: str, asked: Any, then: Any, default: Any) -> None:
    if asked not in (default, then):
        raise InputError(f"the run {run} began with {name} {then}; it cannot be resumed with {asked}")


def _stored(path: Path) -> tuple[Run, Any, str]:
    stored = read_yaml(path)
    for name in ("options", "splits"):
        if name not in stored:
            raise InputError(f"{name} is missing")
    options, data = stored.pop("options"), stored.pop("splits")
    settings = from_stored(Run, stored)
    declared = getattr(experiments().get(settings.experiment), "options", None)
    if not isinstance(data, str):
        raise InputError(f"splits must be a name, got {data!r}")
    if not isinstance(options, dict) if declared else options is not None:
        raise InputError(f"options are not those of {settings.experiment}")
    return settings, from_stored(declared, options) if declared else None, data


def place_of(folder: Path, settings: Run, arm: str, seed: int, fold: int | None) -> Path:
    """Where a training's files lie; its seed and fold are told only where there are others."""
    place = folder / arm
    if len(settings.all_seeds) > 1 or fold is not None:
        place /= f"seed{seed}"
    return place if fold is None else place / f"fold{fold}"


def file_name(settings: Run, options: Any) -> str:
    """The experiment and what is not its default, as a part of file names.

    >>> file_name(Run(experiment="mlp", epochs=2, quick=True, precision="bf16-mixed"), None)
    'mlp-quick-epochs2-precision-bf16-mixed'
    """
    text = f"{settings.experiment} {changes(settings, options)}".strip()
    return re.sub(r"=(?=\d)", "", text).replace("=", "-").replace("_", "-").replace(" ", "-")


def hint(settings: Run, folder: Path) -> str:
    """What to type to continue the run."""
    logs = [] if settings.logs == Run.logs else [f"--logs={settings.logs}"]
    return shlex.join(["python", "main.py", "--resume", f"--name={folder.name}", *logs])


def write_yaml(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
