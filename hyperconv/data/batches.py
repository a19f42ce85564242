"""Splits and batches, whatever of: no work per sample, and the same batches again after a resumed run."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset


@dataclass(frozen=True)
class Splits:
    """Three disjoint splits, to be indexed by whole batches, under the name that logs and figures carry."""

    name: str
    train: Dataset
    validation: Dataset
    test: Dataset
    note: str

    def shortened(self, count: int) -> "Splits":
        """With at most so many samples to train on."""
        if len(self.train) <= count:
            return self
        return replace(self, train=Subset(self.train, torch.arange(count)), note=f"{self.note}; quick: {count} of them")


def _world() -> tuple[int, int]:
    """This process's rank and the number of processes that train together."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class EpochBatches(Sampler[Tensor]):
    """Batches of indices whose shuffle is a function of seed and epoch alone, so that a resumed run repeats it.

    Processes that train together take turns at the batches if these are ``shared``; else each takes them all.
    """

    def __init__(
        self, length: int, batch_size: int, *, shuffle: bool, drop_last: bool, seed: int, shared: bool
    ) -> None:
        self.length = length
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = seed
        self.shared = shared
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        whole, rest = divmod(self.length, self.batch_size)
        batches = whole if self.drop_last or not rest else whole + 1
        return batches // self._turn()[1]

    def _turn(self) -> tuple[int, int]:
        return _world() if self.shared else (0, 1)

    def __iter__(self) -> Iterator[Tensor]:
        if self.shuffle:
            generator = torch.Generator().manual_seed((self.seed << 20) + self.epoch)
            order = torch.randperm(self.length, generator=generator)
        else:
            order = torch.arange(self.length)
        rank, processes = self._turn()
        yield from order.split(self.batch_size)[rank : len(self) * processes : processes]


def batch_loader(
    dataset: Dataset, batch_size: int, *, shuffle: bool = False, seed: int = 0, shared: bool = False
) -> DataLoader:
    """A loader of whole batches (no work per sample); a shuffled one drops the incomplete last batch.

    Args:
        shared: among processes that train together, rather than the same for each.
    """
    drop_last = shuffle and len(dataset) >= batch_size
    batches = EpochBatches(len(dataset), batch_size, shuffle=shuffle, drop_last=drop_last, seed=seed, shared=shared)
    return DataLoader(dataset, sampler=batches, batch_size=None)
