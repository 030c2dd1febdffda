"""Bring the published solution's weights into this project's form.

    python tools/import_published.py best_stage1.pth best_stage2.pth --step 1
    python tools/import_published.py weights_inference.pth --step 1
    python tools/predict.py path/to/dicom --encoder published

Needs the package transformers: pip install transformers==5.24.0 (nothing is downloaded with it)

Reads   weights_inference.pth, or best_stage1.pth and best_stage2.pth

Writes  {model_dir}/published/fold-{k}/weights_inference.pth

Notes
  - weights_inference.pth lacks the head of stage 1: it gives the 14 probabilities of a series, but
    no curve along the slices, no findings and no picture of where.
  - From then on --encoder published names them, in eval_end_to_end.py and all tools.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.artifacts.checkpoints import ELSEWHERE, read_state_dict, write_checkpoint
from src.artifacts.paths import RunFolder
from src.labels import LABELS
from src.networks.deberta import transformers
from src.networks.encoder import plan_encoder
from src.networks.sequence_transformer import new_transformer
from src.networks.slice_cnn import SliceCNN
from src.networks.trained import misfit
from src.script import UserError, run_script
from src.text import printable

FOLDER = "published"  # in the place of an encoder's name
EXPECTED = "name the published weights_inference.pth, or best_stage1.pth and best_stage2.pth"
ENCODER, TRANSFORMER = ("image_encoder.",), ("transformer.", "cls_embedding", "pool.")
HEAD = ("fc.",)  # of either stage
NAMES = {"image_encoder": "encoder", "fc": "head"}  # of the parts of stage 1
BOTH, STAGE1, STAGE2 = "both stages", "stage 1", "stage 2"
IMAGES = {  # that the published networks were trained on, and without a heatmap
    "image_size": 512,
    "crop_size": 448,
    "mr_window": "fixed",
    "view_mm": 0.0,
    "step_mm": (0.0, 0.0),
    "heatmap_weight": 0.0,
    "held_out": ELSEWHERE,
}
SEQUENCE = {  # the published setting of stage 2
    "network": "deberta",
    "layers": 3,
    "heads": 1,
    "dropout": 0.15,
    "attention_dropout": 0.05,
    "stage1_weight": 0.0,
    "cut": 192,
    "chosen_on": "nothing",
}
SERIES = 4348  # of the challenge's training data; of each label, about so many are positive:
POSITIVE = "81 101 343 287 225 304 376 47 58 89 105 114 117 1865".split()
DIFFERENCES = """What differs from the published code:
  - the neighbours of the first and the last slice repeat it; there they come from the other end
  - slope and intercept are applied once; there twice, the second time with the wrong sign: the
    networks learned CT with an intercept of -1024 as one white plateau, and now see it as it is
  - slices are in the order of their normal, images are turned so that left is left
  - images and features are rounded to float16
