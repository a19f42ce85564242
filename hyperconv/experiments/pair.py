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
    """The two networks of a run; of several seeds, those of the lowest.

    Args:
        checkpoints: of an arm, to be taken in place of the run's.

    Raises:
        InputError: a file that is missing, unusable, or of another arm; or arms of different seeds.
    """
    networks = {}
    for arm in ARMS:
        given = checkpoints.get(arm)
        path = Path(given) if given else _checkpoint(run_folder(run) / arm)
        networks[arm] = network = trained(path)
        if network.arm != arm:
            raise InputError(f"{path} holds the arm {network.arm} of {network.experiment}; --{arm} needs {arm}")
        print(f"{arm}: {path}", flush=True)
    if not any(checkpoints.values()) and len({each.seed for each in networks.values()}) > 1:
        raise InputError(f"the arms of {run} are of different seeds; name both checkpoints")
    return networks


def _checkpoint(folder: Path) -> Path:
    of_seeds = sorted(folder.glob(f"seed*/{BEST}"), key=lambda path: (len(path.parent.name), path.parent.name))
    found = [folder / BEST, *of_seeds]
    return next((path for path in found if path.is_file()), found[0])
