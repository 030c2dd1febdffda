"""The csv tables between the stages, checked as they are read."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from src.artifacts.checkpoints import ELSEWHERE
from src.artifacts.csv_cells import (
    check_not_scientific,
    check_uids,
    closest,
    lines_text,
    read_cells,
    require_columns,
)
from src.artifacts.files import atomic, read_json, reading
from src.artifacts.paths import ALL_DATA, PUT_THE_DATA, ArtifactError, DataFolder
from src.artifacts.plausible import require_plausible, require_points
from src.labels import LABELS, LOCATIONS, PRESENT
from src.script import UserError
from src.text import printable, table_cell

FILLED = ("orientation", "patient_id", "PatientID", "PatientSex")  # texts; an empty cell is ""
TEXTS = ("SeriesInstanceUID", "SOPInstanceUID", "coordinates", *FILLED)
LOCALIZER_COLUMNS = ("SeriesInstanceUID", "SOPInstanceUID", "coordinates", "location")
LONGEST = 2000  # characters of a cell that holds what does not print


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table in which no text is a formula or holds what does not print."""
    clean = table.rename(columns=_clean)
    for name in clean.select_dtypes(exclude="number"):
        cells = [_clean(cell) for cell in clean[name]]
        clean[name] = pd.Series(cells, clean.index, dtype=object)  # no cell changes its type
    with atomic(path, "w") as file:
        clean.to_csv(file, index=False)


