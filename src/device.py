"""Where a network runs and in which precision."""

import ctypes
from contextlib import AbstractContextManager, suppress

import torch
from torch import Tensor, nn

from src import distributed
from src.script import UserError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def choose_device(name: str) -> torch.device:
    """ "auto" takes a GPU where there is one; of several ranks each takes its own."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(distributed.local_device(name))
    except RuntimeError as error:
        raise UserError(
            f"--device {name}: torch knows no such device; take auto, cpu, cuda or cuda:1"
        ) from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(
                f"--device {name}: torch sees no GPU here; leave --device out, or take --device cpu"
            )
        torch.set_float32_matmul_precision("high")
        torch.cuda.set_device(device)
    else:
        keep_freed_memory()
    return device


def keep_freed_memory() -> None:
    """Have the C library keep up to 1 GiB of freed memory for the next batch instead of handing it back to the system.

    By default each batch on the CPU has its activations' pages made and zeroed anew: up to a third of the time. mallopt(3); glibc only,
    elsewhere nothing happens.
    """
    with suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most it takes
        library.mallopt(M_TRIM_THRESHOLD, 1 << 30)


def precision(device: torch.device) -> torch.dtype:
    """bfloat16 on GPUs that have it in hardware, float16 on older ones, float32 on the CPU."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def autocast(device: torch.device) -> AbstractContextManager:
    """Mixed precision for training, evaluation and extraction alike; does nothing where precision is float32."""
    dtype = precision(device)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def use_compiler(model: nn.Module) -> None:
    """Compile the network at its first call; where no compiler is at hand it runs as it is."""
    torch._dynamo.config.suppress_errors = True
    model.compile()
