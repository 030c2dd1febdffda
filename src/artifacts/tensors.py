"""Read what torch.save wrote, without torch.load: tensors of plain numbers in plain containers.

A checkpoint is a zip file of a pickle and of the numbers of each tensor, not compressed. Here no
tensor takes more memory than the file has bytes, whatever the pickle says.
"""

import math
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.artifacts.archive import MOST_LIST, MOST_READ, Bounded, stored_entries
from src.artifacts.pickles import load_plain
from src.artifacts.stack_machine import Calls

MOST_PICKLE = MOST_LIST  # bytes; that of the largest networks has 1 MB
MOST_AXES = 8
STORAGES = {  # numbers that networks and optimizers are made of
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
}


def load_tensors(path: Path) -> Any:
    """Return the content of a file of torch.save, its tensors on the CPU.

    Raise ValueError, or another error of a broken file, if it holds anything but plain values and
    dense tensors of real numbers.
    """
    with Bounded(path) as file, zipfile.ZipFile(file) as archive:
        entries = stored_entries(archive, path.stat().st_size, _below_folder)
        pickled = _entry(entries, "data.pkl")
        if pickled.file_size > MOST_PICKLE:
            raise ValueError("its pickle is too large")
        if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
            raise ValueError("its numbers are big-endian")

        storages: dict[str, Tensor] = {}

        def load(identity: tuple) -> Tensor:
            """Return the numbers that a persistent id stands for."""
            _, storage, key, _, count = identity
            if type(key) is not str:
                raise ValueError("it holds a tensor without numbers")
            if key not in storages:
                dtype = STORAGES[storage.name]
                storages[key] = _read(archive, _entry(entries, f"data/{key}"), dtype, count)
            return storages[key]

        return load_plain(archive.read(pickled), CALLS, {Tensor}, load)


def _below_folder(name: str) -> str:
    """Return the name of an entry below the one folder."""
    return name.partition("/")[2]


def _entry(entries: dict[str, zipfile.ZipInfo], name: str) -> zipfile.ZipInfo:
    if name not in entries:
        raise ValueError(f"it has no entry {name}")
    return entries[name]


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, dtype, count: int) -> Tensor:
    """Return the numbers of one entry, (count,)."""
    if type(count) is not int or count * dtype.itemsize != entry.file_size:
        raise ValueError(f"{entry.filename} does not have the size that its tensor needs")
    numbers = torch.empty(count, dtype=dtype)
    view = memoryview(numbers.view(torch.uint8).numpy())
    with archive.open(entry) as file:
        for start in range(0, len(view), MOST_READ):
            part = view[start : start + MOST_READ]
            if file.readinto(part) != len(part):
                raise ValueError(f"{entry.filename} is cut short")
    return numbers


def _tensor(storage: Tensor, offset: int, size: tuple, stride: tuple, *_) -> Tensor:
    """Return a view of a storage that has no number twice, as trained weights are."""
    numbers = (offset, *size, *stride)
    if not isinstance(storage, Tensor) or set(map(type, numbers)) != {int} or min(numbers) < 0:
        raise ValueError("it holds a tensor that is not made of numbers")
    if len(size) != len(stride) or len(size) > MOST_AXES:
        raise ValueError("it holds a tensor of a strange shape")
    last = sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if math.prod(size) and (math.prod(size) != last + 1 or offset + last >= len(storage)):
        raise ValueError("it holds a tensor that is not dense")
    if not math.prod(size):
        return storage.new_empty(size)
    return storage.as_strided(size, stride, offset)


def _ordered() -> dict:
    return {}


CALLS: Calls = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "collections.OrderedDict": _ordered,
    **dict.fromkeys(STORAGES),
}
