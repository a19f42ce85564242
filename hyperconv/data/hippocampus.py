"""MRI of the hippocampus with its anterior and posterior part outlined: slices and volumes of the same cases.

Medical Segmentation Decathlon, Task04_Hippocampus (http://medicaldecathlon.com; Antonelli et al., Nature Communications
2022; CC BY-SA 4.0). Volumes need extra ``medical``.

The files do not tell patients, but it can be seen that volumes of an odd number and the next one are of one patient:
their median intensities correlate by 1.00 (90 pairs, all of one origin and type of number), those of an even number and
the next one by 0.46 (91 pairs). So the 260 cases are of 170 patients, with one hippocampus or both.
"""

import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from ..files import MOST_BYTES, refuse_lfs_pointer, renamed_into_place
from .batches import Splits
from .cases import Case, Cases, check_patients
from .digits import LOCAL_FOLDER
from .folds import fold_of
from .npz import read_npz

PARTS = ("anterior", "posterior")
CLASSES = 1 + len(PARTS)
FOLDS = 5
SLICES_FILE = "hippocampus_2d_64.npz"
_SLICE_SIDE = 64
_TASK = "Task04_Hippocampus"
_IMAGES, _LABELS = "imagesTr", "labelsTr"
_AXES, _SPACING_MM = ("R", "A", "S"), 1.0
_CLIPPED = (0.005, 0.995)
_SPLIT_SEED = 1
_ROUNDS_OF_SLICES, _ROUNDS_OF_VOLUMES = 4, 2
_NUMBERED = re.compile(r"(\d+)\.nii(\.gz)?$")


def hippocampus_slices(source: str = "auto", fold: int = 0, patients: int | None = None) -> Splits:
    """One of five folds of the cases, of each the slice with most of the hippocampus.

    Args:
        source: the folder of ``hippocampus_2d_64.npz``, or that of the volumes, of which the slices are then taken;
            ``auto``: ``data/hippocampus``, else MONAI downloads the volumes there.
        fold: 0 ... 4; no patient is in two splits.
        patients: how many to train on, drawn once; an epoch is as long as with all. Default: all.

    Returns:
        `Cases` of images ``(1, 64, 64)``, 0 background, 1 anterior, 2 posterior. An epoch has each case four times.

    Raises:
        InputError: files that are missing, damaged or of other shapes; fewer patients.
    """
    return _splits(folder_of(source), *slices_of(source), fold, patients, _ROUNDS_OF_SLICES, "slices")


def hippocampus_volumes(source: str = "auto", fold: int = 0, patients: int | None = None) -> Splits:
    """As `hippocampus_slices`, in the same folds: whole volumes of 1 mm voxels, ``(1, *sides)``, of many sizes.

    An epoch has each case twice.

    Args:
        source: a folder with ``imagesTr`` and ``labelsTr``, which hold NIfTI files of the same names.
    """
    return _splits(folder_of(source), *volumes_of(source), fold, patients, _ROUNDS_OF_VOLUMES, "volumes")


def folder_of(source: str) -> Path:
    return LOCAL_FOLDER / "hippocampus" if source == "auto" else Path(source)


def slices_of(source: str) -> tuple[list[int], list[Case]]:
    """Numbers of all cases, and of each the slice with most of the hippocampus; source as in `hippocampus_slices`."""
    path = folder_of(source) / SLICES_FILE
    if not path.is_file():
        numbers, volumes = volumes_of(source)
        return numbers, [slice_with_most(*case) for case in volumes]
    numbers = read_npz(path, {"case_id": (np.integer, 1)})["case_id"].tolist()
    images, labels = read_slices(path)
    if len(numbers) != len(images):
        raise InputError(f"{path} holds {len(images)} images, but {len(numbers)} numbers of cases")
    return numbers, list(zip(images, labels.unsqueeze(1), strict=True))


