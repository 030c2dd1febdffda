"""The csv tables between the stages, checked as they are read."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from src.artifacts.files import atomic, read_json, reading
from src.artifacts.paths import PUT_THE_DATA, ArtifactError, DataFolder, checked_uid
from src.labels import LABELS

TEXTS = ("SeriesInstanceUID", "SOPInstanceUID", "coordinates", "patient_id", "orientation")


def write_table(path: Path, table: pd.DataFrame) -> None:
    with atomic(path, "w") as file:
        table.to_csv(file, index=False)


def read_table(path: Path, columns: tuple[str, ...] = ()) -> pd.DataFrame:
    """Return a csv with UIDs as text; raise ArtifactError if one of the `columns` is missing."""
    with reading(path, "a csv table", PUT_THE_DATA):
        table = pd.read_csv(path, dtype=dict.fromkeys(TEXTS, str), encoding="utf-8-sig")
    for name in columns:
        if name not in table.columns:
            raise ArtifactError(f"{path} has no column {name!r}: it needs {', '.join(columns)}")
    return table


def read_train(data: DataFolder) -> pd.DataFrame:
    """Return train.csv: a row per series, each with its own UID and all 14 labels 0 or 1.

    Raise ArtifactError with column and line of the first fault.
    """
    table = read_table(data.train, ("SeriesInstanceUID", "Modality", *LABELS))
    if table.empty:
        raise ArtifactError(f"{data.train} has no rows: {PUT_THE_DATA}")
    for label in LABELS:
        row = _first_row(~table[label].isin([0, 1]))
        if row is not None:
            raise ArtifactError(
                f"{data.train}, column {label!r}, line {row + 2}: "
                f"{table[label].iloc[row]!r} is neither 0 nor 1"
            )
    row = _first_row(table.SeriesInstanceUID.duplicated())
    if row is not None:
        uid = table.SeriesInstanceUID.iloc[row]
        raise ArtifactError(f"{data.train}, line {row + 2}: series {uid} appears twice")
    table.SeriesInstanceUID.map(checked_uid)
    return table.astype(dict.fromkeys(LABELS, int))


def read_meta(data: DataFolder) -> pd.DataFrame:
    """Return train_meta.csv: a row per prepared series."""
    columns = ("SeriesInstanceUID", "length", "h", "w", "mod", "plane", "orientation", *LABELS)
    return _fill_texts(read_table(data.train_meta, columns))


def read_folds(data: DataFolder) -> pd.DataFrame:
    """Return train_{N}_folds.csv: train_meta.csv and the fold of each series."""
    columns = ("SeriesInstanceUID", "fold", "length", *LABELS)
    return _fill_texts(read_table(data.folds(data.fold_count()), columns))


def read_spots(data: DataFolder) -> pd.DataFrame:
    """Return train_stage1_{N}_folds.csv: a row per spot."""
    columns = ("SeriesInstanceUID", "location", "fold", "length", "f", "class_id", "x_512", "y_512")
    return read_table(data.spots(data.fold_count()), columns)


def read_fold(
    data: DataFolder, fold: int, trained: dict | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (all series, the held-out series of the fold).

    Raise ArtifactError if there is no such fold, or if a network with the settings `trained`
    was trained without another fold (it knows the series that it is to judge) or on other arrays.
    """
    series = read_folds(data)
    held_out = series[series.fold == fold].reset_index(drop=True)
    if held_out.empty:
        raise ArtifactError(
            f"fold {fold} is none of {data.folds(data.fold_count())}, "
            f"which has 0 to {series.fold.max()}: choose another --fold"
        )
    if trained:
        _require_trained_without(data, fold, held_out, trained)
    return series, held_out


def _require_trained_without(
    data: DataFolder, fold: int, held_out: pd.DataFrame, trained: dict
) -> None:
    for name, value in fold_settings(data, held_out).items():
        if trained.get(name) == value:
            continue
        if name == "held_out":
            raise ArtifactError(
                f"fold {fold} of {data.root} is not the one that the network was trained without: "
                "the folds have changed, train again"
            )
        raise ArtifactError(
            f"the network was trained on arrays with {name} {trained.get(name)}, "
            f"those of {data.sequences} have {value}: train again"
        )


def fold_settings(data: DataFolder, held_out: pd.DataFrame) -> dict:
    """Return what a network must remember of its held-out fold and its arrays."""
    arrays = read_json(data.array_settings, {"image_size": int, "mr_window": str})
    uids = " ".join(sorted(held_out.SeriesInstanceUID))
    return {
        "held_out": hashlib.sha256(uids.encode()).hexdigest(),
        "image_size": arrays["image_size"],
        "mr_window": arrays["mr_window"],
    }


def folds_of(data: DataFolder, fold: int | str) -> list[int]:
    """Return the fold alone, or the numbers of all folds for "all"."""
    return list(range(data.fold_count())) if fold == "all" else [fold]


def remove_fold_tables(data: DataFolder) -> None:
    """Delete fold tables left from another --folds: exactly one of each kind may remain."""
    for pattern in ("train_[0-9]*_folds.csv", "train_stage1_[0-9]*_folds.csv"):
        for path in data.root.glob(pattern):
            path.unlink()


def _first_row(wrong: pd.Series) -> int | None:
    """Return the number of the first row that is True, None if there is none."""
    return int(np.flatnonzero(wrong)[0]) if wrong.any() else None


def _fill_texts(table: pd.DataFrame) -> pd.DataFrame:
    """Read an empty orientation or patient_id as an empty text, not as NaN."""
    return table.fillna({"orientation": "", "patient_id": ""})
