"""A second device without a GPU: shapes and devices are followed, no number is computed.

It is torch's device "meta": FakeTensorMode can pretend to be "cuda", but no backward pass and no
index works on it without a driver. On top of it this module is stricter than a GPU: an operation
on tensors of two devices fails, even where torch would copy one of them silently, and every wait
for the device is noted.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import eval_end_to_end
import extract_features
from src.training import saving

aten = torch.ops.aten
AWAY = "meta"
COPIES = (aten._to_copy.default, aten.copy_.default)
ASKED = {"__int__": int, "__float__": float, "__bool__": bool, "__index__": int, "item": float}


class WrongDevice(AssertionError):
    """Tensors of two devices met in one operation."""


class Watch(TorchDispatchMode):
    """Raises WrongDevice where devices meet, and notes each wait of the CPU for the other one."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0  # away from the CPU
        self.waits: list[str] = []

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        options = dict(options or {})
        with self:
            whole = operation.decompose(*arguments, **options)
        if whole is not NotImplemented:  # an operation that is made of others
            return whole
        if options.get("pin_memory"):
            options["pin_memory"] = False  # takes a GPU
        tensors = [t for t in tree_leaves((arguments, options)) if isinstance(t, Tensor)]
        devices = {tensor.device.type for tensor in tensors}
        self.operations += AWAY in devices
        if operation in COPIES:
            return self.copied(operation, arguments, options, tensors)
        if len(devices) > 1:
            raise WrongDevice(f"{operation}: {[(str(t.device), t.shape) for t in tensors]}")
        return operation(*arguments, **options)

    def copied(self, operation, arguments: tuple, options: dict, tensors: list[Tensor]) -> Tensor:
        """Return a copy; of what is away, 0.5 stands for its numbers here."""
        into = operation is aten.copy_.default
        target = tensors[0].device if into else torch.device(options.get("device") or AWAY)
        source = tensors[-1].device
        without_waiting = arguments[2:3] == (True,) if into else options.get("non_blocking")
        if source.type != target.type and "device" in options | dict(device=into):
            if not without_waiting:
                self.waits.append(f"copy from {source} to {target}")
            if source.type == AWAY:
                kind = options.get("dtype") or tensors[0].dtype
                return torch.full(tuple(tensors[0].shape), 0.5).to(kind)
        return operation(*arguments, **options)


def asked(watch: Watch, really: Callable, kind: type) -> Callable:
    """Return what int(tensor), bool(tensor) and so on do: 1 for a tensor away, noted."""

    def answer(tensor: Tensor) -> float:
        if tensor.device.type != AWAY:
            return really(tensor)
        watch.waits.append(f"{kind.__name__} of a tensor")
        return kind(1)

    return answer


@contextmanager
def other_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Watch AWAY in this block. Threads are plain loops: the watch is a thread's own.

    No checkpoint is written: what is away has no numbers. Mixed precision is off.
    """
    watch, real = Watch(), torch.autocast
    for name, kind in ASKED.items():
        monkeypatch.setattr(Tensor, name, asked(watch, getattr(Tensor, name), kind))
    for module in (extract_features, eval_end_to_end):
        monkeypatch.setattr(module, "in_thread", map)
    monkeypatch.setattr(saving, "write_checkpoint", lambda *_: None)
    monkeypatch.setattr(
        torch,
        "autocast",
        lambda kind, *a, **o: nullcontext() if kind == AWAY else real(kind, *a, **o),
    )
    with watch:
        yield watch
