"""The tables of imported series, made from the record of each."""

from pathlib import Path

import pandas as pd

from src.artifacts.files import read_json
from src.artifacts.paths import ArtifactError, DataFolder
from src.artifacts.tables import LOCALIZER_COLUMNS, write_table
from src.labels import LABELS, LOCATIONS, PRESENT
from tools.nifti.job import NEEDED, records_folder

TRAIN_COLUMNS = ("SeriesInstanceUID", "PatientID", "PatientAge", "PatientSex", "Modality", *LABELS)
SIZES = ("radius_mm", "volume_mm3")  # columns that the challenge's localizers do not have


def read_records(out: Path, set_name: str, current: set[str]) -> tuple[dict[str, dict], int]:
    """Return {UID: record} of a folder, by UID, and how many were left out.

    Of the data set `set_name`, series that are not `current` are left out.
    """
    records, gone = {}, 0
    for path in sorted(records_folder(out).glob("*.json")):
        try:
            record = read_json(path, NEEDED)
        except ArtifactError:  # it will be made again
            continue
        if record["set"] == set_name and path.stem not in current:
            gone += 1
        else:
            records[path.stem] = record
    return records, gone


def write_tables(
    out: Path,
    records: dict[str, dict],
    left_out: list[tuple[str, str]],
    failed: list[tuple[str, str, str]],
) -> None:
    """Write the challenge's two tables, one of treated aneurysms, and what became of each scan.

    Scans without annotation are in none of the three.
    """
    data = DataFolder(out)
    train, localizers, ignored, scans = [], [], [], []
    for uid, record in records.items():
        if record["annotated"]:
            train.append(_train_row(uid, record))
        for localizer in record["localizers"]:
            localizers.append(_point_row(uid, localizer))
        for aneurysm in record["treated"]:
            ignored.append(_point_row(uid, aneurysm))
        scans.append((uid, record["set"], record["scan"], "; ".join(record["notes"])))
    columns = [*LOCALIZER_COLUMNS, *SIZES]
    points = [*LOCALIZER_COLUMNS[:3], *SIZES]
    if train or data.train.exists():
        write_table(data.train, pd.DataFrame(train, columns=TRAIN_COLUMNS, dtype=object))
        write_table(data.localizers, pd.DataFrame(localizers, columns=columns, dtype=object))
    if ignored or data.ignored.exists():
        write_table(data.ignored, pd.DataFrame(ignored, columns=points, dtype=object))
    names = ["SeriesInstanceUID", "set", "scan", "notes"]
    write_table(data.root / "imported_scans.csv", pd.DataFrame(scans, columns=names))
    write_table(data.root / "left_out.csv", pd.DataFrame(left_out, columns=["scan", "reason"]))
    names = ["scan", "reason", "detail"]
    write_table(data.root / "failed_import.csv", pd.DataFrame(failed, columns=names))


def _train_row(uid: str, record: dict) -> dict:
    """Return the row of a series. Nobody says which arteries: with an aneurysm they are unknown."""
    location = None if record["present"] else 0
    labels = dict.fromkeys(LOCATIONS, location) | {LABELS[PRESENT]: record["present"]}
    return {
        "SeriesInstanceUID": uid,
        "PatientID": record["patient_id"],
        "PatientAge": record["age"],
        "PatientSex": record["sex"],
        "Modality": record["modality"],
    } | labels


def _point_row(uid: str, point: dict) -> dict:
    """Return the row of an aneurysm; nobody says which artery."""
    sizes = {name: point[name] for name in SIZES}
    coordinates = str({"x": point["x"], "y": point["y"]})
    return (
        dict(zip(LOCALIZER_COLUMNS, (uid, point["sop_uid"], coordinates, ""), strict=True)) | sizes
    )