def _clean(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    return table_cell(cell if cell.isprintable() else printable(cell, LONGEST))


def read_table(path: Path, columns: tuple[str, ...] = ()) -> pd.DataFrame:
    """Return a csv with UIDs as text; raise ArtifactError if one of the `columns` is missing."""
    with reading(path, "a csv table"):
        table = pd.read_csv(path, dtype=dict.fromkeys(TEXTS, str), encoding="utf-8-sig")
    require_columns(path, table.columns.tolist(), columns)
    return table


def read_train(data: DataFolder) -> pd.DataFrame:
    """Return train.csv: a row per series, each with its own UID and 14 labels 0, 1 or NaN.

    NaN: an empty cell, nobody knows. The other columns are texts.
    Raise ArtifactError with column and line of the first fault.
    """
    table = read_cells(data.train, ("SeriesInstanceUID", "Modality", *LABELS))
    if table.empty:
        raise ArtifactError(f"{data.train} has no rows: {PUT_THE_DATA}")
    return _checked(data.train, table).reset_index(drop=True)


def read_localizers(data: DataFolder) -> pd.DataFrame:
    """Return train_localizers.csv: a row per aneurysm, texts, and its line of the file.

    Raise ArtifactError if a spreadsheet has changed UIDs into numbers.
    """
    return _read_points(data.localizers, LOCALIZER_COLUMNS)


def read_ignored(data: DataFolder) -> pd.DataFrame:
    """Return train_ignored.csv: a row per aneurysm that is neither a target nor a negative.

    Without the file there are no rows.
    """
    columns = LOCALIZER_COLUMNS[:3]
    if not data.ignored.exists():
        return pd.DataFrame(columns=columns)
    return _read_points(data.ignored, columns)


def _read_points(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Return columns of a table of points as texts, and the line of each row."""
    table = read_cells(path, columns)[list(columns)]
    for name in ("SeriesInstanceUID", "SOPInstanceUID"):
        check_not_scientific(path, table[name])
    return table.reset_index(names="line")


def read_overrides(data: DataFolder) -> pd.DataFrame:
    """Return overrides.csv: SeriesInstanceUID, label, value (0, 1 or NaN: unknown); index: lines.

    Without the file there are no rows. Raise ArtifactError with the line of the first fault.
    """
    path, names = data.overrides, ["SeriesInstanceUID", "label", "value"]
    if not path.exists():
        return pd.DataFrame(columns=names)
    table = read_cells(path, ("label", "value")).rename(columns={"series": names[0]})
    require_columns(path, table.columns.tolist(), (names[0],))
    table = table.loc[:, ~table.columns.duplicated()][names]
    check_uids(path, table.SeriesInstanceUID)
    for line, label in table.label.items():
        if label not in LABELS:
            guess = closest(label, LABELS)
            question = f", did you mean {guess!r}?" if guess else ""
            raise ArtifactError(
                f"{path}, column 'label', line {line}: '{printable(label, 60)}' is none of the 14 "
                f"labels{question}; docs/own_data.md spells them"
            )
    repeated = table.index[table.duplicated(names[:2])]
    if len(repeated):
        raise ArtifactError(
            f"{path}, {lines_text(repeated)}: a line before is of the same series and label: "
            "delete one"
        )
    return table.assign(value=_labels(path, table.value).astype(float))


def _checked(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of series with its labels: int, or float where one is NaN. index: lines.

    Raise ArtifactError if a UID is none or is repeated, a label is not 0, 1 or empty, or
    `Aneurysm Present` contradicts the locations.
    """
    uids = table.SeriesInstanceUID.fillna("")
    check_uids(path, uids)
    for line in uids.index[uids.duplicated()]:
        first = uids.index[uids == uids[line]][0]
        raise ArtifactError(
            f"{path}, line {line}: series {uids[line]} appears twice, "
            f"first in line {first}: delete one"
        )
    for label in LABELS:
        table[label] = _labels(path, table[label].astype(object).fillna("").astype(str))
    contradicts = (table[list(LOCATIONS)] == 1).any(axis=1) & (table[LABELS[PRESENT]] == 0)
    if contradicts.any():
        raise ArtifactError(
            f"{path}, {lines_text(table.index[contradicts])}: {LABELS[PRESENT]!r} is 0, "
            "but a location is 1: correct one of them"
        )
    return table


def _labels(path: Path, cells: pd.Series) -> pd.Series:
    """Return the labels (N,) of a column of texts: int, or float where a cell is empty (NaN).

    index: lines.
    """
    labels = cells.map(_label).astype(float)
    unknown = cells == ""
    for line in labels.index[labels.isna() & ~unknown]:
        raise ArtifactError(
            f"{path}, column {cells.name!r}, line {line}: '{printable(cells[line], 40)}' is "
            "neither 0 nor 1, correct it; leave the cell empty if nobody knows"
        )
    return labels if unknown.any() else labels.astype(int)


def _label(cell: str) -> int | None:
    """Return the label of a cell such as 0, 1.0 or True; None if it is none."""
    if cell.lower() in ("true", "false"):
        return int(cell.lower() == "true")
    try:
        return int(float(cell)) if float(cell) in (0, 1) else None
    except ValueError:
        return None


def read_meta(data: DataFolder) -> pd.DataFrame:
    """Return train_meta.csv: a row per prepared series. Raise ArtifactError as read_train."""
    columns = ("SeriesInstanceUID", "length", "h", "w", "mod", "plane", "orientation", *LABELS)
    table = read_table(data.train_meta, columns)
    table.index += 2  # lines
    return _checked(data.train_meta, _fill_texts(table)).reset_index(drop=True)


def read_folds(data: DataFolder) -> pd.DataFrame:
    """Return train_{N}_folds.csv: train_meta.csv and the fold of each series."""
    columns = ("SeriesInstanceUID", "fold", "length", *LABELS)
    path = data.folds(data.fold_count())
    return require_plausible(_fill_texts(read_table(path, columns)), data, path)


def read_spots(data: DataFolder) -> pd.DataFrame:
    """Return train_stage1_{N}_folds.csv: a row per spot."""
    columns = ("SeriesInstanceUID", "location", "fold", "length", "f", "class_id", "x_512", "y_512")
    path = data.spots(data.fold_count())
    return require_points(read_table(path, columns), path)


def require_held_out(config: Any) -> None:
    """Raise UserError if a script that scores is asked for the networks of --train-on-all."""
    if config.train_on_all:
        raise UserError(
            "nothing was held out with --train-on-all, so there is nothing to score: "
            "evaluate the networks of the folds instead"
        )


def read_fold(
    data: DataFolder, fold: int | str, trained: dict | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (all series, the held-out series of the fold: none of ALL_DATA).

    Raise ArtifactError if there is no such fold, or if a network with the settings `trained`
    was trained without another fold (it knows the series that it is to judge) or on other arrays.
    """
    series = read_folds(data)
    held_out = series[series.fold == fold].reset_index(drop=True)
    if held_out.empty and fold != ALL_DATA:
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
    if trained.get("held_out") == ELSEWHERE:  # no fold of these data, no arrays either
        return
    for name, value in fold_settings(data, held_out).items():
        if trained.get(name) == value:
            continue
        if name == "held_out" and trained.get(name) == _held_out([]):
            raise ArtifactError(
                f"nothing was held out from the training of these networks, fold {fold} neither: "
                "there is nothing to score"
            )
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
    return {
        "held_out": _held_out(held_out.SeriesInstanceUID),
        "image_size": arrays["image_size"],
        "mr_window": arrays["mr_window"],
    }


def _held_out(uids: Iterable[str]) -> str:
    return hashlib.sha256(" ".join(sorted(uids)).encode()).hexdigest()


def folds_of(data: DataFolder, fold: int | str) -> list[int]:
    """Return the fold alone, or the numbers of all folds for "all"."""
    return list(range(data.fold_count())) if fold == "all" else [fold]


def remove_fold_tables(data: DataFolder) -> None:
    """Delete fold tables left from another --folds: exactly one of each kind may remain."""
    for pattern in ("train_[0-9]*_folds.csv", "train_stage1_[0-9]*_folds.csv"):
        for path in data.root.glob(pattern):
            path.unlink()


def _fill_texts(table: pd.DataFrame) -> pd.DataFrame:
    return table.fillna(dict.fromkeys(FILLED, ""))
