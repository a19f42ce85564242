"""The hyper and the normal network of a run, as the scripts show them."""

from pathlib import Path

from ..errors import InputError
from ..training.fit import BEST
from .trained import Trained, trained

SHIPPED = "mnist-fast"
LOGS = "lightning_logs"
ARMS = ("hyper", "normal")


def run_folder(run: str) -> Path:
    """The folder of a run, given its name in lightning_logs or its path.

    Raises:
        InputError: there is none.
    """
    for folder in (Path(LOGS) / run, Path(run)):
        if folder.is_dir():
            return folder
    raise InputError(f"there is no run {run} in {LOGS}; train one with main.py, or give the path of its folder")


def pair(run: str, **checkpoints: str | None) -> dict[str, Trained]:
    """The two networks of a run; of several seeds, those of the first.

    Args:
        checkpoints: of an arm, to be taken in place of the run's.

    Raises:
        InputError: a file that is missing, unusable, or of another arm.
    """
    networks = {}
    for arm in ARMS:
        given = checkpoints.get(arm)
        path = Path(given) if given else _checkpoint(run_folder(run) / arm)
        networks[arm] = network = trained(path)
        if network.arm != arm:
            raise InputError(f"{path} holds the arm {network.arm} of {network.experiment}; --{arm} needs {arm}")
        print(f"{arm}: {path}", flush=True)
    return networks


def _checkpoint(folder: Path) -> Path:
    found = [folder / BEST, *sorted(folder.glob(f"seed*/{BEST}"))]
    return next((path for path in found if path.is_file()), found[0])
