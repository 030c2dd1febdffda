"""Checkpoints that want to crash, to hang, to fill the memory or to run code, or that mislead.

Each is weights_inference.pth of a small network with one thing changed.
"""

import io
import os
import struct
import zipfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from src.labels import LABELS
from src.networks.sequence_transformer import new_transformer
from src.networks.slice_cnn import SliceCNN
from tests.hostile_pickles import Calls

STAGE1 = {"encoder": "test_convnext", "heatmap_weight": 0.3, "crop_size": 40}
STAGE1 |= {"image_size": 48, "mr_window": "percentile"}
STAGE2 = {"width": 16, "layers": 2, "heads": 2, "dropout": 0.1, "attention_dropout": 0.1}
STAGE2 |= {"cut": 7, "step": 2, "stage1_share": 0.6}
WEIGHT = "cls"  # of the transformer, (16,)


def regions(mean: Any = 20.0, scale: float = 9.0, rows: int = 13) -> dict:
    """Return tables of places in the head. No list is in them twice: that alone is refused."""
    return {"regions": {"left": [[mean, scale, 3.0] for _ in range(rows)]}}


@cache
def whole() -> dict:
    """Return the content of a checkpoint that is as it should be."""
    torch.manual_seed(0)
    slice_cnn = SliceCNN("test_convnext", heatmap=True)
    stage2 = STAGE2 | {"channels": slice_cnn.channels}
    return {
        "stage1": dict(slice_cnn.state_dict()),
        "stage1_settings": STAGE1 | regions(),
        "stage2": dict(new_transformer(stage2).state_dict()),
        "stage2_settings": stage2,
        "prior": [0.1] * len(LABELS),
        "labels": list(LABELS),
    }


def packed(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def entries_of(content: Any) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(packed(content))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(
    entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED, level: int | None = None
) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression, compresslevel=level) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


def with_pickle(edit: Callable[[bytes], bytes]) -> bytes:
    """Return a file with one tensor (4, 4) whose pickle is edited."""
    entries = entries_of({"labels": list(LABELS), "stage1": {"a": torch.arange(16.0).view(4, 4)}})
    before = entries["archive/data.pkl"]
    entries["archive/data.pkl"] = edit(before)
    assert entries["archive/data.pkl"] != before
    return zipped(entries)


def called(module: str, name: str, argument: bytes) -> bytes:
    """Return a file whose pickle calls module.name with one argument."""
    pickled = b"\x80\x02c" + f"{module}\n{name}\n".encode() + argument + b"\x85R."
    return zipped({"archive/data.pkl": pickled, "archive/version": b"3\n"})


def packed_zeros() -> bytes:
    """Return a small file of half a gigabyte, packed in 1 s; better, it would take 3."""
    zeros = {"archive/data.pkl": b"\x80\x02}.", "archive/data/0": bytes(2**29)}
    return zipped(zeros, zipfile.ZIP_DEFLATED, level=1)


def many_entries(count: int) -> bytes:
    """Return a zip file whose list has `count` entries."""
    name = b"a/" + b"b" * 20
    entry = b"PK\x01\x02" + bytes(24) + struct.pack("<H", len(name)) + bytes(16) + name
    end = b"PK\x05\x06" + bytes(4) + struct.pack("<HHIIH", 65535, 65535, len(entry) * count, 0, 0)
    return entry * count + end


