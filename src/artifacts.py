"""Every file between the stages: where it lies, how it is read and written, and what to do where it is missing.

The only module that spells a path, opens a pickle or calls torch.load. A file appears under its name only when it is whole:
it is written under a temporary name beside it and renamed. Arrays are read with allow_pickle=False, pickles by an unpickler that
admits numpy arrays and plain containers, checkpoints with weights_only=True: nothing that is read can run code.
"""

import hashlib
import json
import os
import pickle
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from src.labels import LABELS
from src.runtime import UserError

UID = re.compile(r"[0-9.]{1,64}")
PUT_THE_DATA = "put the challenge's tables and series/ there, or name their folder with --data-dir"


class ArtifactError(UserError):
    """A file between the stages is missing, broken, or does not fit the others."""


def checked_uid(uid: str) -> str:
    """The UID itself; anything else that could become part of a path raises ArtifactError."""
    if not UID.fullmatch(str(uid)) or set(str(uid)) == {"."}:
        raise ArtifactError(f"{str(uid)[:80]!r} is not a DICOM UID (digits and points, 1 to 64): correct the table that names it")
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
        self.slice_uids = self.root / "slice_uids_dict.pkl"  # {uid: [SOPInstanceUID in slice order]}
        self.geometry = self.root / "slice_geometry_dict.pkl"  # {uid: {"positions": (n,) float mm, "frames": (n,) int}}
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
        counts = [int(re.search(r"train_(\d+)_folds", path.name).group(1)) for path in self.root.glob("train_[0-9]*_folds.csv")]
        if len(counts) != 1:
            raise ArtifactError(f"{self.root} holds {len(counts)} tables train_*_folds.csv, not one: run create_folds.py first")
        return counts[0]


class EncoderFolder:
    """Paths under --model-dir/{encoder}: what all folds have together."""

    def __init__(self, model_dir: str | Path, encoder: str):
        self.root = Path(model_dir) / encoder.replace("/", "_")
        self.temperatures = self.root / "temperatures.json"  # {"temperatures": {label: t}, "folds": [k], "n_series": n}
        self.localisation = self.root / "localisation.json"  # {"rows": [{"name": text, "value": text or number}]}
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
        self.events = self.root / "tensorboard"
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

    def has_features(self, uid: str) -> bool:
        """Whether both files of a series are there and whole."""
        try:
            return all(read_layout(path) for path in (self.feature(uid), self.logit(uid)))
        except ArtifactError:
            return False


