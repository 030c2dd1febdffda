"""Trained weights on disk."""

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

from src.artifacts.files import atomic, reading, unwritable
from src.artifacts.paths import ArtifactError, RunFolder, remedy
from src.labels import LABELS, LOCATIONS
from src.text import printable

NAME = re.compile(r"[\w./-]{1,200}", re.ASCII)  # of an encoder, not the address of one
KINDS = {"epoch": int, "best": dict, "lines": list}  # what else a checkpoint may have


class Range(NamedTuple):
    """What a setting may be, both ends included."""

    low: float
    high: float
    whole: bool = True


STAGE1_SETTINGS = {  # what the slice CNN is built from and used with
    "encoder": str,
    "heatmap_weight": Range(0, 1e6, whole=False),
    "crop_size": Range(1, 8192),  # pixels
    "view_mm": Range(0, 1000, whole=False),
    "step_mm": (Range(0, 100, whole=False), Range(0, 100, whole=False)),
}
OLDER = {"view_mm": 0.0, "step_mm": (0.0, 0.0)}  # of stage 1, where a checkpoint does not say
STAGE2_SETTINGS = {  # the same of the sequence transformer
    "channels": Range(1, 65536),
    "width": Range(1, 16384),
    "layers": Range(1, 100),
    "heads": Range(1, 1024),
    "dropout": Range(0, 1, whole=False),
    "attention_dropout": Range(0, 1, whole=False),
    "stage1_weight": Range(0, 1, whole=False),  # in the file of a run: None if scores choose it
    "cut": Range(1, 10**6),  # slices
    "step": Range(1, 2),
}
IMPORTED_SETTINGS = {  # beside them, of networks that were trained by other programs
    "slice_logits": bool,  # false: no head that judges single slices came with the weights
    "network": frozenset({"deberta"}),  # the published sequence transformer
    "chosen_on": frozenset({"nothing"}),  # of step and weight of stage 1: typed in
}
ELSEWHERE = "elsewhere"  # as held_out: other programs held out others than the folds here
ARRAY_SETTINGS = {"image_size": Range(1, 8192), "mr_window": str}
OF_STAGE = {"stage1": STAGE1_SETTINGS, "stage2": STAGE2_SETTINGS}
KNOWN = STAGE1_SETTINGS | STAGE2_SETTINGS | ARRAY_SETTINGS | IMPORTED_SETTINGS
RENAMED = {"stage1_share": "stage1_weight"}  # settings of older checkpoints
KNOWN |= {old: KNOWN[new] for old, new in RENAMED.items()}
JOINED = ("stage1", "stage1_settings", "stage2", "stage2_settings", "prior")
UNCHOSEN = {"step": 1, "stage1_weight": 0.6}  # of stage 2, where no score has chosen them
FARTHEST = 1000.0  # mm, of places in the head
MOST_CHOICES = 100  # rows of the table of scores by step and weight


def write_checkpoint(path: Path, content: dict) -> None:
    """Save tensors and plain values, with the order of the labels that they were made for."""
    import torch

    with atomic(path) as file:
        try:
            torch.save({**content, "labels": list(LABELS)}, file)
        except RuntimeError as error:  # torch's word for a full disk
            raise unwritable(path, error) from error


def read_checkpoint(path: Path, needed: tuple[str, ...]) -> dict:
    """Return a checkpoint, its tensors on the CPU.

    Raise ArtifactError if the file is broken, holds code, lacks a `needed` key, was made for other
    labels or another order of them, or if weights are not finite or settings not possible.
    """
    from src.artifacts.tensors import load_tensors  # takes torch, which --help need not wait for

    with reading(path, "a whole checkpoint of plain tensors"):
        content = load_tensors(path)
    return require_checkpoint(path, content, needed)


