"""Clips of precipitation radar: composites of the Finnish Meteorological Institute, two events.

Open data of the Finnish Meteorological Institute, CC BY 4.0, as pysteps gathers them (pysteps-data, radar/fmi).
"""

from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from ..errors import InputError
from .batches import Splits
from .digits import LOCAL_FOLDER
from .drifting_digits import PREDICTED, SEEN
from .npz import read_npz

INTERVAL = timedelta(minutes=5)
WINDOW = 96
# what 255, the largest code, stands for
DBZ = 255 / 2
_FILE = "fmi_256.npz"
_TRAINING_EVENT, _TEST_EVENT = "20160928", "20170509"
_NO_ECHO, _NO_DATA = 64, 255
_HELD_OUT, _BETWEEN = 14, 2
_CLIP = SEEN + PREDICTED
_TRAINING_CLIP = SEEN + 1
_STEP, _TEST_STEP = 32, 80


def radar_clips(source: str = "auto") -> Splits:
    """Windows of 96x96 pixels, of about 2 km, every 5 minutes.

    The event of 2016-09-28 is trained on from 14:45 to 16:40 UTC and validated on from 16:55 to 18:00; the two frames
    between are left out, so that no frame is in two splits. The event of 2017-05-09, from 10:45 to 14:00, is the test
    split. Clips start at every frame that leaves enough after it: 5 frames to train on, else 10. Windows for training
    and validation start every 32 pixels; those of the test split every 80, so that their inner 64x64 pixels, which are
    scored, do not overlap. That makes 20 times 36, 5 times 36, and 31 times 9 clips.

    Args:
        source: the folder of ``fmi_256.npz``, or ``auto`` for ``data/radar_fmi``. For each event, the file holds
            ``frames_DATE`` (T, H, W), uint8, codes v of v / 2 - 32 dBZ, and ``times_DATE`` (T,), text like
            201609281445.

    Returns:
        Clips ``(B, T, 96, 96)``, uint8, in half dBZ; below 0 dBZ there is no rain, and a 0.

    Raises:
        InputError: a file that is missing, damaged or of other shapes, frames that are not 5 minutes apart, or pixels
            without data.
    """
    folder = LOCAL_FOLDER / "radar_fmi" if source == "auto" else Path(source)
    path = folder / _FILE
    if not path.is_file():
        raise InputError(
            f"there is no {path}; give the folder of {_FILE} (radar composites of the Finnish Meteorological "
            "Institute) with --data"
        )
    training = _event(path, _TRAINING_EVENT, _TRAINING_CLIP + _BETWEEN + _HELD_OUT)
    test = _event(path, _TEST_EVENT, _CLIP)
    splits = {
        "train": _clips(training[: -_HELD_OUT - _BETWEEN], _TRAINING_CLIP, _STEP),
        "validation": _clips(training[-_HELD_OUT:], _CLIP, _STEP),
        "test": _clips(test, _CLIP, _TEST_STEP),
    }
    sizes = ", ".join(f"{len(clips)} {split}" for split, clips in splits.items())
    return Splits("radar", **splits, note=f"radar from {path}: {sizes} clips")


def _event(path: Path, date: str, fewest: int) -> Tensor:
    """Frames ``(T, H, W)`` in half dBZ."""
    names = f"frames_{date}", f"times_{date}"
    frames, times = read_npz(path, {names[0]: (np.uint8, 3), names[1]: (np.str_, 1)}).values()
    if len(frames) != len(times) or len(frames) < fewest or min(frames.shape[1:]) < WINDOW:
        raise InputError(
            f"{path} holds {names[0]} {frames.shape} and {len(times)} times; {fewest} frames or more are needed, of "
            f"{WINDOW}x{WINDOW} pixels or more, and a time for each"
        )
    _check_times(path, names[1], times)
    if (frames == _NO_DATA).any():
        first = times[(frames == _NO_DATA).any((1, 2)).argmax()]
        raise InputError(f"{path} has pixels without data (code {_NO_DATA}) at {first}; cut them out of {names[0]}")
    return torch.from_numpy(frames.clip(_NO_ECHO) - np.uint8(_NO_ECHO))


def _check_times(path: Path, name: str, times: np.ndarray) -> None:
    try:
        read = [datetime.strptime(time, "%Y%m%d%H%M") for time in times]
    except ValueError as error:
        raise InputError(f"{name} in {path} holds no times like 201609281445: {error}") from error
    for before, after in pairwise(read):
        if after - before != INTERVAL:
            raise InputError(
                f"{name} in {path} goes from {before:%H:%M} to {after:%H:%M}; frames must follow each other every "
                f"{INTERVAL.seconds // 60} minutes, without gaps: cut the event or fill it in"
            )


def _clips(frames: Tensor, length: int, step: int) -> TensorDataset:
    """Every clip of so many frames, window after window that starts so many pixels on."""
    windows = frames.unfold(1, WINDOW, step).unfold(2, WINDOW, step).unfold(0, length, 1)
    # (times, rows, columns, H, W, T)
    return TensorDataset(windows.movedim(-1, 3).flatten(0, 2))
