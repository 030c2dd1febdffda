"""Make a synthetic data set in the shape of the challenge's: heads with and without aneurysms, as DICOM series of the four modalities.

    python tools/make_demo_data.py --out demo/data --series 720

Writes  {out}/series/{SeriesInstanceUID}/{SOPInstanceUID}.dcm, {out}/train.csv, {out}/train_localizers.csv and {out}/demo_settings.json.

The pictures are drawn from anatomy (tools/phantom/anatomy.py), not from patients: they show that the pipeline learns, not how well it would do
in a hospital. Nothing but the picture tells the label: anatomy, scan and noise are drawn from streams that know nothing of the aneurysms
(tools/experiments/check_leaks.py tests it). Shares of modalities, planes, multi-frame files, positives and locations are the challenge's.

--shuffle-labels writes the very same pictures with tables that tell nothing: the rows of labels change places between series; the localizers
go with them, at slices and positions drawn from those of the whole set, apart from the location. What a model then scores above 0.5 is a leak.
"""

import shutil
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from pydicom.uid import generate_uid

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.artifacts.files import read_json, write_json
from src.artifacts.tables import write_table
from src.labels import LABELS, LOCATIONS, PRESENT
from src.progress import progress
from src.script import UserError, run_script
from src.worker_pool import clean_context
from tools.phantom.anatomy import Anatomy, Aneurysm, sample_anatomy, sample_aneurysm
from tools.phantom.dicom_files import write_series
from tools.phantom.render import render_head
from tools.phantom.scan import Scan, draw_scan

SETTINGS = "demo_settings.json"
POSITIVE_SHARE, SECOND_SHARE, SAME_PATIENT_SHARE = 0.429, 0.157, 0.03
LOCATION_COUNTS = (
    81,
    101,
    343,
    287,
    225,
    304,
    376,
    47,
    58,
    89,
    105,
    114,
    117,
)  # localizers of the challenge, in the order of the labels
LOCALIZER_COLUMNS = ["SeriesInstanceUID", "SOPInstanceUID", "coordinates", "location"]
PATIENT, ANATOMY, ANEURYSM, SCAN, PICTURE, PLAN, SHUFFLE = range(7)  # streams of chance


@dataclass(frozen=True)
class Config:
    out: Path = Path("demo/data")
    series: int = 720  # series to make
    matrix: int = 96  # pixels, rows and columns of most series; 96: 115 mm, 512: 230 mm
    slices: int = 28  # slices of most series, within 15 %; 28: 72 mm, 200: 170 mm
    workers: int = 2  # processes; the files do not depend on it
    seed: int = 0
    shuffle_labels: bool = False  # the same pictures, tables that tell nothing


@dataclass(frozen=True)
class Head:
    """One series before it is rendered: all that is drawn but the picture's noise."""

    anatomy: Anatomy
    aneurysms: list[Aneurysm]
    scan: Scan
    age: int  # years
    sex: str  # Male or Female


@dataclass(frozen=True)
class Spot:
    """An aneurysm in a picture: index of its location, slice of the grid, column and row of the stored matrix (pixel centres are integers)."""

    label: int
    slice: int
    x: float
    y: float


@dataclass(frozen=True)
class Record:
    """What the tables need of one series. `stored`: SOPInstanceUID and stored frame (-1 in files of one slice) of each slice of the grid."""

    uid: str
    age: int
    sex: str
    modality: str
    shape: tuple[int, int, int]
    stored: list[tuple[str, int]]
    spots: list[Spot]


def main(config: Config) -> None:
    if not prepare_folder(config):
        return
    locations = plan_locations(config.series, config.seed)
    records = make_all(config, locations)
    write_tables(config, shuffle_spots(records, config.seed) if config.shuffle_labels else records)
    positive = sum(bool(record.spots) for record in records)
    print(
        f"{config.out}: {len(records)} series, {positive} with an aneurysm"
        + (", labels shuffled" if config.shuffle_labels else "")
    )