def require_checkpoint(path: Path, content: Any, needed: tuple[str, ...]) -> dict:
    """Return what was read from `path`; raise ArtifactError as read_checkpoint."""
    for key in ("labels", *needed):
        if not isinstance(content, dict) or key not in content:
            raise ArtifactError(f"{path} has no {key!r}: it is not what this stage reads")
    if content["labels"] != list(LABELS):
        raise ArtifactError(f"{path} was made for other labels or another order of them")
    for name in ("settings", "stage1_settings"):
        if type(content.get(name)) is dict and "crop_size" in content[name]:
            content[name] = OLDER | content[name]
    _require_content(path, content)
    return content


def _require_content(path: Path, content: dict) -> None:
    """Raise ArtifactError if weights, settings or state of a checkpoint cannot be right."""
    for name, kind in KINDS.items():
        if name in content and type(content[name]) is not kind:
            raise _malformed(path, f"its {name!r} is not of type {kind.__name__}")
    for name in ("weights", "stage1", "stage2"):
        if name in content:
            _require_weights(path, content[name])
    if "learner" in content:
        _require_weights(path, _inside(path, content["learner"], "average.module"))
        _require_weights(path, content["learner"].get("model", {}))
    for name in ("settings", "stage1_settings", "stage2_settings"):
        if name in content:
            _require_possible(path, content[name])
            _rename(content[name])


def read_state_dict(path: Path, advice: str) -> dict:
    """Return {name: tensor} of a file in which another program saved nothing but weights.

    advice: what to do if it is missing or broken. Raise ArtifactError then, and for all else.
    """
    import torch

    from src.artifacts.tensors import load_tensors

    if not path.is_file():
        raise ArtifactError(f"{path} is no file: {advice}")
    with reading(path, "a whole state dict of plain tensors", advice):
        content = load_tensors(path)
    if type(content) is dict and "labels" in content:
        raise ArtifactError(f"{path} is a checkpoint of this project: use it without an import")
    is_plain = type(content) is dict and all(map(torch.is_tensor, content.values()))
    if not content or not is_plain:
        raise ArtifactError(f"{path} holds no tensors by their names: {advice}")
    _require_weights(path, content, advice)
    return content


def read_joined(run: RunFolder) -> dict:
    """Return weights_inference.pth: weights and settings of both stages, `prior` of the labels."""
    return require_joined(run.inference, read_checkpoint(run.inference, JOINED))


def require_joined(path: Path, joined: dict) -> dict:
    """Return what read_checkpoint returned; raise ArtifactError if it lacks a setting."""
    _require_settings(path, joined["stage1_settings"], STAGE1_SETTINGS | ARRAY_SETTINGS)
    _require_settings(path, joined["stage2_settings"], STAGE2_SETTINGS)
    prior = joined["prior"]
    if type(prior) is not list or len(prior) != len(LABELS) or not all(map(_is_fraction, prior)):
        raise _malformed(path, "its 'prior' is not a fraction for each label")
    regions = joined["stage1_settings"].get("regions", {})  # older versions knew none
    if type(regions) is not dict or not all(map(_is_region, regions.values())):
        raise _malformed(path, "its 'regions' are no tables of mean, scale and freedom")
    return joined


def read_trained(run: RunFolder, stage: str, select: str) -> dict:
    """Return {"weights", "settings", "epoch"} of a trained network.

    select: "best" takes the epoch with the best score on the held-out fold; "last" takes the
        moving average after the last epoch, at step 1 and with the weight of stage 1 that was
        given to train_stage2.py or else UNCHOSEN: no score has chosen any of these.
    """
    path = run.best(stage) if select == "best" else run.last(stage)
    held = "weights" if select == "best" else "learner"
    trained = read_checkpoint(path, (held, "settings", "epoch"))
    if select == "last":
        weights = trained["learner"]["average"]["module"]
        given = {name: value for name, value in trained["settings"].items() if value is not None}
        settings = UNCHOSEN | given | {"step": UNCHOSEN["step"]}
        trained = {"weights": weights, "settings": settings, "epoch": trained["epoch"]}
    _require_settings(path, trained["settings"], OF_STAGE[stage])
    return trained


