"""Several processes that train one network (torchrun): who is who, and what they tell each other. One process alone is rank 0 of 1."""

import os
from datetime import timedelta

from src.script import UserError

PATIENCE = timedelta(
    minutes=30
)  # for a rank that evaluates longer than the others; a rank that died ends the others at once


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def world() -> int:
    """How many ranks there are."""
    return int(os.environ.get("WORLD_SIZE", 1))


def first() -> bool:
    """Whether this is the rank that writes and prints."""
    return rank() == 0


def local_device(name: str) -> str:
    """The device of this rank where several share a machine: cuda becomes cuda:{local rank}."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if name == "cuda" and world() > 1 else name


def join(device) -> None:
    """Meet the other ranks; does nothing where this is the only one."""
    import torch.distributed as group

    if world() > 1 and not group.is_initialized():
        group.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            timeout=PATIENCE,
            device_id=device if device.type == "cuda" else None,
        )


def leave() -> None:
    """Part from the other ranks, once all have come so far."""
    import torch.distributed as group

    if group.is_available() and group.is_initialized():
        group.barrier()
        group.destroy_process_group()


def total(values):
    """Sum of a tensor over all ranks."""
    import torch.distributed as group

    if group.is_available() and group.is_initialized():
        values = values.clone()
        group.all_reduce(values)
    return values


def part() -> str:
    """ "i/n": this rank is the i-th of n, counted from 1."""
    return f"{rank() + 1}/{world()}"


def share(items: list, which: str) -> list:
    """Every n-th item, beginning with the i-th, of `which` "i/n"."""
    index, _, count = which.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UserError(f"--shard {which!r} is not i/n with 1 <= i <= n")
    return items[int(index) - 1 :: int(count)]
