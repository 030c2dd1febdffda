"""The model card of a bundle, in Markdown."""

from itertools import chain
from pathlib import Path

from src.artifacts.calibration import Calibration
from src.artifacts.checkpoints import KNOWN
from src.evaluation import choice
from src.evaluation.score_report import score_table
from src.labels import LABELS
from src.script import UserError
from src.text import printable
from tools.scoring import output

DINOV3 = "https://github.com/facebookresearch/dinov3/blob/main/LICENSE.md"
NAMES = {"end_to_end": "end to end, from DICOM", "stage2": "stage 2, from arrays"}
SETTINGS = (  # of both stages, that a reader looks for first
    "crop_size view_mm step_mm heatmap_weight width layers heads cut "
    "epochs batch_size lr head_lr weight_decay seed"
).split()
SPECIAL = "\\`*_[]<>|#!"  # to Markdown


def text(about: dict, networks: dict, calibration: Calibration | None, figures: Path | None) -> str:
    """Return the card. figures: the file that about["test_set"] was read from."""
    parts = [
        f"# Model card: intracranial aneurysms, {plain(about['encoder'])}",
        "For research; not a medical device; it must not be used to diagnose.",
        network_part(about, networks),
        data_part(about),
        score_part(about),
        test_part(about, figures),
        calibration_part(calibration),
        settings_part(networks),
        licence_part(about),
        use_part(about),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def plain(value: object) -> str:
    """Return text that Markdown shows as it is, in one line."""
    shown = printable(value)
    return "".join(f"\\{letter}" if letter in SPECIAL else letter for letter in shown)


def table(head: tuple, rows: list[tuple]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def block(lines: str) -> str:
    return f"```\n{lines.replace('```', '')}\n```"


def network_part(about: dict, networks: dict) -> str:
    rows = []
    for name, joined in networks.items():
        of_series = joined["stage2_settings"]
        pair = choice.own(of_series)
        rows.append((name, pair.step, f"{pair.stage1_weight:g}"))
    shared = choice.of_ensemble([joined["stage2_settings"] for joined in networks.values()])
    if shared:
        rows.append(("all together", shared.step, f"{shared.stage1_weight:g}"))
    settings = next(iter(networks.values()))["stage1_settings"]
    heat = "with" if settings["heatmap_weight"] else "without"
    return "\n\n".join(
        [
            "## What it is",
            f"A 2.5D CNN on three neighbouring slices ({plain(settings['encoder'])}, {heat} a "
            "heatmap), then a transformer over the slices of a series: one DICOM series of the "
            "head (CT or MR) in, 14 probabilities out. Of several networks the mean.",
            table(("network", "step", "weight of stage 1"), rows),
            f"Images of {settings['image_size']} pixels, MR window {settings['mr_window']}.",
        ]
    )


def data_part(about: dict) -> str:
    rows = []
    for name, found in about["trained_on"].items():
        of = ", ".join(f"{plain(key)} {n}" for key, n in found["modalities"].items())
        cells = (found["series"], found["with_aneurysm"], found["unknown"], found["held_out"])
        rows.append((name, *cells, of))
    head = ("network", "series", "with aneurysm", "unknown", "held out", "modalities")
    positives = []
    for label in LABELS:
        of_each = [str(found["positives"][label]) for found in about["trained_on"].values()]
        positives.append((label, ", ".join(of_each)))
    dataset = plain(about["dataset"]) or "not named by who made this file"
    return "\n\n".join(
        [
            "## What it was trained on",
            f"Data: {dataset}. Trained until {about['date']}.",
            table(head, rows),
            table(("label", "positive series, a number for each network"), positives),
        ]
    )


def score_part(about: dict) -> str:
    if not about["scores"]:
        return "## Scores on held-out series\n\nNone: no evaluation was found."
    parts = ["## Scores on held-out series", "AUCs with their 95 % intervals by patient."]
    if any(not found["held_out"] for found in about["trained_on"].values()):
        parts.append(
            "Nothing was held out from these networks. The scores are those of networks that were "
            "trained without a fold each."
        )
    for name, evaluations in about["scores"].items():
        for evaluation, scores in evaluations.items():
            title = f"{name}, {NAMES[evaluation]}: {scores['n_series']} series"
            parts.append(block(score_table(scores, title)))
    return "\n\n".join(parts)


def test_part(about: dict, figures: Path | None) -> str:
    """Return the figures of a test set. Raise UserError if they are none of tools/score.py."""
    if about["test_set"] is None:
        return ""
    try:
        shown = output.text(about["test_set"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{figures} is no json of tools/score.py --out: score again") from error
    return "\n\n".join(["## Scores and thresholds on another test set", block(shown)])


def calibration_part(calibration: Calibration | None) -> str:
    if calibration is None:
        return "## Calibration\n\nProbabilities are not calibrated; no calibration was fitted."
    rows = []
    maps = zip(LABELS, calibration.scales, calibration.offsets, strict=True)
    if calibration.findings:
        maps = chain(maps, [("findings", *calibration.findings)])
    for name, scale, offset in maps:
        rows.append((name, f"{scale:.3f}", f"{offset:.3f}"))
    said = "With `--calibrate`, and only then, a logit becomes scale * logit + offset."
    return "\n\n".join(["## Calibration", said, table(("label", "scale", "offset"), rows)])


def settings_part(networks: dict) -> str:
    joined = next(iter(networks.values()))
    rows = []
    for name in SETTINGS:
        cells = []
        for stage in ("stage1", "stage2"):
            value = joined[f"{stage}_settings"].get(name, "")
            shown = name in KNOWN or not isinstance(value, str)
            cells.append(plain(value) if shown else "")
        if any(cells):
            rows.append((f"`{name}`", *cells))
    return "## Settings\n\n" + table(("setting", "stage 1", "stage 2"), rows)


def licence_part(about: dict) -> str:
    found = about["weights_of_encoder"]
    lines = ["## Licences", f"The encoder started from {found['started_from']}."]
    if found["licence"]:
        lines.append(f"Licence of these weights: {plain(found['licence'])}.")
    if found["licence"] and "dinov3" in f"{found['licence']} {about['encoder']}":
        lines.append(
            f"The [DINOv3 licence]({DINOV3}) travels with weights that were fine-tuned from "
            "DINOv3's: pass it on with this file."
        )
    lines.append("The licence of the data that it was trained on may bind you, too.")
    return "\n\n".join(lines)


def use_part(about: dict) -> str:
    made_with = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    command = "python tools/predict.py path/to/dicom --bundle this-file.zip"
    return "\n\n".join(["## Use", block(command), f"Made with {made_with}."])