def legacy(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


def deep(levels: int) -> list:
    inner: list = []
    for _ in range(levels):
        inner = [inner]
    return inner


def nan_in(tensor: torch.Tensor, value: float) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[-1] = value
    return tensor


def files(trace: Path) -> dict[str, bytes]:
    """Return files that are no checkpoint, or whose pickles are not those of tensors."""
    count = b"K\x10tq"
    return {
        "empty": b"",
        "text": b"weights",
        "a plain pickle": b"\x80\x02}.",
        "no pickle": zipped({"archive/version": b"3\n"}),
        "two pickles": zipped({"a/data.pkl": b"\x80\x02}.", "b/data.pkl": b"\x80\x02}."}),
        "400,000 entries": many_entries(400_000),
        "old format": legacy({"labels": list(LABELS), "stage1": {}}),
        "mkdir": packed({"labels": list(LABELS), "stage1": Calls(os.mkdir, str(trace))}),
        "bytearray": called("builtins", "bytearray", b"J\xff\xff\xff\x7f"),
        "codecs": called("_codecs", "encode", b"X\x01\x00\x00\x00a"),
        "a Counter": called("collections", "Counter", b"X\x01\x00\x00\x00a"),
        "a storage": called("torch", "FloatStorage", b"J\xff\xff\xff\x7f"),
        "nested tuples": zipped({"archive/data.pkl": b"\x80\x02)" + b"\x85" * 300_000 + b"."}),
        "nested settings": packed(whole() | {"stage1_settings": deep(200)}),
        "a list": packed([1, 2]),
        "more numbers than bytes": with_pickle(
            lambda p: p.replace(count, b"J\xff\xff\xff\x7ftq", 1)
        ),
        "numbers below zero": with_pickle(lambda p: p.replace(count, b"J\xff\xff\xff\xfftq", 1)),
        "a missing storage": with_pickle(
            lambda p: p.replace(b"\x01\x00\x00\x000", b"\x01\x00\x00\x009")
        ),
        "another type": with_pickle(lambda p: p.replace(b"FloatStorage", b"DoubleStorage")),
        "complex storage": with_pickle(
            lambda p: p.replace(b"FloatStorage", b"ComplexFloatStorage")
        ),
        "big-endian": zipped(entries_of(whole()) | {"archive/byteorder": b"big"}),
        "a huge view": with_pickle(
            lambda p: p.replace(b"K\x04K\x04\x86", b"J\xff\xff\xff\x7fK\x04\x86")
        ),
        "a view beyond": with_pickle(lambda p: p.replace(b"QK\x00", b"QK\x09")),
        "a view before": with_pickle(lambda p: p.replace(b"QK\x00", b"QJ\xff\xff\xff\xff")),
        "steps below zero": with_pickle(
            lambda p: p.replace(b"K\x04K\x01\x86", b"J\xff\xff\xff\xffK\x01\x86")
        ),
    }


def tensors() -> dict[str, dict]:
    """Return what replaces one weight of the transformer, or all."""
    good = whole()["stage2"]
    weight = good[WEIGHT]
    odd = {
        "NaN": nan_in(weight, float("nan")),
        "infinite": nan_in(weight, float("-inf")),
        "complex": weight.to(torch.complex64),
        "integers": weight.long(),
        "bools": weight.bool(),
        "on meta": weight.to("meta"),
        "sparse": weight.to_sparse(),
        "quantized": torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
        "one number, expanded": torch.zeros(()).expand(2**40),
        "one number as 16": torch.zeros(1).expand(16),
        "of another shape": weight[:15].clone(),
        "a matrix": weight.view(4, 4).clone(),
        "empty": weight[:0].clone(),
        "text": "0.5",
        "a list of numbers": [0.5] * 16,
        "a half-finished parameter": torch.nn.Parameter(weight),
    }
    found = {f"a weight: {name}": good | {WEIGHT: value} for name, value in odd.items()}
    lacking = {name: tensor for name, tensor in good.items() if name != WEIGHT}
    found |= {"a weight is missing": lacking, "a weight too many": good | {"more": weight}}
    return found | {
        "numbered weights": {0: weight},
        "a list for weights": [weight],
        "no weights": {},
    }


def settings() -> dict[str, tuple[str, dict]]:
    """Return (stage, the settings that replace good ones)."""
    nan = float("nan")
    of_stage2 = {
        "1e5 layers": {"layers": 100_000},
        "no layers": {"layers": 0},
        "half a layer": {"layers": 1.5},
        "other layers": {"layers": 90},
        "wide": {"width": 10**9},
        "wider than the weights": {"width": 16384, "layers": 100},
        "width in words": {"width": "16"},
        "no heads": {"heads": 0},
        "heads that do not fit": {"heads": 3},
        "channels below zero": {"channels": -1},
        "many channels": {"channels": 10**12},
        "true dropout": {"dropout": True},
        "NaN dropout": {"dropout": nan},
        "dropout above 1": {"attention_dropout": 1.5},
        "step 7": {"step": 7},
        "no step": {"step": None},
        "no cut": {"cut": 0},
        "NaN weight of stage 1": {"stage1_share": nan},
        "NaN weight of stage 1 of today": {"stage1_weight": nan},
        "no weight of stage 1": {"stage1_weight": None},
        "weight of stage 1 in words": {"stage1_weight": "0.6"},
        "choices in words": {"choices": "step 1"},
        "choices of step 7": {"choices": [[7, 0.6, 0.9]]},
        "choices of weight 2": {"choices": [[1, 2.0, 0.9]]},
        "choices with a NaN score": {"choices": [[1, 0.6, nan]]},
        "choices with a score in words": {"choices": [[1, 0.6, "good"]]},
        "choices without scores": {"choices": [[1, 0.6]]},
        "1e5 choices": {"choices": [[1, 0.6, 0.9]] * 10**5},
    }
    of_stage1 = {
        "unknown encoder": {"encoder": "no_such_network"},
        "encoder of 1e6 characters": {"encoder": "a" * 10**6},
        "encoder from a hub": {"encoder": "hf-hub:nobody/nothing"},
        "encoder from a folder": {"encoder": "local-dir:/tmp"},
        "encoder 5": {"encoder": 5},
        "huge encoder": {"encoder": "regnety_2560"},  # 4.7 GiB
        "encoder of other sizes": {"encoder": "test_vit"},
        "other encoder": {"encoder": "test_resnet"},
        "NaN heatmap": {"heatmap_weight": nan},
        "heatmap in words": {"heatmap_weight": "yes"},
        "crops of 1e9": {"crop_size": 10**9},
        "no image": {"image_size": 0},
        "a window of lists": {"mr_window": [[]]},
        "regions in a list": {"regions": [regions()["regions"]["left"]]},
        "regions of 12 locations": regions(rows=12),
        "regions in words": regions(mean="left"),
        "regions without width": regions(scale=0.0),
        "NaN regions": regions(mean=nan),
    }
    found = {name: ("stage2_settings", change) for name, change in of_stage2.items()}
    return found | {name: ("stage1_settings", change) for name, change in of_stage1.items()}


def contents() -> dict[str, dict]:
    """Return contents that differ from a good one in one thing."""
    good = whole()
    found = {name: good | {"stage2": weights} for name, weights in tensors().items()}
    for name, (stage, change) in settings().items():
        found[name] = good | {stage: good[stage] | change}
    lacking = {name: value for name, value in STAGE2.items() if name != "width"}
    found["no width"] = good | {"stage2_settings": lacking}
    found["settings in a list"] = good | {"stage1_settings": [1]}
    found["short prior"] = good | {"prior": [0.1]}
    found["NaN prior"] = good | {"prior": [float("nan")] * 14}
    found["other labels"] = good | {"labels": list(LABELS)[::-1]}
    return found


def checkpoints(trace: Path) -> dict[str, Callable[[], bytes]]:
    """Return functions, as the files together are large."""
    found = {name: partial(bytes, data) for name, data in files(trace).items()}
    found["packed zeros"] = packed_zeros
    return found | {name: partial(packed, content) for name, content in contents().items()}
