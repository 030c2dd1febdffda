"""Both networks as ONNX files (tools/export_onnx.py) in onnxruntime, on the CPU, called as the modules that they were made from."""

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
    """(B, 3, crop, crop) float32 in 0..5 -> SliceOutput, as SliceCNN."""

    axes = {"images": {0: "batch"}}  # by input: those that may be of any length
    device = CPU

    def __init__(self, source: Path | bytes, weights: str):
        """source: the file, or what will be its content; weights: `digest` of those that it must have been made from."""
        self.session = open_session(source, self.axes, weights)

    def __call__(self, images: Tensor) -> SliceOutput:
        logits, features, *heatmap = run(self.session, [images])
        return SliceOutput(logits, features, heatmap[0] if heatmap else None)

    def locate(self, images: Tensor) -> tuple[SliceOutput, Tensor | None]:
        """As SliceCNN.locate; class activation maps are not in the file."""
        out = self(images)
        return out, None if out.heatmap is None else out.heatmap.sigmoid()


class OnnxTransformer:
    """Features (B, T, C), positions (B, T) mm, present (B, T) bool -> logits (B, 14), as SequenceTransformer."""

    axes = {name: {0: "batch", 1: "length"} for name in ("features", "positions", "present")}

    def __init__(self, source: Path | bytes, weights: str):
        self.session = open_session(source, self.axes, weights)

    def __call__(self, features: Tensor, positions: Tensor, present: Tensor) -> Tensor:
        (logits,) = run(self.session, [features, positions, present])
        return logits


def package(name: str) -> ModuleType:
    """One of the two packages that only ONNX files need."""
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            f"ONNX files need the package {name}: pip install onnx onnxruntime"
        ) from error


def digest(weights: dict[str, Tensor]) -> str:
    """SHA-256 of names and values: tells the weights that an ONNX file was made from, whichever checkpoint they come in."""
    found = hashlib.sha256()
    for name, value in weights.items():
        found.update(name.encode())
        found.update(value.cpu().numpy().tobytes())
    return found.hexdigest()


def open_session(source: Path | bytes, inputs: Sequence[str], weights: str) -> Any:
    """The file's network in an onnxruntime.InferenceSession. Refused: a broken file, one with other inputs, one made from other weights."""
    onnxruntime = package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        content = source if isinstance(source, bytes) else str(require(source))
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except ArtifactError:
        raise
    except Exception as error:  # those of onnxruntime have no class in common
        raise ArtifactError(
            f"{name_of(source)} is not a whole ONNX file ({str(error).splitlines()[0]}): run tools/export_onnx.py again"
        ) from error
    named = [port.name for port in session.get_inputs()]
    if named != list(inputs):
        raise ArtifactError(
            f"{name_of(source)} reads {', '.join(named)} instead of {', '.join(inputs)}: run tools/export_onnx.py again"
        )
    if session.get_modelmeta().custom_metadata_map.get("weights") != weights:
        raise ArtifactError(
            f"{name_of(source)} was made from other weights than those of the checkpoint: run tools/export_onnx.py again"
        )
    return session


def name_of(source: Path | bytes) -> str:
    return "the exported network" if isinstance(source, bytes) else str(source)


def run(session: Any, tensors: Sequence[Tensor]) -> list[Tensor]:
    """All outputs, from the inputs in their order."""
    arrays = {
        port.name: np.ascontiguousarray(tensor.numpy())
        for port, tensor in zip(session.get_inputs(), tensors, strict=True)
    }
    return [torch.from_numpy(output) for output in session.run(None, arrays)]
