"""Where every file between the stages lies, and which stage makes it."""

import re
from pathlib import Path

from src.script import UserError

UID = re.compile(r"[0-9.]{1,64}")
PUT_THE_DATA = "put the challenge's tables and series/ there, or name their folder with --data-dir"


class ArtifactError(UserError):
    """A file between the stages is missing, broken, or does not fit the others."""


def checked_uid(uid: str) -> str:
    """The UID itself; anything else that could become part of a path raises ArtifactError."""
    if not UID.fullmatch(str(uid)) or set(str(uid)) == {"."}:
        raise ArtifactError(
            f"{str(uid)[:80]!r} is not a DICOM UID (digits and points, 1 to 64): correct the table that names it"
        )
    return str(uid)


class DataFolder:
    """Paths under --data-dir. {uid} is a SeriesInstanceUID."""

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self.train = self.root / "train.csv"
        self.localizers = self.root / "train_localizers.csv"
        self.train_meta = self.root / "train_meta.csv"
        self.failed_series = self.root / "failed_series.csv"
        self.series_report = self.root / "series_report.csv"
        self.sequences = self.root / "npy_sequence"
        self.slices = self.root / "npy_slice"
        self.array_settings = self.sequences / "settings.json"
        self.slice_uids = (
            self.root / "slice_uids_dict.pkl"
        )  # {uid: [SOPInstanceUID in slice order]}
        self.geometry = (
            self.root / "slice_geometry_dict.pkl"
        )  # {uid: {"positions": (n,) float mm, "frames": (n,) int}}
        self.labels = self.root / "label_dict.pkl"  # {uid: (n, 14) uint8}
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
        """How many folds create_folds.py dealt, told by the one table it leaves."""
        counts = [
            int(re.search(r"train_(\d+)_folds", path.name).group(1))
            for path in self.root.glob("train_[0-9]*_folds.csv")
        ]
        if len(counts) != 1:
            raise ArtifactError(
                f"{self.root} holds {len(counts)} tables train_*_folds.csv, not one: run create_folds.py first"
            )
        return counts[0]


class EncoderFolder:
    """Paths under --model-dir/{encoder}: what all folds have together."""

    def __init__(self, model_dir: str | Path, encoder: str):
        self.root = Path(model_dir) / encoder.replace("/", "_")
        self.temperatures = (
            self.root / "temperatures.json"
        )  # {"temperatures": {label: t}, "folds": [k], "n_series": n}
        self.localisation = (
            self.root / "localisation.json"
        )  # {"rows": [{"name": text, "value": text or number}]}
        self.report = self.root / "report"
        self.report_page = self.report / "report.html"

    def report_picture(self, name: str) -> Path:
        return self.report / f"{name}.png"


class RunFolder:
    """Paths under --model-dir/{encoder}/fold-{k}. stage is "stage1" or "stage2"."""

    def __init__(self, model_dir: str | Path, encoder: str, fold: int | str):
        self.root = EncoderFolder(model_dir, encoder).root / f"fold-{fold}"
        self.features = self.root / "features"
        self.logits = self.root / "logits"
        self.feature_settings = self.features / "settings.json"
        self.inference = self.root / "weights_inference.pth"
        self.slice_cnn_onnx = self.root / "slice_cnn.onnx"
        self.transformer_onnx = self.root / "sequence_transformer.onnx"
        self.findings = self.root / "findings.csv"
        self.localisation = self.root / "localisation.json"

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


MADE_BY = (  # (file name, what makes it)
    (r"train\.csv|train_localizers\.csv", PUT_THE_DATA),
    (
        r"train_meta\.csv|slice_uids_dict\.pkl|slice_geometry_dict\.pkl",
        "run preprocess_data.py first",
    ),
    (
        r"train_(stage1_)?\d+_folds\.csv|label_dict\.pkl|f_dict_sample\.pkl",
        "run create_folds.py first",
    ),
    (r"(best|last)_stage1\.pth", "run train_stage1.py first"),
    (
        r"scores_(stage1|stage2|end_to_end)\.json|predictions_(stage1|stage2|end_to_end)\.csv",
        "run eval_stage1.py, eval_stage2.py and eval_end_to_end.py first",
    ),
    (r"temperatures\.json", "run tools/report.py first"),
    (r"best_stage2\.pth|last_stage2\.pth|weights_inference\.pth", "run train_stage2.py first"),
    (r"(slice_cnn|sequence_transformer)\.onnx", "run tools/export_onnx.py first"),
)


def require(path: Path) -> Path:
    """The path itself where it exists; ArtifactError with the stage that makes it where not."""
    if path.exists():
        return path
    raise ArtifactError(f"{path} is missing: {remedy(path)}")


def remedy(path: Path) -> str:
    """Which stage makes a file."""
    parent = path.parent.name
    if parent in ("npy_sequence", "npy_slice"):
        return "run preprocess_data.py first"
    if parent in ("features", "logits"):
        return "run extract_features.py first"
    return next(
        (remedy for name, remedy in MADE_BY if re.fullmatch(name, path.name)), "check the path"
    )
