"""Splits and batches, whatever of: the same batches again after a resumed run."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset


class Samples(Protocol):
    """What can be counted, and indexed by a tensor of indices or by one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...


@dataclass(frozen=True)
class Splits:
    """Three disjoint splits, each as `batch_loader` takes it, under the name that logs and figures carry."""

    name: str
    train: Samples
    validation: Samples
    test: Samples
    note: str

    def shortened(self, count: int) -> "Splits":
        """With at most so many samples to train on."""
        if len(self.train) <= count:
            return self
        first: Any = torch.arange(count)  # indexed by a batch of indices, which a list is not
        train: Any = self.train
        return replace(self, train=Subset(train, first), note=f"{self.note}; {count} of them to train on")


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


class Collated(Dataset):
    """Whole batches of a dataset that gives single samples."""

    def __init__(self, dataset: Samples, collate: Callable[[list[Any]], Any]) -> None:
        self.dataset = dataset
        self.collate = collate

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, indices: Tensor) -> Any:
        return self.collate([self.dataset[index] for index in indices.tolist()])


def batch_loader(
    dataset: Samples,
    batch_size: int,
    *,
    shuffle: bool = False,
    seed: int = 0,
    shared: bool = False,
    collate: Callable[[list[Any]], Any] | None = None,
) -> DataLoader:
    """A loader of whole batches; a shuffled one drops the incomplete last batch.

    Args:
        dataset: indexed by a tensor of indices, so that there is no work per sample; by one index where ``collate``
            is given.
        shared: among processes that train together, rather than the same for each.
        collate: makes a batch, of any structure, of a list of samples.

    >>> words = ["a", "few", "words", "more"]
    >>> list(batch_loader(words, 3, collate=lambda samples: {"texts": samples, "longest": max(map(len, samples))}))
    [{'texts': ['a', 'few', 'words'], 'longest': 5}, {'texts': ['more'], 'longest': 4}]
    """
    drop_last = shuffle and len(dataset) >= batch_size
    batches = EpochBatches(len(dataset), batch_size, shuffle=shuffle, drop_last=drop_last, seed=seed, shared=shared)
    if collate is None:
        whole: Any = dataset
        return DataLoader(whole, sampler=batches, batch_size=None)
    return DataLoader(Collated(dataset, collate), sampler=batches, batch_size=None, collate_fn=_as_it_is)


def _as_it_is(batch: Any) -> Any:
    return batch