def volumes_of(source: str) -> tuple[list[int], list[Case]]:
    """Numbers and volumes of all cases; source as in `hippocampus_volumes`."""
    folder = folder_of(source)
    downloaded = folder / _TASK
    if source == "auto" and not (folder / _IMAGES).exists() and not downloaded.exists():
        _download(downloaded)
    return read_volumes(downloaded if downloaded.is_dir() else folder)


def patients_of(numbers: Sequence[int]) -> Tensor:
    """A patient's number for each case's."""
    return torch.tensor(numbers).add(1) // 2


def _splits(
    folder: Path, numbers: Sequence[int], cases: Sequence[Case], fold: int, patients: int | None, rounds: int, what: str
) -> Splits:
    of_patients = patients_of(numbers)
    train, validation, test = fold_of(len(cases), fold, FOLDS, groups=of_patients)
    to_train = of_patients[train].unique()
    kept = check_patients(patients, len(to_train))
    chosen = to_train[torch.randperm(len(to_train), generator=torch.Generator().manual_seed(_SPLIT_SEED))[:kept]]
    few = train[torch.isin(of_patients[train], chosen)]
    sizes = f"{len(few)} training {what} of {kept} patients, {len(validation)} validation, {len(test)} test {what}"
    return Splits(
        "hippocampus",
        train=Cases([cases[number] for number in few], rounds * len(train)),
        validation=Cases([cases[number] for number in validation]),
        test=Cases([cases[number] for number in test]),
        note=f"hippocampus from {folder}, fold {fold} of {FOLDS}: {sizes}",
    )


def read_slices(path: Path) -> tuple[Tensor, Tensor]:
    """Images ``(N, 1, H, W)`` and labels ``(N, H, W)``, uint8, of an npz file with ``images`` and ``labels``.

    Raises:
        InputError: a file that is missing, damaged or of other shapes.
    """
    if not path.is_file():
        raise InputError(
            f"there is no {path}; give the folder of {SLICES_FILE} (slices of the Medical Segmentation Decathlon's "
            f"{_TASK}) with --data"
        )
    images, labels = read_npz(path, {"images": (np.uint8, 3), "labels": (np.uint8, 3)}).values()
    if not images.size or images.shape != labels.shape:
        raise InputError(f"{path} holds images {images.shape} and labels {labels.shape}; both must be (N, H, W)")
    if len(images) < 12 or images.shape[1] % 8 or images.shape[2] % 8 or labels.max() >= CLASSES:
        raise InputError(
            f"{path} holds images {images.shape} with labels up to {labels.max()}; at least 12 are needed, of sides "
            f"that 8 divides, with labels up to {CLASSES - 1}"
        )
    return torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels)


