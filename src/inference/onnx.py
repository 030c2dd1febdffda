"""Both networks as ONNX files (tools/export_onnx.py): onnxruntime on the CPU, called as modules."""

import hashlib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.artifacts.paths import ArtifactError, require
from src.networks.slice_cnn import SliceOutput
from src.script import UserError

CPU = torch.device("cpu")


class OnnxSliceCNN:
    """Call as SliceCNN: (B, 3, crop, crop) float32 in 0..5 -> SliceOutput."""

    axes = {"images": {0: "batch"}}  # of each input, those of free length
    device = CPU

    def __init__(self, path: Path, weights: str):
        """Open the file; `weights` is the `digest` of those that it must be made from."""
        self.session = open_session(path, self.axes, weights)

    def __call__(self, images: Tensor) -> SliceOutput:
        logits, features, *heatmap = run(self.session, [images])
        return SliceOutput(logits, features, heatmap[0] if heatmap else None)

    def locate(self, images: Tensor) -> tuple[SliceOutput, Tensor | None]:
        """Do as SliceCNN.locate; a network without heatmap returns None, the file has no other."""
        out = self(images)
        return out, None if out.heatmap is None else out.heatmap.sigmoid()


class OnnxTransformer:
    """Call as SequenceTransformer: (B, T, C), (B, T) mm, (B, T) bool -> logits (B, 14)."""

    axes = {name: {0: "batch", 1: "length"} for name in ("features", "positions", "present")}

    def __init__(self, path: Path, weights: str):
        self.session = open_session(path, self.axes, weights)

    def __call__(self, features: Tensor, positions: Tensor, present: Tensor) -> Tensor:
        return run(self.session, [features, positions, present])[0]


def package(name: str) -> ModuleType:
    """Import a package that only ONNX files need; raise UserError if it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        advice = f"ONNX files need the package {name}: pip install onnx onnxruntime"
        raise UserError(advice) from error


def digest(weights: dict[str, Tensor]) -> str:
    """Return the SHA-256 of names and values, the same whichever checkpoint they come in."""
    found = hashlib.sha256()
    for name, value in weights.items():
        found.update(name.encode())
        found.update(value.cpu().numpy().tobytes())
    return found.hexdigest()


def open_session(path: Path, inputs: Sequence[str], weights: str) -> Any:
    """Return the file's network as an onnxruntime.InferenceSession.

    Raise ArtifactError if it is missing or broken, has other inputs or is made from other weights.
    """
    onnxruntime = package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    source, again = str(require(path)), "run tools/export_onnx.py again"
    try:
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # those of onnxruntime have no class in common
        reason = str(error).splitlines()[0]
        raise ArtifactError(f"{path} is not a whole ONNX file ({reason}): {again}") from error
    names, expected = ", ".join(port.name for port in session.get_inputs()), ", ".join(inputs)
    if names != expected:
        raise ArtifactError(f"{path} reads {names} instead of {expected}: {again}")
    if session.get_modelmeta().custom_metadata_map.get("weights") != weights:
        raise ArtifactError(f"{path} was made from other weights than the checkpoint's: {again}")
    return session


def run(session: Any, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return all outputs for the inputs in their order."""
    names = [port.name for port in session.get_inputs()]
    arrays = [np.ascontiguousarray(tensor.numpy()) for tensor in tensors]
    outputs = session.run(None, dict(zip(names, arrays, strict=True)))
    return [torch.from_numpy(output) for output in outputs]