def _is_region(table: Any) -> bool:
    """Return whether this is a table (13, 3) of src.sampling.regions, as lists."""
    if type(table) is not list or len(table) != len(LOCATIONS):
        return False
    for row in table:
        if type(row) is not list or len(row) != 3 or not all(type(each) is float for each in row):
            return False
        mean, scale, freedom = row
        if not (abs(mean) < FARTHEST and 0.01 < scale < FARTHEST and 1 <= freedom < math.inf):
            return False
    return True


def _malformed(path: Path, what: str) -> ArtifactError:
    return ArtifactError(f"{path} is not a checkpoint of this project ({what}): {remedy(path)}")


def _inside(path: Path, content: Any, names: str) -> Any:
    """Return content["a"]["b"] for names "a.b"."""
    for name in names.split("."):
        if type(content) is not dict or name not in content:
            raise _malformed(path, f"it has no {names!r}")
        content = content[name]
    return content


def _require_weights(path: Path, weights: Any, advice: str = "train again") -> None:
    """Raise ArtifactError if weights are not {name: tensor}, or not finite."""
    import torch

    if type(weights) is not dict:
        raise _malformed(path, "its weights have no names")
    for name, tensor in weights.items():
        if type(name) is not str or not isinstance(tensor, torch.Tensor):
            raise _malformed(path, f"{printable(name, 80)!r} is not a tensor")
        if not tensor.numel() or not tensor.is_floating_point():
            continue
        low, high = torch.aminmax(tensor)
        if not low.isfinite() or not high.isfinite():
            raise ArtifactError(
                f"{path}: the weights {printable(name, 80)} are not finite: {advice}"
            )


def _require_possible(path: Path, settings: Any) -> None:
    """Raise ArtifactError if a setting that this project knows has an impossible value."""
    if type(settings) is not dict:
        raise _malformed(path, "its settings have no names")
    for name, allowed in KNOWN.items():
        if name in settings and not _is_possible(settings[name], allowed):
            raise _malformed(path, f"the setting {name} is {printable(settings[name], 40)}")
    if not _is_table(settings.get("choices", [])):
        raise _malformed(path, "the setting choices is no table of scores")
    if {"width", "heads"} <= settings.keys() and settings["width"] % settings["heads"]:
        raise _malformed(path, "the setting width is not a multiple of heads")


def _require_settings(path: Path, settings: dict, names: dict) -> None:
    for name in names:
        if settings.get(name) is None:
            raise _malformed(path, f"the setting {name} is missing")


def _is_possible(value: Any, allowed: type | frozenset | Range | tuple[Range, Range]) -> bool:
    if type(allowed) is tuple:
        same = type(value) is tuple and len(value) == len(allowed)
        return same and all(map(_is_possible, value, allowed))
    if allowed is bool:
        return type(value) is bool
    if type(allowed) is frozenset:
        return type(value) is str and value in allowed
    if allowed is str:
        return type(value) is str and NAME.fullmatch(value) is not None
    if value is None and allowed is STAGE2_SETTINGS["stage1_weight"]:
        return True
    kinds = (int,) if allowed.whole else (int, float)
    return type(value) in kinds and allowed.low <= value <= allowed.high


def _rename(settings: dict) -> None:
    """Give settings of older checkpoints the names of today."""
    for old, new in RENAMED.items():
        if old in settings:
            settings.setdefault(new, settings[old])


def _is_table(choices: Any) -> bool:
    """Return whether these are rows (step, weight, score or None), as src/evaluation/choice.py."""
    if type(choices) is not list or len(choices) > MOST_CHOICES:
        return False
    for row in choices:
        if type(row) not in (list, tuple) or len(row) != 3 or type(row[0]) is not int:
            return False
        score = 0 if row[2] is None else row[2]
        if row[0] not in (1, 2) or not _is_fraction(row[1]) or not _is_fraction(score):
            return False
    return True


def _is_fraction(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1