def slice_with_most(image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The axial slice with most labelled voxels, in the middle of 64x64 pixels, the rest cut off or 0.

    Args:
        image, labels: ``(1, X, Y, Z)``.

    Returns:
        Both ``(1, 64, 64)``.
    """
    most = int((labels > 0).sum((0, 1, 2)).argmax())
    margins = []
    for side in reversed(image.shape[1:3]):
        before = (_SLICE_SIDE - side) // 2
        margins += [before, _SLICE_SIDE - side - before]
    return F.pad(image[..., most], margins), F.pad(labels[..., most], margins)


def read_volumes(folder: Path) -> tuple[list[int], list[Case]]:
    """Numbers of all cases, as their names end, and their images and labels, each ``(1, X, Y, Z)``, uint8.

    Intensities are clipped at the volume's 0.5 % and 99.5 % quantiles, which become 0 and 255.

    Raises:
        InputError: files that are missing or damaged; volumes of other axes than right, anterior, superior, or of other
            voxels than 1 mm; labels of another shape than the image, or that are no classes.
    """
    names = sorted(path.name for path in (folder / _IMAGES).glob("[!.]*.nii*"))
    if not names:
        raise InputError(
            f"there are no NIfTI files in {folder / _IMAGES}; give the folder of the Medical Segmentation Decathlon's "
            f"{_TASK}, with its {_IMAGES} and {_LABELS}, with --data"
        )
    if len(names) < FOLDS:
        raise InputError(f"{folder / _IMAGES} holds {len(names)} volumes; for {FOLDS} folds there must be as many")
    numbers, cases = [], []
    for name in names:
        numbered = _NUMBERED.search(name)
        if not numbered:
            raise InputError(f"{folder / _IMAGES / name} has no number before .nii or .nii.gz, which tells its patient")
        image, of_image = _read_volume(folder / _IMAGES / name), _read_volume(folder / _LABELS / name)
        if image.shape != of_image.shape:
            raise InputError(f"{folder / _LABELS / name} is of shape {of_image.shape}, its image of {image.shape}")
        if not np.isin(of_image, range(CLASSES)).all():
            raise InputError(
                f"{folder / _LABELS / name} holds other labels than 0 (background), 1 and 2 ({', '.join(PARTS)})"
            )
        arrays = _as_bytes(image), of_image.astype(np.uint8)
        numbers.append(int(numbered[1]))
        cases.append((torch.from_numpy(arrays[0]).unsqueeze(0), torch.from_numpy(arrays[1]).unsqueeze(0)))
    return numbers, cases


def _read_volume(path: Path) -> np.ndarray:
    """``(X, Y, Z)``, as the file's own numbers say."""
    import nibabel

    if not path.is_file():
        raise InputError(f"there is no {path}; every file of {_IMAGES} needs one of its name in {_LABELS}")
    refuse_lfs_pointer(path)
    try:
        file: Any = nibabel.load(path)
        shape, spacing = file.shape, file.header.get_zooms()[:3]
        axes = nibabel.aff2axcodes(file.affine)
    except Exception as error:  # a damaged file can raise anything
        raise _damaged(path, error) from error
    if len(shape) != 3 or not all(shape) or 8 * math.prod(shape) > MOST_BYTES:
        raise InputError(f"{path} is of shape {shape}; volumes have three axes, and at most {MOST_BYTES:,} bytes")
    if axes != _AXES or not np.allclose(spacing, _SPACING_MM, atol=0.01):
        voxels = " x ".join(f"{each:.3g}" for each in spacing)
        raise InputError(
            f"{path} has axes {''.join(map(str, axes))} and voxels of {voxels} mm; resample it to {''.join(_AXES)} and "
            f"{_SPACING_MM:g} mm, e.g. with MONAI's Orientation and Spacing"
        )
    try:
        values = np.asarray(file.dataobj)
    except Exception as error:  # as above
        raise _damaged(path, error) from error
    if not np.isfinite(values).all():
        raise InputError(f"{path} holds values that are no numbers; get it anew")
    return values


def _damaged(path: Path, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200]
    return InputError(f"{path} is damaged or no NIfTI file ({reason}); get it anew")


def _as_bytes(image: np.ndarray) -> np.ndarray:
    low, high = np.quantile(image, _CLIPPED)
    scaled = (image.astype(np.float64) - low) / max(high - low, np.finfo(np.float32).tiny)
    return (scaled.clip(0, 1) * 255).round().astype(np.uint8)


def _download(folder: Path) -> None:
    from monai.apps import DecathlonDataset

    try:
        with renamed_into_place(folder, folder=True) as partial:
            DecathlonDataset(str(partial), _TASK, "training", download=True, cache_num=0, progress=False)
            for name in (_IMAGES, _LABELS):
                (partial / _TASK / name).rename(partial / name)
            (partial / f"{_TASK}.tar").unlink()
            shutil.rmtree(partial / _TASK)
    except Exception as error:  # whatever kept us from the data
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:150]
        raise InputError(
            f"there is no {folder} and no download of it ({reason}); give the folder of {_TASK} with --data"
        ) from error
