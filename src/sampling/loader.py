"""How samples become batches: which rows, in which order, on which rank, in which memory."""

import math
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from types import TracebackType

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from src import distributed
from src.artifacts.paths import ArtifactError
from src.sampling.shared_memory import fitting_workers
from src.script import UserError

# What torch says if a loader process was killed, or found no shared memory.
OF_A_PROCESS = ("DataLoader worker (pid", "shared memory", "No space left on device")


class EpochSampler(Sampler):
    """Keys (epoch, row) of this rank: its part of each batch of `batch_size` over all ranks.

    The rows are shuffled by (seed, epoch) and cut to whole batches; seed None: all, in order.
    """

    def __init__(self, length: int, batch_size: int, seed: int | None):
        self.length, self.batch_size, self.seed, self.epoch = length, batch_size, seed, 0

    def rows(self) -> np.ndarray:
        """Return the rows (n,) of this epoch."""
        ours = slice(distributed.rank(), None, distributed.world())
        if self.seed is None:
            return np.arange(self.length)[ours]
        shuffled = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        whole = self.length // self.batch_size * self.batch_size
        return shuffled[:whole].reshape(-1, self.batch_size)[:, ours].ravel()

    def __len__(self) -> int:
        return len(self.rows())

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(self.epoch, int(row)) for row in self.rows()])


def make_loader(
    dataset: Dataset,
    batch_size: int,
    workers: int,
    shuffle_seed: int | None = None,
    accumulate: int = 1,
    collate: Callable | None = None,
) -> DataLoader:
    """Return a loader over all rows, shuffled if there is a seed. Set `.sampler.epoch` each epoch.

    batch_size: samples of one step, over all ranks and the `accumulate` parts of a batch.
    Raise ArtifactError if a shuffled batch cannot be dealt evenly.
    """
    loaded = batch_size
    if shuffle_seed is not None:
        parts = distributed.world() * accumulate
        batch_size = min(batch_size, len(dataset) // parts * parts)
        if batch_size % parts or batch_size == 0:
            raise ArtifactError(
                f"{batch_size} samples cannot be dealt to {distributed.world()} processes "
                f"in {accumulate} parts: choose another --batch-size"
            )
        loaded = batch_size // parts
    if collate is None and hasattr(dataset, "__getitems__"):
        collate = dict  # the batch is whole already
    sampler = EpochSampler(len(dataset), batch_size, shuffle_seed)
    if workers:
        own = torch.Generator()  # draws nothing from the one that others use
        once = DataLoader(dataset, loaded, sampler=sampler, collate_fn=collate, generator=own)
        workers = fitting_workers(workers, next(iter(once), {}), kept=accumulate + 1)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "This DataLoader will create"
        )  # more than there are cores
        return DataLoader(
            dataset,
            loaded,
            sampler=sampler,
            num_workers=workers,
            collate_fn=collate,
            # Else a loader draws from the global one, with processes only in its first epoch:
            # dropout would depend on their number and on where a run was resumed.
            generator=torch.Generator(),
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            worker_init_fn=_without_last_words,
        )


def _without_last_words(_worker: int) -> None:
    """Let a loader process end without a traceback if the process that it loads for is gone."""
    shown = sys.excepthook

    def hook(kind: type, error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, ConnectionError):
            shown(kind, error, trace)

    sys.excepthook = hook


def batches_of(loader: DataLoader) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the batches of an epoch. Raise UserError if a loader process died, or raised it."""
    try:
        batches = iter(loader)
        if loader.num_workers and hasattr(signal, "SIGCHLD"):
            # torch's handler raises at any point of this process: in mid-backward that aborts
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        yield from batches
    except UserError as error:
        raise type(error)(own_words(error)) from error
    except (RuntimeError, EOFError, OSError) as error:
        lost = isinstance(error, EOFError | ConnectionError)  # with its connection
        if not lost and not any(sign in str(error) for sign in OF_A_PROCESS):
            raise
        raise UserError(
            "a process that loads samples died, perhaps for want of memory, or of shared memory "
            "(docker run --shm-size): lower --workers, then continue with --resume"
        ) from error


def own_words(error: UserError) -> str:
    """Return what an error says, without the traceback that torch adds in a loader process."""
    message = str(error)
    if not message.startswith("Caught "):
        return message
    return message.rstrip().splitlines()[-1].partition(": ")[2]


def empty_images(shape: tuple[int, ...]) -> torch.Tensor:
    """Return an uninitialised float16 tensor; in a loader process, in memory its parent shares.

    Without that copy, as torch's default_collate: 1.3 to 1.6 times the samples a second.
    """
    if get_worker_info() is None:
        # numpy asks for huge pages: half the time of torch.empty
        return torch.from_numpy(np.empty(shape, np.float16))
    storage = torch.UntypedStorage._new_shared(2 * math.prod(shape))
    return torch.empty(0, dtype=torch.float16).set_(storage, 0, shape)
