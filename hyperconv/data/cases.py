"""Images or volumes of cases with a class for every pixel, whatever their sizes."""

from collections.abc import Sequence

from torch import Tensor
from torch.utils.data import Dataset

from ..errors import InputError

Case = tuple[Tensor, Tensor]


class Cases(Dataset[Case]):
    """Cases by number, again from the first one where an epoch is longer than there are cases.

    Args:
        cases: image and labels of each, ``(1, *sides)``, uint8; labels are 0 for background, 1 ... for a class each.
        length: of an epoch. Default: as many as there are cases.
    """

    def __init__(self, cases: Sequence[Case], length: int | None = None) -> None:
        self.cases = cases
        self.length = len(cases) if length is None else length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> Case:
        if not 0 <= number < self.length:
            raise IndexError(number)
        return self.cases[int(number) % len(self.cases)]


def collate(cases: Sequence[Case]) -> tuple[list[Tensor], list[Tensor]]:
    """Images and labels side by side, of one size or of many."""
    return [image for image, _ in cases], [label for _, label in cases]


def check_patients(wanted: int | None, there: int) -> int:
    """How many to train on: those wanted, or all.

    Raises:
        InputError: there are fewer.
    """
    if wanted is not None and wanted > there:
        raise InputError(f"there are {there} patients to train on, fewer than --patients {wanted}")
    return wanted or there
