"""How samples become batches: which rows, in which order, on which rank, and where their images are put."""

import math
import signal
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from src import distributed
from src.artifacts.paths import ArtifactError
from src.script import UserError


class EpochSampler(Sampler):
    """Keys (epoch, row) of this rank: shuffled anew each epoch by (seed, epoch) and cut to whole batches of `batch_size` over all ranks,
    of which each rank takes its part; or all rows in order, shared among the ranks, where seed is None."""

    def __init__(self, length: int, batch_size: int, seed: int | None):
        self.length, self.batch_size, self.seed, self.epoch = length, batch_size, seed, 0

    def rows(self) -> np.ndarray:
        """(n,) rows of this epoch."""
        mine = slice(distributed.rank(), None, distributed.world())
        if self.seed is None:
            return np.arange(self.length)[mine]
        shuffled = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        whole = self.length // self.batch_size * self.batch_size
        return shuffled[:whole].reshape(-1, self.batch_size)[:, mine].ravel()

    def __len__(self) -> int:
        return len(self.rows())

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(self.epoch, int(row)) for row in self.rows()])


def as_it_is(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """For datasets that make whole batches."""
    return batch


def make_loader(
    dataset: Dataset,
    batch_size: int,
    workers: int,
    shuffle_seed: int | None = None,
    accumulate: int = 1,
    collate=None,
) -> DataLoader:
    """A loader over all rows; shuffled where a seed is given. `batch_size` samples make a step, over all ranks and `accumulate` pieces.

    Set `.sampler.epoch` before each epoch. Raises ArtifactError where a batch cannot be dealt evenly.
    """
    if shuffle_seed is not None:
        share = distributed.world() * accumulate
        batch_size = min(batch_size, len(dataset) // share * share)
        if batch_size % share or batch_size == 0:
            raise ArtifactError(
                f"{batch_size} samples cannot be dealt to {distributed.world()} processes in {accumulate} pieces: choose another --batch-size"
            )
    return DataLoader(
        dataset,
        batch_size if shuffle_seed is None else batch_size // share,
        sampler=EpochSampler(len(dataset), batch_size, shuffle_seed),
        num_workers=workers,
        collate_fn=collate or (as_it_is if hasattr(dataset, "__getitems__") else None),
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
    )


def batches_of(loader: DataLoader) -> Iterator[dict[str, torch.Tensor]]:
    """The batches of an epoch. Raises UserError where a process of the loader died."""
    try:
        batches = iter(loader)
        if loader.num_workers:
            signal.signal(
                signal.SIGCHLD, signal.SIG_DFL
            )  # torch's handler raises wherever this process is: in mid-backward it aborts
        yield from batches
    except (RuntimeError, EOFError, ConnectionError) as error:
        if isinstance(error, RuntimeError) and "DataLoader worker (pid" not in str(error):
            raise
        raise UserError(
            "a process that loads samples died, perhaps for want of memory: lower --workers; what is saved goes on with --resume"
        ) from error


def empty_images(shape: tuple[int, ...]) -> torch.Tensor:
    """An uninitialised float16 tensor; in a loader's process in the memory that it shares with its parent, so that the batch is not copied again."""
    if get_worker_info() is None:
        return torch.from_numpy(
            np.empty(shape, np.float16)
        )  # numpy asks for huge pages: half the time of torch.empty
    storage = torch.UntypedStorage._new_shared(
        2 * math.prod(shape)
    )  # as torch's default_collate does
    return torch.empty(0, dtype=torch.float16).set_(storage, 0, shape)
