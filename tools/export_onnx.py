"""Write both trained networks as ONNX files. Needs: pip install onnx onnxruntime

Each is first compared with PyTorch on random inputs, in several batch sizes and lengths.

Reads   model/{encoder}/fold-{k}/weights_inference.pth (train_stage2.py)

Writes  model/{encoder}/fold-{k}/
        slice_cnn.onnx             images (B, 3, crop, crop) float32, 0 to 5 as preprocess_data.py
                                   makes them -> logits (B, 14), features (B, C), and heatmap
                                   (B, h, w) logits if the network has one
        sequence_transformer.onnx  features (B, T, C) float32, positions (B, T) float32 in mm,
                                   present (B, T) bool, false at padding -> logits (B, 14)

Notes
  - B and T are free.
  - The probabilities of a series are the sigmoid of (1 - s) x the transformer's logits + s x the
    highest logits of its slices; s is stage1_weight in the transformer's metadata.
  - The metadata of both hold the labels in their order, as json, and the weights' SHA-256.
"""

import io
import json
import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.artifacts.checkpoints import read_joined
from src.artifacts.files import atomic
from src.artifacts.paths import RunFolder, fold_of
from src.inference.onnx import CPU, OnnxSliceCNN, OnnxTransformer, digest, package
from src.labels import LABELS
from src.networks.sequence_transformer import build_transformer
from src.networks.slice_cnn import SliceOutput, build_slice_cnn
from src.preprocess.intensity import TOP
from src.progress import progress
from src.script import UserError, run_script

OPSET = 18  # of the ONNX operators
CLOSE = 1e-4  # largest difference from PyTorch in any output
BATCHES = (1, 2, 5)  # compared
LENGTHS = (1, 7, 200)  # tokens, compared


@dataclass
class Config:
    model_dir: Path = Path("model")  # trained networks
    fold: int = 0  # the held-out fold
    encoder: str = "convnext_base.dinov3_lvd1689m"  # the one that was trained
    train_on_all: bool = False  # the networks of --train-on-all instead of those of a fold


def main(config: Config) -> dict[str, float]:
    """Export both networks; return the largest difference of each file from PyTorch."""
    for name in ("onnx", "onnxruntime"):
        package(name)
    run = RunFolder(config.model_dir, config.encoder, fold_of(config))
    joined = read_joined(run)
    stage1, stage2 = joined["stage1_settings"], joined["stage2_settings"]
    slice_cnn = build_slice_cnn(stage1, joined["stage1"], CPU)
    transformer = build_transformer(stage2, joined["stage2"], CPU)
    metadata1 = {"weights": digest(joined["stage1"])}
    metadata2 = {"weights": digest(joined["stage2"]), "stage1_weight": str(stage2["stage1_weight"])}

    generator = torch.Generator().manual_seed(0)
    images = [random_images(batch, stage1["crop_size"], generator) for batch in BATCHES]
    series = []
    for length, batch in product(LENGTHS, BATCHES):
        series.append(random_series(batch, length, stage2["channels"], generator))
    first, second = run.slice_cnn_onnx, run.transformer_onnx
    return {
        first.name: export(first, slice_cnn, OnnxSliceCNN, metadata1, images),
        second.name: export(second, transformer, OnnxTransformer, metadata2, series),
    }


def random_images(batch: int, crop: int, generator: torch.Generator) -> tuple[Tensor]:
    return (torch.rand(batch, 3, crop, crop, generator=generator) * TOP,)


def random_series(
    batch: int, length: int, channels: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return features, positions up to 5 mm apart, and padding after one or more tokens."""
    features = torch.randn(batch, length, channels, generator=generator)
    positions = (torch.rand(batch, length, generator=generator) * 5).cumsum(1)
    counts = torch.randint(1, length + 1, (batch, 1), generator=generator)
    counts[0] = length
    return features, positions, torch.arange(length) < counts


def export(
    path: Path,
    model: nn.Module,
    kind: type[OnnxSliceCNN | OnnxTransformer],
    metadata: dict[str, str],
    samples: list[tuple[Tensor, ...]],
) -> float:
    """Write the module, traced on the last sample; return its largest difference from PyTorch.

    Raise UserError, and write nothing, if the samples show a difference over CLOSE.
    """
    content = with_metadata(to_onnx(model, kind.axes, samples[-1]), metadata)
    with atomic(path) as file:
        file.write(content)
        file.flush()
        exported = kind(Path(file.name), metadata["weights"])
        difference = largest_difference(model, exported, samples)
        if not difference <= CLOSE:  # nan is not
            reason = f"differs from PyTorch by {difference:.1g}, more than {CLOSE:g}"
            remedy = "install torch, onnx and onnxruntime as pinned in requirements-dev.txt"
            raise UserError(f"{path.name} {reason}, and is not written: {remedy}")
    print(f"{path}: {len(content) / 1e6:.1f} MB, at most {difference:.1e} from PyTorch")
    return difference


@torch.inference_mode()
def to_onnx(model: nn.Module, axes: dict[str, dict[int, str]], sample: tuple[Tensor, ...]) -> bytes:
    """Return one call of the module as the content of an ONNX file.

    By tracing (dynamo=False): the newer exporter of torch 2.12 fails on attention of several
    heads at free length.
    """
    outputs = SliceOutput._fields[: len(outputs_of(model, sample))]  # the logits come first in both
    options = {
        "input_names": list(axes),
        "output_names": list(outputs),
        "dynamic_axes": axes | {name: {0: "batch"} for name in outputs},
        "opset_version": OPSET,
        "dynamo": False,
    }
    # The tracing exporter lacks asinh.
    torch.onnx.register_custom_op_symbolic("aten::asinh", lambda graph, x: graph.op("Asinh", x), 9)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the exporter is old, and that it traces
        try:
            torch.onnx.export(model, sample, buffer, **options)
        except RuntimeError as error:
            reason = str(error).splitlines()[0][:200]
            raise UserError(
                f"the network cannot become an ONNX file ({reason}): train another --encoder"
            ) from error
    return buffer.getvalue()


def with_metadata(content: bytes, metadata: dict[str, str]) -> bytes:
    """Return the same ONNX file with the labels and metadata in it."""
    onnx = package("onnx")
    model = onnx.load_from_string(content)
    onnx.helper.set_model_props(model, {"labels": json.dumps(LABELS)} | metadata)
    return model.SerializeToString()


@torch.inference_mode()
def largest_difference(
    model: nn.Module, exported: Callable, samples: list[tuple[Tensor, ...]]
) -> float:
    """Return the largest difference of any output value over all samples.

    Return nan if a value is not a number, infinity if an output is missing or has another shape.
    """
    differences = []
    for sample in progress(samples, "comparing", " batches"):
        expected, found = outputs_of(model, sample), outputs_of(exported, sample)
        if [value.shape for value in expected] != [value.shape for value in found]:
            return math.inf
        for ours, theirs in zip(expected, found, strict=True):
            differences.append((ours - theirs).abs().max())
    return torch.stack(differences).max().item()


def outputs_of(model: Callable, sample: tuple[Tensor, ...]) -> list[Tensor]:
    """Return the outputs that the network has."""
    out = model(*sample)
    return [out] if isinstance(out, Tensor) else [value for value in out if value is not None]


if __name__ == "__main__":
    run_script(main, Config, __doc__, interrupted="run it again")