def make_all(config: Config, locations: list[list[int]]) -> list[Record]:
    """All series, in parallel; the first error ends the run."""
    with ProcessPoolExecutor(
        config.workers, clean_context(__name__), cv2.setNumThreads, (1,)
    ) as pool:
        jobs = [
            pool.submit(make_series, config, index, locations[index])
            for index in range(config.series)
        ]
        try:
            for job in progress(as_completed(jobs), "demo series", "series", total=len(jobs)):
                job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [job.result() for job in jobs]


def prepare_folder(config: Config) -> bool:
    """Whether there is anything to do. What an interrupted run left is removed; what this script did not make is never touched."""
    path, settings = config.out / SETTINGS, _settings(config)
    if not path.exists():
        if config.out.exists() and any(config.out.iterdir()):
            raise UserError(
                f"{config.out} holds files that this script did not make: choose another --out."
            )
    else:
        found = read_json(path)
        finished = found.pop("finished")
        if finished and found == settings:
            print(f"{config.out} is there already, made with the same settings: nothing to do.")
            return False
        if finished:
            raise UserError(
                f"{config.out} was made with other settings ({found}): remove it or choose another --out."
            )
        shutil.rmtree(config.out / "series", ignore_errors=True)
    config.out.mkdir(parents=True, exist_ok=True)
    write_json(path, settings | {"finished": False})
    return True


def same_patient(series: int, seed: int) -> np.ndarray:
    """Index of the first series of each series' patient, (series,): its own, or the one before for a second series of one patient."""
    again = np.random.default_rng([seed, 0, PATIENT]).random(series) < SAME_PATIENT_SHARE
    return np.array(
        [i - 1 if i and again[i] and not again[i - 1] else i for i in range(series)], int
    )


def plan_locations(series: int, seed: int) -> list[list[int]]:
    """Indices of the locations of each series' aneurysms: positives, second aneurysms and locations dealt in the challenge's shares."""
    rng = np.random.default_rng([seed, 0, PLAN])
    first = same_patient(series, seed)
    patients = np.unique(first)
    positive = round(POSITIVE_SHARE * len(patients))
    deck = rng.permutation(
        np.repeat(
            np.arange(PRESENT), deal(positive + round(SECOND_SHARE * positive), LOCATION_COUNTS)
        )
    )
    hands = [[int(location)] for location in deck[:positive]]
    for location in deck[positive:]:
        hand = next((hand for hand in hands if len(hand) == 1 and hand[0] != location), None)
        if hand is not None:
            hand.append(int(location))
    dealt = dict(zip(rng.permutation(patients).tolist(), hands, strict=False))
    return [dealt.get(int(patient), []) for patient in first]


def deal(total: int, shares: tuple[int, ...]) -> np.ndarray:
    """Whole numbers in proportion to `shares` that add up to `total` (largest remainders)."""
    quota = np.array(shares) / sum(shares) * total
    counts = np.floor(quota).astype(int)
    counts[np.argsort(counts - quota, kind="stable")[: total - counts.sum()]] += 1
    return counts


def draw_head(config: Config, index: int, locations: list[int]) -> Head:
    """Everything about series `index` but its picture. Only the aneurysms know the locations."""
    patient = same_patient(config.series, config.seed)[index]
    anatomy_rng, aneurysm_rng = (
        np.random.default_rng([config.seed, patient, stream]) for stream in (ANATOMY, ANEURYSM)
    )
    age, sex = (
        int(np.clip(anatomy_rng.normal(58, 14), 18, 89)),
        "Female" if anatomy_rng.random() < 0.65 else "Male",
    )
    anatomy = sample_anatomy(anatomy_rng)
    aneurysms = [sample_aneurysm(aneurysm_rng, anatomy, location) for location in locations]
    scan = draw_scan(
        np.random.default_rng([config.seed, index, SCAN]), anatomy, config.matrix, config.slices
    )
    return Head(anatomy, aneurysms, scan, age, sex)


def render(config: Config, index: int, head: Head) -> np.ndarray:
    """The picture of series `index`, float32 (n, h, w), in the order of the grid."""
    rng = np.random.default_rng([config.seed, index, PICTURE])
    return render_head(
        rng, head.anatomy, head.aneurysms, head.scan.grid, head.scan.pose, head.scan.modality
    )


