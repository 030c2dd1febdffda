"""Several processes (ranks) that train one network by torchrun; one alone is rank 0 of 1."""

import os
from datetime import timedelta

from src.script import UserError

# For a rank that evaluates longer than the others; a rank that dies ends the others at once.
PATIENCE = timedelta(minutes=30)


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def world() -> int:
    """Return the number of ranks."""
    return int(os.environ.get("WORLD_SIZE", 1))


def first() -> bool:
    """Return whether this is the rank that writes and prints."""
    return rank() == 0


def local_device(name: str) -> str:
    """Return cuda:{local rank} for cuda if there are several ranks, else the name itself."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if name == "cuda" and world() > 1 else name


def join(device) -> None:
    """Meet the other ranks; do nothing if this is the only one."""
    import torch.distributed as group

    if world() > 1 and not group.is_initialized():
        on_gpu = device.type == "cuda"
        backend = "nccl" if on_gpu else "gloo"
        group.init_process_group(backend, timeout=PATIENCE, device_id=device if on_gpu else None)


def leave() -> None:
    """Wait for all ranks, then tear down the process group."""
    import torch.distributed as group

    if group.is_available() and group.is_initialized():
        group.barrier()
        group.destroy_process_group()


def total(values):
    """Return the sum of a tensor over all ranks."""
    import torch.distributed as group

    if group.is_available() and group.is_initialized():
        values = values.clone()
        group.all_reduce(values)
    return values


def part() -> str:
    """Return "i/n": this rank is the i-th of n, counted from 1."""
    return f"{rank() + 1}/{world()}"


def share(items: list, which: str) -> list:
    """Return every n-th item, beginning with the i-th. which: "i/n", counted from 1."""
    index, _, count = which.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UserError(f"--shard {which!r} is not i/n with 1 <= i <= n")
    return items[int(index) - 1 :: int(count)]
