"""Where every file between the stages is, and which stage makes it."""

import re
from pathlib import Path
from typing import Any

from src.script import UserError
from src.text import printable

LONGEST_NAME = 200  # characters of a folder's name
ALL_DATA = "all-data"  # in place of a fold's number: nothing was held out
UID = re.compile(r"[0-9.]{1,64}")
PUT_THE_DATA = "put the challenge's tables and series/ there, or name their folder with --data-dir"
MADE_BY = {  # stage: the files that it makes, as patterns of pathlib.Path.match
    "tools/import_published.py": ("published/fold-*/weights_inference.pth",),
    "preprocess_data.py": ("npy_sequence/*", "npy_slice/*", "train_meta.csv", "slice_*_dict.pkl"),
    "create_folds.py": ("train_*_folds.csv", "label_dict.pkl", "f_dict_sample.pkl"),
    "train_stage1.py": ("*_stage1.pth",),
    "extract_features.py": ("features/*", "logits/*"),
    "train_stage2.py": ("*_stage2.pth", "weights_inference.pth"),
    "eval_stage1.py, eval_stage2.py and eval_end_to_end.py": ("scores_*.json", "predictions_*.csv"),
    "tools/mine_hard_negatives.py": ("f_dict_hard.pkl",),
    "tools/report.py": ("calibration.json",),
    "tools/export_onnx.py": ("*.onnx",),
}


class ArtifactError(UserError):
    """A file between the stages is missing, broken, or does not fit the others."""


def require(path: Path) -> Path:
    """Return the path; raise ArtifactError that names the stage to run if nothing is there."""
    if path.exists():
        return path
    raise ArtifactError(f"{path} is missing: {remedy(path)}")


def remedy(path: Path) -> str:
    """Return what to do about a missing or broken file."""
    if path.name in ("train.csv", "train_localizers.csv"):
        return PUT_THE_DATA
    for stage, patterns in MADE_BY.items():
        if any(path.match(pattern) for pattern in patterns):
            return f"run {stage} first"
    return "check the path"


def checked_uid(uid: str) -> str:
    """Return the UID; raise ArtifactError for text that could lead to another folder."""
    if not UID.fullmatch(str(uid)) or set(str(uid)) == {"."}:
        raise ArtifactError(
            f"{str(uid)[:80]!r} is not a DICOM UID (digits and points, 1 to 64): "
            "correct the table that names it"
        )
    return str(uid)


def trained_networks(model_dir: Path) -> str:
    """Return which trained networks there are, for a message."""
    if not model_dir.is_dir():
        return f"the folder {model_dir} does not exist, name it with --model-dir"
    runs: dict[str, list[str]] = {}
    for path in sorted(model_dir.glob("*/*/weights_inference.pth")):
        runs.setdefault(path.parent.parent.name, []).append(path.parent.name)
    found = "; ".join(f"{encoder} ({', '.join(names)})" for encoder, names in runs.items())
    return f"trained networks in {model_dir}: {printable(found or 'none', 600)}"