The published folds are not those of create_folds.py, which keeps patients together: the networks
may know series that eval_end_to_end.py takes for held out."""
NO_HEAD = """The file has no head of stage 1: the 14 probabilities of a series are complete, but
there is no curve along the slices, no finding and no picture of where. best_stage1.pth has it."""


@dataclass
class Config:
    weights: Annotated[  # one file, or one of each stage
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="PATH ...", help_behavior_hint="(required)"),
    ]
    step: Literal[1, 2]  # slices to the two neighbours; published: typed in, the better one
    fold: int = 0  # that was held out from their training
    model_dir: Path = Path("model")  # for published/
    encoder: str = "convnext_base.dinov3_lvd1689m"  # of timm, that the weights belong to


def main(config: Config) -> Path:
    """Write weights_inference.pth; return its path."""
    transformers()
    channels = plan_encoder(config.encoder, IMAGES["crop_size"]).features
    stage1, stage2 = read_parts(config.weights)
    has_head = any(name.startswith("head.") for name in stage1)
    if not has_head:
        stage1 |= {"head.1.weight": torch.zeros(len(LABELS), channels)}
        stage1 |= {"head.1.bias": torch.zeros(len(LABELS))}
    settings = SEQUENCE | {"channels": channels, "width": channels, "step": config.step}
    require_fit(config.encoder, stage1, stage2, settings)
    joined = {
        "stage1": as_float32(stage1),
        "stage1_settings": IMAGES | {"encoder": config.encoder, "slice_logits": has_head},
        "stage2": as_float32(stage2),
        "stage2_settings": settings,
        "prior": [int(count) / SERIES for count in POSITIVE],
    }
    path = RunFolder(config.model_dir, FOLDER, config.fold).inference
    write_checkpoint(path, joined)
    print(f"{path}: {config.encoder}, step {config.step}\n\n{DIFFERENCES}")
    if not has_head:
        print(f"\n{NO_HEAD}")
    return path


def read_parts(paths: tuple[Path, ...]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the weights of both stages, with the names of this project's networks.

    Raise UserError unless the files are one of both stages, or one of each.
    """
    files = {}
    for path in paths:
        weights = read_state_dict(path, EXPECTED)
        stage = stage_of(path, weights)
        if stage in files:
            raise UserError(f"{path} holds {stage}, as another of these files: {EXPECTED}")
        files[stage] = weights
    if files.keys() == {BOTH}:
        encoder, stage2 = split(files[BOTH], ENCODER)
        return renamed(encoder), stage2
    if BOTH in files:
        raise UserError(f"one of these files holds both stages, another one of them: {EXPECTED}")
    if len(files) < 2:
        missing = STAGE2 if STAGE1 in files else STAGE1
        raise UserError(f"the weights of {missing} are missing: {EXPECTED}")
    return renamed(files[STAGE1]), files[STAGE2]


def stage_of(path: Path, weights: dict[str, Tensor]) -> str:
    """Return which networks a file holds, by the names in it. Raise UserError for other files."""
    _, others = split(weights, ENCODER + TRANSFORMER + HEAD)
    if others:
        shown = printable(next(iter(others)), 80)
        raise UserError(f"{path} holds {shown}, which the published networks lack: {EXPECTED}")
    encoder, _ = split(weights, ENCODER)
    transformer, _ = split(weights, TRANSFORMER)
    if encoder and transformer:
        return BOTH
    if not encoder and not transformer:
        raise UserError(f"{path} holds only a head: {EXPECTED}")
    return STAGE1 if encoder else STAGE2


def split(weights: dict[str, Tensor], prefixes: tuple[str, ...]) -> tuple[dict, dict]:
    """Return the weights whose names begin with one of the prefixes, and the others."""
    chosen, others = {}, {}
    for name, tensor in weights.items():
        part = chosen if name.startswith(prefixes) else others
        part[name] = tensor
    return chosen, others


def renamed(stage1: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of stage 1 with the names of SliceCNN."""
    found = {}
    for name, tensor in stage1.items():
        part, _, rest = name.partition(".")
        found[f"{NAMES[part]}.{rest}"] = tensor
    return found


def require_fit(
    encoder: str, stage1: dict[str, Tensor], stage2: dict[str, Tensor], settings: dict
) -> None:
    """Raise UserError if names or shapes are not those of the networks.

    They are built without memory: the files may be wrong.
    """
    with torch.device("meta"):
        slice_cnn = SliceCNN(encoder, heatmap=False, crop_size=IMAGES["crop_size"])
        transformer = new_transformer(settings)
    reason = misfit(slice_cnn.state_dict(), stage1)
    if reason:
        raise UserError(
            f"the weights do not fit the encoder {encoder}: {reason}; name theirs with --encoder"
        )
    reason = misfit(transformer.state_dict(), stage2)
    if reason:
        raise UserError(f"the weights are not those of the published stage 2: {reason}; {EXPECTED}")


def as_float32(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the same with all floating-point numbers as float32."""
    found = {}
    for name, tensor in weights.items():
        found[name] = tensor.float() if tensor.is_floating_point() else tensor
    return found


if __name__ == "__main__":
    run_script(main, Config, __doc__, interrupted="run it again")
