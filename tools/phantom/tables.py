"""The tables of a synthetic data set, as the challenge has them, and their shuffled control."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from src.labels import LABELS, LOCATIONS, PRESENT

LOCALIZER_COLUMNS = ["SeriesInstanceUID", "SOPInstanceUID", "coordinates", "location"]
SHUFFLE = 6  # random stream, after those of tools/make_demo_data.py


@dataclass(frozen=True)
class Spot:
    """An aneurysm in a picture."""

    label: int  # index of its location
    slice: int  # of the grid
    x: float  # column of the stored matrix; pixel centres are integers
    y: float  # row


@dataclass(frozen=True)
class Record:
    """What the tables need of one series."""

    uid: str
    age: int
    sex: str
    modality: str
    shape: tuple[int, int, int]
    stored: list[tuple[str, int]]  # SOPInstanceUID and stored frame (or -1) of each grid slice
    spots: list[Spot]


def train_table(records: list[Record]) -> pd.DataFrame:
    """Return train.csv: a row per series."""
    return pd.DataFrame([_train_row(record) for record in records])


def localizer_table(records: list[Record]) -> pd.DataFrame:
    """Return train_localizers.csv: a row per aneurysm."""
    rows = []
    for record in records:
        rows += [_localizer_row(record, spot) for spot in record.spots]
    return pd.DataFrame(rows, columns=LOCALIZER_COLUMNS)


def shuffle_spots(records: list[Record], seed: int) -> list[Record]:
    """Return the series with random labels: each takes the locations of another one.

    Slices and positions, relative to the picture's size, are dealt from those of all aneurysms,
    without regard to location or series.
    """
    rng = np.random.default_rng([seed, 0, SHUFFLE])
    places = []
    for record in records:
        n, h, w = record.shape
        places += [((spot.slice + 0.5) / n, spot.y / h, spot.x / w) for spot in record.spots]
    places = iter(rng.permutation(np.array(places).reshape(-1, 3)).tolist())
    shuffled = []
    for record, donor in zip(records, rng.permutation(len(records)), strict=True):
        n, h, w = record.shape
        spots = []
        for spot in records[donor].spots:
            k, y, x = next(places)
            spots.append(Spot(spot.label, int(k * n), round(x * w, 4), round(y * h, 4)))
        shuffled.append(replace(record, spots=spots))
    return shuffled


def _train_row(record: Record) -> dict:
    found = {spot.label for spot in record.spots}
    if found:
        found.add(PRESENT)
    row = {
        "SeriesInstanceUID": record.uid,
        "PatientAge": record.age,
        "PatientSex": record.sex,
        "Modality": record.modality,
    }
    return row | {name: int(index in found) for index, name in enumerate(LABELS)}


def _localizer_row(record: Record, spot: Spot) -> tuple:
    sop_uid, frame = record.stored[spot.slice]
    coordinates = {"x": spot.x, "y": spot.y} | ({"f": frame} if frame >= 0 else {})
    return record.uid, sop_uid, str(coordinates), LOCATIONS[spot.label]
