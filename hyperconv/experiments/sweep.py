"""A grid of trainings, run side by side by Ray Tune, on this machine or on a cluster."""

import hashlib
import logging
import os
import re
import shutil
import sys
import time
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from ..cli import Size, flag_texts, parsed
from ..errors import InputError
from ..extras import needing
from ..files import locked, read_yaml
from . import results
from .asked import Asked
from .declared import flags_of
from .folders import ONLY_5K
from .results import Result
from .run import run

_RETRIES = 3
SECONDS_TO_WAIT = 60
_LONGEST_NAME = 150
# trainings run where the sweep was started; Ctrl-C is ours; nothing is told to Ray's makers
_FOR_RAY = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "OMP_NUM_THREADS": "1",
}
_OURS = ("logs", "name", "resume", "tune", "list", "out")
RESULTS = "results.csv"


@dataclass(frozen=True)
class Sweep:
    """Run every training of a grid that has not been run yet, several at once, each on one core.

    The file has common, flags of main.py with one value each; and grids, a list of such flags with a list of values
    each, all combinations of which are run. If it is killed, the same command goes on where it was. The rows of all
    trainings gather in results.csv in the sweep's folder within --logs, which has the file's name.

    Args:
        file: in YAML.
        address: of a Ray cluster whose machines share this folder and have hyperconv installed; auto for one that was
            started with "ray start". Default: this machine alone.
        workers: how many trainings run at once. Default: as many as there are cores.
        logs: folder of all runs.
    """

    file: str
    address: str | None = None
    workers: Size | None = None
    logs: str = "lightning_logs"


def sweep(settings: Sweep) -> list[Result]:
    """The rows of all trainings, those that were there already too.

    Raises:
        InputError: a file that is no sweep, or of trainings that cannot be run; a missing extra; another process that
            runs the sweep; or trainings that were ended from outside too often.
    """
    trials = read_trials(Path(settings.file))
    folds = {args: folds_of(args, settings.file) for args in trials}
    folder = (Path(settings.logs) / Path(settings.file).stem).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        waiting = [args for args in trials if not is_finished(folder, args, folds[args])]
        print(f"{len(trials)} trainings, {len(trials) - len(waiting)} of them done; logs in {folder}", flush=True)
        if waiting:
            _run_side_by_side(waiting, folder, settings)
        rows = [row for args in trials for row in rows_of_trial(folder, args)]
        results.write(folder / RESULTS, rows)
        missing = [" ".join(args) for args in trials if not is_finished(folder, args, folds[args])]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(trials)} trainings ended without results, e.g. {missing[0]}; see {folder}/ray, "
            "and give the command again to run these"
        )
    return rows


def folds_of(args: Sequence[str], file: str) -> Sequence[int | None]:
    """Those that a command line trains on.

    Raises:
        InputError: it cannot be run.
    """
    lightning = logging.getLogger("pytorch_lightning")
    level = lightning.level
    lightning.setLevel(logging.WARNING)  # it tells of the machine each time
    try:
        return Asked(*parsed(flags_of(args), args)).folds
    except (ArgumentError, InputError) as error:
        raise InputError(f"{file}: {' '.join(args)}: {error}") from error
    finally:
        lightning.setLevel(level)


def read_trials(path: Path) -> list[tuple[str, ...]]:
    """The command lines, but for ``python main.py``, that a file asks for.

    Raises:
        InputError: a file that cannot be read or is no sweep.
    """
    content = read_yaml(path)
    common, grids = content.get("common", {}), content.get("grids")
    if content.keys() - {"common", "grids"} or not isinstance(common, dict) or not isinstance(grids, list) or not grids:
        raise InputError(f"{path} is no sweep: it needs grids, a list of flags with their values, and may have common")
    trials = [trial for grid in grids for trial in _combinations(path, common, grid)]
    if len(set(trials)) < len(trials):
        twice = next(trial for trial in trials if trials.count(trial) > 1)
        raise InputError(f"{path} asks for {' '.join(twice)} twice")
    return trials


def _combinations(path: Path, common: Mapping[str, Any], grid: Any) -> Iterator[tuple[str, ...]]:
    if not isinstance(grid, dict) or not all(isinstance(values, list) and values for values in grid.values()):
        raise InputError(f"{path}: a grid is flags with a list of values each, got {grid!r}")
    for name in _OURS:
        if name in common or name in grid:
            raise InputError(f"{path}: a sweep sets {name} itself; leave it out")
    for name in ("arms", "seeds"):
        if name in common or name in grid:
            raise InputError(f"{path}: a training has one arm and one seed; say {name[:-1]}")
    if not {"arm", "seed"} <= {*common, *grid}:
        raise InputError(f"{path}: every grid, or common, needs arm and seed")
    for values in product(*grid.values()):
        flags = {**common, **dict(zip(grid, values, strict=True))}
        flags["arms"] = flags.pop("arm")
        yield tuple(text for name, value in flags.items() for text in flag_texts(name, value))


