"""Both trained networks as ONNX files, for programs without PyTorch. Needs: pip install onnx onnxruntime

Each is compared with PyTorch on random inputs, in several batch sizes and lengths, before it is written.

Reads   model/{encoder}/fold-{k}/weights_inference.pth (train_stage2.py)

Writes  model/{encoder}/fold-{k}/
        slice_cnn.onnx             images (B, 3, crop, crop) float32, 0 to 5 as preprocess_data.py makes them
                                   -> logits (B, 14), features (B, C), heatmap (B, h, w) logits where the network has one
        sequence_transformer.onnx  features (B, T, C) float32, positions (B, T) float32 mm, present (B, T) bool, false at padding
                                   -> logits (B, 14)

Probabilities of a series: the sigmoid of (1 - s) x these logits + s x the highest logits of its slices, with s = stage1_share, in the metadata of
the transformer. Batch and length are free. The metadata of both hold the labels in their order, as json, and the SHA-256 of the weights.
"""

import io
import json
import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.artifacts.checkpoints import read_joined
from src.artifacts.files import atomic
from src.artifacts.paths import RunFolder
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
    fold: int = 0  # held out
    encoder: str = "convnext_base.dinov3_lvd1689m"  # as trained


def main(config: Config) -> dict[str, float]:
    """The largest difference of each file from PyTorch."""
    for name in ("onnx", "onnxruntime"):
        package(name)
    run = RunFolder(config.model_dir, config.encoder, config.fold)
    joined = read_joined(run)
    slice_cnn = build_slice_cnn(joined["stage1_settings"], joined["stage1"], CPU)
    transformer = build_transformer(joined["stage2_settings"], joined["stage2"], CPU)

    facts1 = {"weights": digest(joined["stage1"])}
    facts2 = {
        "weights": digest(joined["stage2"]),
        "stage1_share": str(joined["stage2_settings"]["stage1_share"]),
    }

    generator = torch.Generator().manual_seed(0)
    images = [
        random_images(batch, joined["stage1_settings"]["crop_size"], generator) for batch in BATCHES
    ]
    series = [
        random_series(batch, length, joined["stage2_settings"]["channels"], generator)
        for length in LENGTHS
        for batch in BATCHES
    ]
    return {
        run.slice_cnn_onnx.name: export(
            run.slice_cnn_onnx, slice_cnn, OnnxSliceCNN, facts1, images
        ),
        run.transformer_onnx.name: export(
            run.transformer_onnx, transformer, OnnxTransformer, facts2, series
        ),
    }


def random_images(batch: int, crop: int, generator: torch.Generator) -> tuple[Tensor]:
    return (torch.rand(batch, 3, crop, crop, generator=generator) * TOP,)


def random_series(
    batch: int, length: int, channels: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Features, ascending positions up to 5 mm apart, and padding after any number of tokens, of at least one in each series."""
    features = torch.randn(batch, length, channels, generator=generator)
    positions = (torch.rand(batch, length, generator=generator) * 5).cumsum(1)
    counts = torch.randint(1, length + 1, (batch, 1), generator=generator)
    counts[0] = length
    return features, positions, torch.arange(length) < counts


def export(
    path: Path,
    model: nn.Module,
    kind: type[OnnxSliceCNN | OnnxTransformer],
    facts: dict[str, str],
    samples: list[tuple[Tensor, ...]],
) -> float:
    """Write the module and facts of it, `weights` among them, after a comparison on the samples, of which the last is also traced."""
    content = with_metadata(to_onnx(model, kind.axes, samples[-1]), facts)
    difference = largest_difference(model, kind(content, facts["weights"]), samples)
    if not difference <= CLOSE:  # nan is not
        reason = (
            f"differs from PyTorch by {difference:.1g}, more than {CLOSE:g}, and is not written"
        )
        raise UserError(
            f"{path.name} {reason}: install torch, onnx and onnxruntime as pinned in requirements-dev.txt"
        )
    with atomic(path) as file:
        file.write(content)
    print(f"{path}: {len(content) / 1e6:.1f} MB, at most {difference:.1e} from PyTorch")
    return difference


@torch.inference_mode()
def to_onnx(model: nn.Module, axes: dict[str, dict[int, str]], sample: tuple[Tensor, ...]) -> bytes:
    """What one call of the module does, as an ONNX file.

    By tracing (dynamo=False): the newer exporter of torch 2.12 fails on attention of several heads at free length.
    """
    outputs = SliceOutput._fields[: len(outputs_of(model, sample))]  # the logits come first in both
    free = axes | {name: {0: "batch"} for name in outputs}
    torch.onnx.register_custom_op_symbolic(
        "aten::asinh", lambda graph, x: graph.op("Asinh", x), 9
    )  # which the tracing exporter lacks
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the exporter is old, and that it traces
        try:
            torch.onnx.export(
                model,
                sample,
                buffer,
                input_names=list(axes),
                output_names=list(outputs),
                dynamic_axes=free,
                opset_version=OPSET,
                dynamo=False,
            )
        except RuntimeError as error:
            reason = str(error).splitlines()[0][:200]
            raise UserError(
                f"the network cannot become an ONNX file ({reason}): train another --encoder"
            ) from error
    return buffer.getvalue()


def with_metadata(content: bytes, facts: dict[str, str]) -> bytes:
    """The same ONNX file with the labels and facts in it, `weights` as the digest of its weights among them."""
    onnx = package("onnx")
    model = onnx.load_from_string(content)
    onnx.helper.set_model_props(model, {"labels": json.dumps(LABELS)} | facts)
    return model.SerializeToString()


@torch.inference_mode()
def largest_difference(
    model: nn.Module, exported: Callable, samples: list[tuple[Tensor, ...]]
) -> float:
    """Of any value of any output, over all samples; nan where one is not a number, infinite where outputs are missing or of another shape."""
    differences = []
    for sample in progress(samples, "comparing", " batches"):
        expected, found = outputs_of(model, sample), outputs_of(exported, sample)
        if [value.shape for value in expected] != [value.shape for value in found]:
            return math.inf
        differences += [
            (one - other).abs().max() for one, other in zip(expected, found, strict=True)
        ]
    return torch.stack(differences).max().item()


def outputs_of(model: Callable, sample: tuple[Tensor, ...]) -> list[Tensor]:
    """The outputs that the network has."""
    out = model(*sample)
    return [out] if isinstance(out, Tensor) else [value for value in out if value is not None]


if __name__ == "__main__":
    run_script(main, Config, __doc__)