class DataFolder:
    """Paths under --data-dir. uid: a SeriesInstanceUID."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.train = self.root / "train.csv"
        self.localizers = self.root / "train_localizers.csv"
        self.ignored = self.root / "train_ignored.csv"  # aneurysms that do not count, if any
        self.overrides = self.root / "overrides.csv"  # labels that people corrected, if any
        self.train_meta = self.root / "train_meta.csv"
        self.failed_series = self.root / "failed_series.csv"
        self.series_report = self.root / "series_report.csv"
        self.sequences = self.root / "npy_sequence"
        self.slices = self.root / "npy_slice"
        self.array_settings = self.sequences / "settings.json"
        # {uid: [SOPInstanceUID in slice order]}
        self.slice_uids = self.root / "slice_uids_dict.pkl"
        # {uid: {"positions": (n,) float mm, "frames": (n,) int}}
        self.geometry = self.root / "slice_geometry_dict.pkl"
        self.labels = self.root / "label_dict.pkl"  # {uid: (n, 14) uint8: 0, 1, 255: unknown}
        self.safe_slices = self.root / "f_dict_sample.pkl"  # {uid: (k,) int}
        self.hard_slices = self.root / "f_dict_hard.pkl"  # {uid: (k,) int}
        self.hard_picture = self.root / "hard_negatives.png"

    def series(self, uid: str) -> Path:
        return self.root / "series" / checked_uid(uid)

    def sequence(self, uid: str) -> Path:
        return self.sequences / f"{checked_uid(uid)}.npy"

    def facts(self, uid: str) -> Path:
        return self.sequences / f"{checked_uid(uid)}.json"

    def slice_folder(self, uid: str) -> Path:
        return self.slices / checked_uid(uid)

    def slice(self, uid: str, index: int) -> Path:
        return self.slice_folder(uid) / f"{index:04d}.npy"

    def folds(self, count: int) -> Path:
        return self.root / f"train_{count}_folds.csv"

    def spots(self, count: int) -> Path:
        return self.root / f"train_stage1_{count}_folds.csv"

    def fold_count(self) -> int:
        """Return the number of folds, read from the name of the one table of folds."""
        tables = list(self.root.glob("train_[0-9]*_folds.csv"))
        if len(tables) != 1:
            raise ArtifactError(
                f"{self.root} holds {len(tables)} tables train_*_folds.csv, not one: "
                "run create_folds.py first"
            )
        return int(tables[0].name.split("_")[1])


class EncoderFolder:
    """Paths under --model-dir/{encoder}: what all folds share."""

    def __init__(self, model_dir: str | Path, encoder: str):
        if not encoder.isprintable() or not encoder.strip(".") or len(encoder) > LONGEST_NAME:
            shown = printable(encoder, 80)
            raise ArtifactError(
                f"{shown!r} is no name of an encoder: give the one that was trained"
            )
        self.root = Path(model_dir) / encoder.replace("/", "_")
        # {"labels": {label: {"scale": a, "offset": b}}, "findings": the same or null, ...}
        self.calibration = self.root / "calibration.json"
        # {"rows": [{"name": text, "value": text or number}]}
        self.localisation = self.root / "localisation.json"
        self.scored_runs = "fold-[0-9]*/best_stage2.pth"  # as a pattern below root
        self.label_proposals = self.root / "label_proposals.csv"
        self.label_picture = self.root / "label_proposals.png"
        self.report = self.root / "report"
        self.report_page = self.report / "report.html"

    def report_picture(self, name: str) -> Path:
        return self.report / f"{name}.png"


def fold_of(config: Any) -> int | str:
    """Return the fold that a script is asked for, ALL_DATA with --train-on-all."""
    return ALL_DATA if config.train_on_all else config.fold


class RunFolder:
    """Paths under --model-dir/{encoder}/fold-{fold}, or all-data. stage: "stage1" or "stage2"."""

    def __init__(self, model_dir: str | Path, encoder: str, fold: int | str):
        name = ALL_DATA if fold == ALL_DATA else f"fold-{fold}"
        self.root = EncoderFolder(model_dir, encoder).root / name
        self.features = self.root / "features"
        self.logits = self.root / "logits"
        self.feature_settings = self.features / "settings.json"
        self.inference = self.root / "weights_inference.pth"
        self.slice_cnn_onnx = self.root / "slice_cnn.onnx"
        self.transformer_onnx = self.root / "sequence_transformer.onnx"
        self.findings = self.root / "findings.csv"

    def best(self, stage: str) -> Path:
        return self.root / f"best_{stage}.pth"

    def last(self, stage: str) -> Path:
        return self.root / f"last_{stage}.pth"

    def log(self, stage: str) -> Path:
        return self.root / f"log_{stage}.txt"

    def metrics(self, stage: str) -> Path:
        return self.root / f"metrics_{stage}.jsonl"

    def curves(self, stage: str) -> Path:
        return self.root / f"progress_{stage}.png"

    def settings(self, stage: str) -> Path:
        return self.root / f"settings_{stage}.json"

    def scores(self, evaluation: str) -> Path:
        return self.root / f"scores_{evaluation}.json"

    def predictions(self, evaluation: str) -> Path:
        return self.root / f"predictions_{evaluation}.csv"

    def failed_series(self) -> Path:
        return self.root / "failed_series_end_to_end.csv"

    def feature(self, uid: str) -> Path:
        return self.features / f"{checked_uid(uid)}.npy"

    def logit(self, uid: str) -> Path:
        return self.logits / f"{checked_uid(uid)}.npy"
