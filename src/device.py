"""Where a network runs and in which precision."""

import ctypes
from contextlib import AbstractContextManager, suppress

import torch
from torch import Tensor, nn

from src import distributed
from src.script import UserError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def choose_device(name: str) -> torch.device:
    """Return the device of that name; "auto" takes a GPU if there is one.

    Each of several ranks gets its own GPU. Raise UserError if there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(distributed.local_device(name))
    except RuntimeError as error:
        raise UserError(
            f"--device {name}: torch knows no such device; take auto, cpu, cuda or cuda:1"
        ) from error
    if device.type != "cuda":
        keep_freed_memory()
        return device
    if not torch.cuda.is_available():
        raise UserError(
            f"--device {name}: torch sees no GPU here; leave --device out, or take --device cpu"
        )
    torch.set_float32_matmul_precision("high")
    torch.cuda.set_device(device)
    return device


def keep_freed_memory() -> None:
    """Have glibc keep up to 1 GiB of freed memory for the next batch; do nothing elsewhere.

    By default the system maps and zeroes the pages of the activations again for each batch on the
    CPU: up to a third of the time. See mallopt(3).
    """
    with suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most it takes
        library.mallopt(M_TRIM_THRESHOLD, 1 << 30)


def precision(device: torch.device) -> torch.dtype:
    """Return bfloat16 for GPUs that have it in hardware, float16 for older, float32 for CPUs."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def autocast(device: torch.device) -> AbstractContextManager:
    """Run the block in mixed precision; do nothing where precision is float32."""
    dtype = precision(device)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def warn_of_precision(encoder: str, device: torch.device) -> None:
    """Print a sentence if an encoder is known to overflow in the precision of the device."""
    if precision(device) == torch.float16 and "dinov3" in encoder and "vit" in encoder:
        print(
            f"{encoder} was not made for float16, which this GPU computes in, and may overflow: "
            "if steps are skipped or scores stay at 0.5, take a ConvNeXt, or a GPU with bfloat16"
        )


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def use_compiler(model: nn.Module) -> None:
    """Compile the network at its first call; without a compiler it runs as it is."""
    torch._dynamo.config.suppress_errors = True
    model.compile()
