"""The csv tables between the stages, checked as they are read."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from src.artifacts.files import atomic, read_json
from src.artifacts.paths import PUT_THE_DATA, ArtifactError, DataFolder, checked_uid, require
from src.labels import LABELS


def write_table(path: Path, table: pd.DataFrame) -> None:
    with atomic(path, "w") as file:
        table.to_csv(file, index=False)


def read_table(path: Path, columns: tuple[str, ...] = ()) -> pd.DataFrame:
    """A csv with UIDs as text; a missing column, or no row at all, is an ArtifactError."""
    text = dict.fromkeys(
        ("SeriesInstanceUID", "SOPInstanceUID", "coordinates", "patient_id", "orientation"), str
    )
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
            raise ArtifactError(
                f"{data.train}, column {label!r}, line {line + 2}: {table[label].iloc[line]!r} is neither 0 nor 1"
            )
    repeated = table.SeriesInstanceUID.duplicated()
    if repeated.any():
        line = int(np.flatnonzero(repeated)[0])
        raise ArtifactError(
            f"{data.train}, line {line + 2}: series {table.SeriesInstanceUID.iloc[line]} stands there twice"
        )
    table.SeriesInstanceUID.map(checked_uid)
    return table.astype(dict.fromkeys(LABELS, int))


def read_meta(data: DataFolder) -> pd.DataFrame:
    """train_meta.csv: one row a prepared series; an empty orientation or patient_id is an empty text."""
    meta = read_table(
        data.train_meta,
        ("SeriesInstanceUID", "length", "h", "w", "mod", "plane", "orientation", *LABELS),
    )
    return _fill_texts(meta)


def read_folds(data: DataFolder) -> pd.DataFrame:
    """train_{N}_folds.csv: train_meta.csv with the fold of each series."""
    return _fill_texts(
        read_table(data.folds(data.fold_count()), ("SeriesInstanceUID", "fold", "length", *LABELS))
    )


def read_fold(
    data: DataFolder, fold: int, trained: dict | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(all series, those of the held-out fold). Refused where the fold was never dealt, or where a network with the settings `trained` had
    another held-out fold or other arrays: it would be judged on what it was trained on, or on what it cannot read."""
    series = read_folds(data)
    held_out = series[series.fold == fold].reset_index(drop=True)
    if held_out.empty:
        raise ArtifactError(
            f"fold {fold} is none of {data.folds(data.fold_count())}, which has 0 to {series.fold.max()}: choose another --fold"
        )
    for name, value in (fold_settings(data, held_out) if trained else {}).items():
        if trained.get(name) != value and name == "held_out":
            raise ArtifactError(
                f"fold {fold} of {data.root} is not the one that the network was trained without: the folds were dealt anew, train again"
            )
        if trained.get(name) != value:
            raise ArtifactError(
                f"the network was trained on arrays with {name} {trained.get(name)}, those of {data.sequences} have {value}: train again"
            )
    return series, held_out


def folds_of(data: DataFolder, fold: int | str) -> list[int]:
    """The fold alone, or all that create_folds.py dealt."""
    return list(range(data.fold_count())) if fold == "all" else [fold]


def fold_settings(data: DataFolder, held_out: pd.DataFrame) -> dict:
    """What a network must remember of the fold that it was not trained on, and of its arrays."""
    arrays = read_json(data.array_settings)
    uids = " ".join(sorted(held_out.SeriesInstanceUID))
    return {
        "held_out": hashlib.sha256(uids.encode()).hexdigest(),
        "image_size": arrays["image_size"],
        "mr_window": arrays["mr_window"],
    }


def read_spots(data: DataFolder) -> pd.DataFrame:
    """train_stage1_{N}_folds.csv: one row a spot."""
    return read_table(
        data.spots(data.fold_count()),
        ("SeriesInstanceUID", "location", "fold", "length", "f", "class_id", "x_512", "y_512"),
    )


def remove_fold_tables(data: DataFolder) -> None:
    """Away with the tables of an earlier number of folds, so that there is one."""
    for path in (
        *data.root.glob("train_[0-9]*_folds.csv"),
        *data.root.glob("train_stage1_[0-9]*_folds.csv"),
    ):
        path.unlink()


def _fill_texts(table: pd.DataFrame) -> pd.DataFrame:
    return table.fillna({"orientation": "", "patient_id": ""})