MADE_BY = (  # (file name, what makes it)
    (r"train\.csv|train_localizers\.csv", PUT_THE_DATA),
    (r"train_meta\.csv|slice_uids_dict\.pkl|slice_geometry_dict\.pkl", "run preprocess_data.py first"),
    (r"train_(stage1_)?\d+_folds\.csv|label_dict\.pkl|f_dict_sample\.pkl", "run create_folds.py first"),
    (r"(best|last)_stage1\.pth", "run train_stage1.py first"),
    (r"scores_(stage1|stage2|end_to_end)\.json|predictions_(stage1|stage2|end_to_end)\.csv", "run eval_stage1.py, eval_stage2.py and eval_end_to_end.py first"),
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
    return next((remedy for name, remedy in MADE_BY if re.fullmatch(name, path.name)), "check the path")


def temporary(path: Path, part: str = "1/1") -> Path:
    """Where `path` is written until it is whole: one name, so that the next run clears what a killed one left.

    part: "i/n", the i-th of n processes that may write the same file at once; each has its own name.
    """
    own = "" if part == "1/1" else f".{part.replace('/', 'of')}"
    return path.with_name(f".{path.name}{own}.tmp")


@contextmanager
def atomic(path: Path, mode: str = "wb", sync: bool = True, part: str = "1/1") -> Iterator[IO]:
    """Open a temporary file beside `path`; rename it to `path` when the block ends well, remove it when not.

    sync: wait until the disk has it, so that it outlives a power failure.
    part: as in `temporary`.
    """
    partial = temporary(path, part)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, mode) as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def _unwritable(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(f"{path} cannot be written ({getattr(error, 'strerror', None) or error}): free space or choose another folder")


def write_array(path: Path, array: np.ndarray) -> None:
    with atomic(path) as file:
        np.save(file, array, allow_pickle=False)


def read_array(path: Path) -> np.ndarray:
    try:
        return np.load(require(path), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ArtifactError(f"{path} is not a whole array ({error}): delete it and {remedy(path)}") from error


def read_layout(path: Path) -> tuple[int, tuple[int, ...], np.dtype]:
    """(offset of the data in bytes, shape, dtype) of an npy file; a file that is cut short raises."""
    try:
        with open(require(path), "rb") as file:
            major, _ = np.lib.format.read_magic(file)
            reader = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = reader(file)
            offset, end = file.tell(), os.fstat(file.fileno()).st_size
    except (ValueError, OSError) as error:
        raise ArtifactError(f"{path} is not an array ({error}): delete it and {remedy(path)}") from error
    if fortran or dtype.hasobject or end - offset != dtype.itemsize * int(np.prod(shape)):
        raise ArtifactError(f"{path} is not a whole array: delete it and {remedy(path)}")
    return offset, shape, dtype


@cache
def array_layout(path: Path) -> tuple[int, tuple[int, ...], np.dtype]:
    """`read_layout`, once a process: for files that many samples are read from."""
    return read_layout(path)


def read_slices(path: Path, indices: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Slices (k, S, S) of an array (n, S, S) by positioned reads: only their bytes are read, and errors come as exceptions."""
    offset, shape, dtype = array_layout(path)
    out = np.empty((len(indices), *shape[1:]), dtype) if out is None else out
    size = out[0].nbytes
    with open(path, "rb", buffering=0) as file:
        for slice_, index in zip(out, indices, strict=True):
            if os.preadv(file.fileno(), [memoryview(slice_).cast("B")], offset + int(index) * size) != size:
                raise ArtifactError(f"{path} ends before slice {index}: delete it and {remedy(path)}")
    return out


def write_table(path: Path, table: pd.DataFrame) -> None:
    with atomic(path, "w") as file:
        table.to_csv(file, index=False)


def read_table(path: Path, columns: tuple[str, ...] = ()) -> pd.DataFrame:
    """A csv with UIDs as text; a missing column, or no row at all, is an ArtifactError."""
    text = dict.fromkeys(("SeriesInstanceUID", "SOPInstanceUID", "coordinates", "patient_id", "orientation"), str)
    try:
        table = pd.read_csv(require(path), dtype=text, encoding="utf-8-sig", keep_default_na=True)
    except (ValueError, OSError) as error:
        raise ArtifactError(f"{path} is not a csv table ({error}): {PUT_THE_DATA}") from error
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise ArtifactError(f"{path} has no column {missing[0]!r}: it needs {', '.join(columns)}")
    return table


def read_train(data: DataFolder) -> pd.DataFrame:
    """train.csv, checked: one row a series, a UID in each, all 14 labels 0 or 1. Errors name column and line."""
    table = read_table(data.train, ("SeriesInstanceUID", "Modality", *LABELS))
    if table.empty:
        raise ArtifactError(f"{data.train} has no rows: {PUT_THE_DATA}")
    for label in LABELS:
        wrong = ~table[label].isin([0, 1])
        if wrong.any():
            line = int(np.flatnonzero(wrong)[0])
            raise ArtifactError(f"{data.train}, column {label!r}, line {line + 2}: {table[label].iloc[line]!r} is neither 0 nor 1")
    repeated = table.SeriesInstanceUID.duplicated()
    if repeated.any():
        line = int(np.flatnonzero(repeated)[0])
        raise ArtifactError(f"{data.train}, line {line + 2}: series {table.SeriesInstanceUID.iloc[line]} stands there twice")
    table.SeriesInstanceUID.map(checked_uid)
    return table.astype(dict.fromkeys(LABELS, int))


def read_meta(data: DataFolder) -> pd.DataFrame:
    """train_meta.csv: one row a prepared series; an empty orientation or patient_id is an empty text."""
    meta = read_table(data.train_meta, ("SeriesInstanceUID", "length", "h", "w", "mod", "plane", "orientation", *LABELS))
    return _fill_texts(meta)


def read_folds(data: DataFolder) -> pd.DataFrame:
    """train_{N}_folds.csv: train_meta.csv with the fold of each series."""
    return _fill_texts(read_table(data.folds(data.fold_count()), ("SeriesInstanceUID", "fold", "length", *LABELS)))


def read_fold(data: DataFolder, fold: int, trained: dict | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(all series, those of the held-out fold). Refused where the fold was never dealt, or where a network with the settings `trained` had
    another held-out fold or other arrays: it would be judged on what it was trained on, or on what it cannot read."""
    series = read_folds(data)
    held_out = series[series.fold == fold].reset_index(drop=True)
    if held_out.empty:
        raise ArtifactError(f"fold {fold} is none of {data.folds(data.fold_count())}, which has 0 to {series.fold.max()}: choose another --fold")
    for name, value in (fold_settings(data, held_out) if trained else {}).items():
        if trained.get(name) != value and name == "held_out":
            raise ArtifactError(f"fold {fold} of {data.root} is not the one that the network was trained without: the folds were dealt anew, train again")
        if trained.get(name) != value:
            raise ArtifactError(f"the network was trained on arrays with {name} {trained.get(name)}, those of {data.sequences} have {value}: train again")
    return series, held_out


def folds_of(data: DataFolder, fold: int | str) -> list[int]:
    """The fold alone, or all that create_folds.py dealt."""
    return list(range(data.fold_count())) if fold == "all" else [fold]


def fold_settings(data: DataFolder, held_out: pd.DataFrame) -> dict:
    """What a network must remember of the fold that it was not trained on, and of its arrays."""
    arrays = read_json(data.array_settings)
    uids = " ".join(sorted(held_out.SeriesInstanceUID))
    return {"held_out": hashlib.sha256(uids.encode()).hexdigest(), "image_size": arrays["image_size"], "mr_window": arrays["mr_window"]}


def read_spots(data: DataFolder) -> pd.DataFrame:
    """train_stage1_{N}_folds.csv: one row a spot."""
    return read_table(data.spots(data.fold_count()), ("SeriesInstanceUID", "location", "fold", "length", "f", "class_id", "x_512", "y_512"))


def remove_fold_tables(data: DataFolder) -> None:
    """Away with the tables of an earlier number of folds, so that there is one."""
    for path in (*data.root.glob("train_[0-9]*_folds.csv"), *data.root.glob("train_stage1_[0-9]*_folds.csv")):
        path.unlink()


def _fill_texts(table: pd.DataFrame) -> pd.DataFrame:
    return table.fillna({"orientation": "", "patient_id": ""})


def write_json(path: Path, content: dict, sync: bool = True, part: str = "1/1") -> None:
    with atomic(path, "w", sync, part) as file:
        json.dump(content, file, indent=1)


def write_lines(path: Path, lines: list[str]) -> None:
    with atomic(path, "w") as file:
        file.writelines(f"{line}\n" for line in lines)


def append_line(path: Path, line: str) -> None:
    """One line more at the end of a text."""
    try:
        with open(path, "a") as file:
            print(line, file=file)
    except OSError as error:
        raise _unwritable(path, error) from error


def read_json(path: Path) -> dict:
    try:
        return json.loads(require(path).read_text())
    except ValueError as error:
        raise ArtifactError(f"{path} is not whole json ({error}): delete it and run the stage that makes it again") from error


def read_json_lines(path: Path) -> list[dict]:
    """One dict a line, as `run.Run` writes them."""
    try:
        return [json.loads(line) for line in require(path).read_text().splitlines()]
    except ValueError as error:
        raise ArtifactError(f"{path} has a line that is not json ({error}): delete that line") from error


def settle(path: Path, settings: dict, remedy: str, part: str = "1/1") -> None:
    """Write the settings that the files beside `path` are made with, or refuse settings other than those they were made with.

    part: of several processes that do so at once, as in `temporary`.
    """
    _remove_left(path, part)
    if not path.exists():
        return write_json(path, settings, part=part)
    made = read_json(path)
    for name, value in settings.items():
        if made.get(name) != value:
            raise ArtifactError(f"{path.parent} was made with {name} {made.get(name)}, not {value}: {remedy}")


def _remove_left(path: Path, part: str) -> None:
    """Away with what this part left when it was killed: another may have written the file since, so that it will not be written again."""
    with suppress(OSError):
        temporary(path, part).unlink()


def fingerprint(path: Path) -> str:
    """SHA-256 of a file: tells the weights that features were made with."""
    with open(require(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def keep_features_of(run: RunFolder, weights: str, part: str = "1/1") -> None:
    """Before extraction: features of these weights stay, those of others are removed; refused where other processes may be at work on them.

    part: of several processes that do so at once, as in `temporary`.
    """
    _remove_left(run.feature_settings, part)
    found = any(run.features.glob("*.npy"))  # before their settings are read: others write these first
    known = read_json(run.feature_settings)["weights"] if run.feature_settings.exists() else None
    if known == weights:
        return
    if found:
        if part != "1/1":
            raise ArtifactError(f"{run.features} holds features of other weights: delete it and {run.logits} first")
        print(f"{run.features} holds features of other weights: they are made anew")
        shutil.rmtree(run.logits, ignore_errors=True)
        shutil.rmtree(run.features)
    write_json(run.feature_settings, {"weights": weights}, part=part)


def require_features_of(run: RunFolder, weights: str) -> None:
    """Before stage 2 reads them: the features were made with these weights."""
    if read_json(run.feature_settings)["weights"] != weights:
        raise ArtifactError(f"{run.features} was made with other weights than {run.best('stage1')}: run extract_features.py again")


class PlainUnpickler(pickle.Unpickler):
    """Admits numpy arrays, numpy scalars and plain containers; any other class or function is refused before it is called."""

    NUMPY = {"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"}
    NUMPY_MODULES = {"numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric"}

    def find_class(self, module: str, name: str) -> Any:
        numpy_piece = module in self.NUMPY_MODULES and name in self.NUMPY
        if numpy_piece or (module, name) in {("_codecs", "encode"), ("collections", "OrderedDict"), ("builtins", "set")}:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def write_pickle(path: Path, content: dict) -> None:
    with atomic(path) as file:
        pickle.dump(content, file, protocol=4)


def read_pickle(path: Path) -> dict:
    """A pickled {uid: arrays or plain values}; anything that is not plain data is refused and not executed."""
    try:
        with open(require(path), "rb") as file:
            return PlainUnpickler(file).load()
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise ArtifactError(f"{path} is not a pickle of plain arrays ({error}): make it anew") from error


def write_checkpoint(path: Path, content: dict) -> None:
    """Save tensors and plain values, with the order of the labels that they were made for."""
    import torch

    with atomic(path) as file:
        try:
            torch.save({**content, "labels": list(LABELS)}, file)
        except RuntimeError as error:  # what torch makes of a full disk
            raise _unwritable(path, error) from error


def read_checkpoint(path: Path, needed: tuple[str, ...]) -> dict:
    """A checkpoint on the CPU. Refused: a broken file, code in it, other labels or another order of them, a missing key."""
    import torch

    try:
        content = torch.load(require(path), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError, AttributeError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactError(f"{path} is not a whole checkpoint of plain tensors ({reason})") from error
    missing = [key for key in ("labels", *needed) if not isinstance(content, dict) or key not in content]
    if missing:
        raise ArtifactError(f"{path} has no {missing[0]!r}: it is not what this stage reads")
    if content["labels"] != list(LABELS):
        raise ArtifactError(f"{path} was made for other labels or another order of them")
    return content


def read_joined(run: RunFolder) -> dict:
    """weights_inference.pth: weights and settings of both stages, and the `prior` of the labels (14)."""
    return read_checkpoint(run.inference, ("stage1", "stage1_settings", "stage2", "stage2_settings", "prior"))


def read_temperatures(folder: "EncoderFolder") -> np.ndarray:
    """(14,) by which the logits of series are divided, as tools/report.py fitted them."""
    found = read_json(folder.temperatures)["temperatures"]
    return np.array([found[label] for label in LABELS])


def read_trained(run: RunFolder, stage: str, select: str) -> dict:
    """{"weights", "settings", "epoch"} of a trained network: those of the best epoch, or the moving average after the last one.

    The last epoch is not chosen by its score, nor is its step, which is 1.
    """
    if select == "best":
        return read_checkpoint(run.best(stage), ("weights", "settings", "epoch"))
    state = read_checkpoint(run.last(stage), ("learner", "settings", "epoch"))
    return {"weights": state["learner"]["average"]["module"], "settings": state["settings"] | {"step": 1}, "epoch": state["epoch"]}