def name_of_trial(args: Sequence[str]) -> str:
    """The folder of a training within its sweep's.

    >>> name_of_trial(("--experiment", "static", "--learning_rate", "0.001", "--seed", "3"))
    'experiment-static-learning_rate-0.001-seed-3'
    """
    name = re.sub(r"[^\w.+-]+", "-", " ".join(arg.removeprefix("--") for arg in args))
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}-{hashlib.sha256(repr(args).encode()).hexdigest()[:8]}"


def rows_of_trial(folder: Path, args: Sequence[str]) -> list[Result]:
    """What a training has left in the sweep's folder, of those of its folds that are finished."""
    return results.read(_folder_of_trial(folder, args) / RESULTS)


def is_finished(folder: Path, args: Sequence[str], folds: Sequence[int | None]) -> bool:
    return {row.fold for row in rows_of_trial(folder, args)} >= set(folds)


def _folder_of_trial(folder: Path, args: Sequence[str]) -> Path:
    named = folder / name_of_trial(args)
    return named if named.is_dir() else named.with_name(named.name + ONLY_5K)


def _run_side_by_side(trials: Sequence[Sequence[str]], folder: Path, settings: Sweep) -> None:
    for name, value in _FOR_RAY.items():
        os.environ.setdefault(name, value)
    with needing("sweep", "main.py sweep"):
        import ray
        from ray import tune

    class Progress(tune.Callback):
        """A line for every training that ends."""

        def setup(self, *args: Any, **info: Any) -> None:
            self.start, self.ended = time.monotonic(), 0

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.ended += 1
            left = (time.monotonic() - self.start) / self.ended * (count - self.ended) / 60
            print(f"{self.ended} of {count}, {left:.0f} min left: {' '.join(trial.config['args'])}", flush=True)

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            print(f"ended without results: {' '.join(trial.config['args'])}", flush=True)

    count, ours = len(trials), folder / "ray"
    # of trainings that were not finished, our own folders know
    shutil.rmtree(ours, ignore_errors=True)
    here: dict[str, Any] = {} if settings.address else {"num_cpus": settings.workers}
    try:
        ray.init(
            address=settings.address or "local",
            include_dashboard=None if settings.address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": _FOR_RAY},
            **here,
        )
    except (ConnectionError, ValueError) as error:
        raise InputError(f"there is no Ray cluster at {settings.address}: {error}") from error
    try:
        tune.Tuner(
            tune.with_resources(_trial, {"cpu": 1}),
            param_space={
                "args": tune.grid_search([list(args) for args in trials]),
                "folder": str(folder),
                "started_in": str(Path.cwd()),
            },
            tune_config=tune.TuneConfig(max_concurrent_trials=settings.workers),
            run_config=tune.RunConfig(
                name=ours.name,
                storage_path=str(folder),
                failure_config=tune.FailureConfig(max_failures=_RETRIES),
                callbacks=[Progress()],
                verbose=0,
            ),
        ).fit()
    finally:
        ray.shutdown()


def _trial(config: Mapping[str, Any]) -> Mapping[str, Any]:
    os.chdir(config["started_in"])
    run_trial(tuple(config["args"]), Path(config["folder"]))
    return {}


def run_trial(args: Sequence[str], folder: Path) -> None:
    """Train one network on one core, or go on with it, in its own folder within the sweep's."""
    import torch

    torch.set_num_threads(1)
    # which is what its results say it was made by
    sys.argv = ["main.py", *args]
    settings, *options = parsed(flags_of(args), args)
    own = _folder_of_trial(folder, args)
    _wait_until_free(own)
    run(
        replace(settings, logs=str(folder), out=str(folder / "out"), name=name_of_trial(args), resume=own.is_dir()),
        *options,
    )


def _wait_until_free(folder: Path) -> None:
    """The process that trained in it may have lost its driver, and not know yet."""
    for _ in range(SECONDS_TO_WAIT if folder.is_dir() else 0):
        try:
            with locked(folder):
                return
        except InputError:
            time.sleep(1)