def make_series(config: Config, index: int, locations: list[int]) -> Record:
    """Draw, render and write series `index`."""
    head = draw_head(config, index, locations)
    name, patient = (
        f"demo {config.seed} {index}",
        f"demo {config.seed} {same_patient(config.series, config.seed)[index]}",
    )
    header = {
        tag: generate_uid(entropy_srcs=[name, tag])
        for tag in ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
    }
    header |= {
        "PatientID": generate_uid(entropy_srcs=[patient, "patient"])[-10:],
        "PatientAge": f"{head.age:03d}Y",
        "PatientSex": head.sex[0],
    }
    uid = header["SeriesInstanceUID"]
    stored = write_series(
        config.out / "series" / uid, render(config, index, head), head.scan, header, name
    )
    return Record(
        uid, head.age, head.sex, head.scan.modality, head.scan.grid.shape, stored, locate(head)
    )


def locate(head: Head) -> list[Spot]:
    """The domes' centres in the picture, in the nearest slice."""
    if not head.aneurysms:
        return []
    centres = np.array([aneurysm.centre for aneurysm in head.aneurysms])
    index = head.scan.grid.to_index(head.scan.pose.to_patient(centres))  # (aneurysms, 3)
    return [
        Spot(a.label, round(k), round(x, 4), round(y, 4))
        for a, (k, y, x) in zip(head.aneurysms, index.tolist(), strict=True)
    ]


def shuffle_spots(records: list[Record], seed: int) -> list[Record]:
    """The same series with labels that tell nothing: each takes the locations of another one; slices and positions, relative to the picture's
    size, are dealt anew from those of all aneurysms, without regard to location or series."""
    rng = np.random.default_rng([seed, 0, SHUFFLE])
    places = [
        ((spot.slice + 0.5) / r.shape[0], spot.y / r.shape[1], spot.x / r.shape[2])
        for r in records
        for spot in r.spots
    ]
    places = iter(rng.permutation(np.array(places).reshape(-1, 3)).tolist())
    shuffled = []
    for record, donor in zip(records, rng.permutation(len(records)), strict=True):
        n, h, w = record.shape
        drawn = [(spot.label, next(places)) for spot in records[donor].spots]
        spots = [
            Spot(label, int(k * n), round(x * w, 4), round(y * h, 4)) for label, (k, y, x) in drawn
        ]
        shuffled.append(replace(record, spots=spots))
    return shuffled


def write_tables(config: Config, records: list[Record]) -> None:
    """train.csv and train_localizers.csv, ordered by UID; the settings last, as the sign that the set is whole."""
    records = sorted(records, key=lambda record: record.uid)
    train = pd.DataFrame([_train_row(record) for record in records])
    localizers = [_localizer_row(record, spot) for record in records for spot in record.spots]
    write_table(config.out / "train.csv", train)
    write_table(
        config.out / "train_localizers.csv", pd.DataFrame(localizers, columns=LOCALIZER_COLUMNS)
    )
    write_json(config.out / SETTINGS, _settings(config) | {"finished": True})


def _train_row(record: Record) -> dict:
    found = {spot.label for spot in record.spots} | ({PRESENT} if record.spots else set())
    about = {
        "SeriesInstanceUID": record.uid,
        "PatientAge": record.age,
        "PatientSex": record.sex,
        "Modality": record.modality,
    }
    return about | {name: int(k in found) for k, name in enumerate(LABELS)}


def _localizer_row(record: Record, spot: Spot) -> tuple:
    sop_uid, frame = record.stored[spot.slice]
    coordinates = {"x": spot.x, "y": spot.y} | ({"f": frame} if frame >= 0 else {})
    return record.uid, sop_uid, str(coordinates), LOCATIONS[spot.label]


def _settings(config: Config) -> dict:
    """What the files depend on."""
    return {name: value for name, value in asdict(config).items() if name not in ("out", "workers")}


if __name__ == "__main__":
    run_script(main, Config, __doc__)
