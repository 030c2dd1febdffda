"""Make a synthetic data set in the challenge's shape: heads with and without aneurysms, as DICOM.

    python tools/make_demo_data.py --out demo/data --series 720

Writes  {out}/series/{SeriesInstanceUID}/{SOPInstanceUID}.dcm
        {out}/train.csv
        {out}/train_localizers.csv
        {out}/demo_settings.json

Notes
  - The pictures are drawn from anatomy (tools/phantom/anatomy.py), not from patients: they show
    that the pipeline learns, not how well it would do in a hospital.
  - Only the picture gives the label away: anatomy, scan and noise are drawn from streams that
    know nothing of the aneurysms (tools/experiments/check_leaks.py tests it).
  - Modalities, planes, multi-frame files, positives and locations are as frequent as in the
    challenge.
  - --shuffle-labels writes the same pictures with random tables: rows of labels change places
    between series, and localizers go with them, at slices and positions drawn from those of the
    whole set. What a model then scores above 0.5 is a leak.
"""

import shutil
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from pydicom.uid import generate_uid

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.artifacts.files import read_json, write_json
from src.artifacts.tables import write_table
from src.labels import PRESENT
from src.progress import progress
from src.script import UserError, run_script
from src.worker_pool import clean_context
from tools.phantom.anatomy import Anatomy, Aneurysm, sample_anatomy, sample_aneurysm
from tools.phantom.body import Body, sample_body
from tools.phantom.dicom_files import write_series
from tools.phantom.render import render_head
from tools.phantom.scan import Scan, draw_scan
from tools.phantom.tables import Record, Spot, localizer_table, shuffle_spots, train_table

SETTINGS = "demo_settings.json"
POSITIVE_FRACTION, SECOND_FRACTION, SAME_PATIENT_FRACTION = 0.429, 0.157, 0.03
# Localizers of the challenge, in the order of the labels.
LOCATION_COUNTS = (81, 101, 343, 287, 225, 304, 376, 47, 58, 89, 105, 114, 117)
PATIENT, ANATOMY, ANEURYSM, SCAN, PICTURE, PLAN = range(6)  # random streams


@dataclass(frozen=True)
class Config:
    out: Path = Path("demo/data")  # folder to make; must be empty or made by this script
    series: int = 720  # series to make
    matrix: int = 96  # pixels, rows and columns of most series; 96: 115 mm, 512: 230 mm
    slices: int = 28  # slices of most series, within 15 %; 28: 72 mm, 200: 170 mm
    whole_heads: bool = False  # real fields and slices, with neck; matrix then stands for 512
    workers: int = 2  # processes; the files do not depend on it
    seed: int = 0  # another seed makes other heads
    shuffle_labels: bool = False  # the same pictures, random tables


@dataclass(frozen=True)
class Head:
    """One series before it is rendered: everything random but the picture's noise."""

    anatomy: Anatomy
    aneurysms: list[Aneurysm]
    scan: Scan
    body: Body | None
    age: int  # years
    sex: str  # Male or Female


def main(config: Config) -> None:
    if not prepare_folder(config):
        return
    locations = plan_locations(config.series, config.seed)
    records = make_all(config, locations)
    write_tables(config, shuffle_spots(records, config.seed) if config.shuffle_labels else records)
    positive = sum(bool(record.spots) for record in records)
    note = ", labels shuffled" if config.shuffle_labels else ""
    print(f"{config.out}: {len(records)} series, {positive} with an aneurysm{note}")


def make_all(config: Config, locations: list[list[int]]) -> list[Record]:
    """Make all series in parallel; the first error ends the run."""
    context = clean_context(__name__)
    with ProcessPoolExecutor(config.workers, context, cv2.setNumThreads, (1,)) as pool:
        jobs = [pool.submit(make_series, config, *job) for job in enumerate(locations)]
        try:
            for job in progress(as_completed(jobs), "demo series", "series", total=len(jobs)):
                job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [job.result() for job in jobs]


def prepare_folder(config: Config) -> bool:
    """Return whether there is anything to do; delete what an interrupted run left.

    Raise UserError if the folder holds files that this script did not make, or made otherwise.
    """
    path, settings = config.out / SETTINGS, _settings(config)
    if path.exists():
        found = read_json(path)
        finished = found.pop("finished")
        found.setdefault("whole_heads", False)  # a set that was made before there was a choice
        if finished and found == settings:
            print(f"{config.out} is there already, made with the same settings: nothing to do.")
            return False
        if finished:
            raise UserError(
                f"{config.out} was made with other settings ({found}): "
                "remove it or choose another --out."
            )
        shutil.rmtree(config.out / "series", ignore_errors=True)
    elif config.out.exists() and any(config.out.iterdir()):
        raise UserError(
            f"{config.out} holds files that this script did not make: choose another --out."
        )
    config.out.mkdir(parents=True, exist_ok=True)
    write_json(path, settings | {"finished": False})
    return True


def same_patient(series: int, seed: int) -> np.ndarray:
    """Return the index of the first series of each series' patient, (series,).

    It is the series itself, or the one before for a second series of one patient.
    """
    again = np.random.default_rng([seed, 0, PATIENT]).random(series) < SAME_PATIENT_FRACTION
    again = np.concatenate([[False], again])  # one more, before the first series
    second = again[1:] & ~again[:-1]
    second[:1] = False
    return np.arange(series) - second


def plan_locations(series: int, seed: int) -> list[list[int]]:
    """Return the locations of each series' aneurysms, as frequent as in the challenge."""
    rng = np.random.default_rng([seed, 0, PLAN])
    first = same_patient(series, seed)
    patients = np.unique(first)
    positive = round(POSITIVE_FRACTION * len(patients))
    counts = deal(positive + round(SECOND_FRACTION * positive), LOCATION_COUNTS)
    deck = rng.permutation(np.repeat(np.arange(PRESENT), counts)).tolist()
    hands = [[location] for location in deck[:positive]]
    for location in deck[positive:]:
        for hand in hands:
            if len(hand) == 1 and hand[0] != location:
                hand.append(location)
                break
    dealt = dict(zip(rng.permutation(patients).tolist(), hands, strict=False))
    return [dealt.get(patient, []) for patient in first.tolist()]


def deal(total: int, weights: tuple[int, ...]) -> np.ndarray:
    """Return integers in proportion to `weights` that add up to `total` (largest remainders)."""
    quota = np.array(weights) / sum(weights) * total
    counts = np.floor(quota).astype(int)
    counts[np.argsort(counts - quota, kind="stable")[: total - counts.sum()]] += 1
    return counts


def draw_head(config: Config, index: int, locations: list[int]) -> Head:
    """Draw everything about series `index` but its picture; only aneurysms use the locations."""
    patient = same_patient(config.series, config.seed)[index]
    rng = np.random.default_rng([config.seed, patient, ANATOMY])
    aneurysm_rng = np.random.default_rng([config.seed, patient, ANEURYSM])
    scan_rng = np.random.default_rng([config.seed, index, SCAN])
    age = int(np.clip(rng.normal(58, 14), 18, 89))
    sex = "Female" if rng.random() < 0.65 else "Male"
    anatomy = sample_anatomy(rng)
    aneurysms = [sample_aneurysm(aneurysm_rng, anatomy, location) for location in locations]
    scan = draw_scan(scan_rng, anatomy, config.matrix, config.slices, config.whole_heads)
    body = sample_body(scan_rng, anatomy) if config.whole_heads else None
    return Head(anatomy, aneurysms, scan, body, age, sex)


def render(config: Config, index: int, head: Head) -> np.ndarray:
    """Return the picture of series `index`, float32 (n, h, w), in the order of the grid."""
    rng = np.random.default_rng([config.seed, index, PICTURE])
    scan = head.scan
    return render_head(
        rng, head.anatomy, head.aneurysms, scan.grid, scan.pose, scan.modality, head.body
    )


def series_uid(config: Config, index: int) -> str:
    """Return the SeriesInstanceUID of series `index`."""
    return generate_uid(entropy_srcs=[f"demo {config.seed} {index}", "SeriesInstanceUID"])


def make_series(config: Config, index: int, locations: list[int]) -> Record:
    """Draw, render and write series `index`."""
    head = draw_head(config, index, locations)
    scan = head.scan
    name = f"demo {config.seed} {index}"
    patient = f"demo {config.seed} {same_patient(config.series, config.seed)[index]}"
    tags = ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
    header = {tag: generate_uid(entropy_srcs=[name, tag]) for tag in tags}
    header["PatientID"] = generate_uid(entropy_srcs=[patient, "patient"])[-10:]
    header["PatientAge"] = f"{head.age:03d}Y"
    header["PatientSex"] = head.sex[0]
    uid = header["SeriesInstanceUID"]
    image = render(config, index, head)
    stored = write_series(config.out / "series" / uid, image, scan, header, name)
    return Record(uid, head.age, head.sex, scan.modality, scan.grid.shape, stored, locate(head))


def locate(head: Head) -> list[Spot]:
    """Return the domes' centres in the picture, in the nearest slice."""
    spots = []
    for aneurysm in head.aneurysms:
        patient = head.scan.pose.to_patient(aneurysm.centre[None])
        k, y, x = head.scan.grid.to_index(patient)[0].tolist()
        spots.append(Spot(aneurysm.label, round(k), round(x, 4), round(y, 4)))
    return spots


def write_tables(config: Config, records: list[Record]) -> None:
    """Write both tables, ordered by UID, then the settings: the sign that the set is whole."""
    records = sorted(records, key=lambda record: record.uid)
    write_table(config.out / "train.csv", train_table(records))
    write_table(config.out / "train_localizers.csv", localizer_table(records))
    write_json(config.out / SETTINGS, _settings(config) | {"finished": True})


def _settings(config: Config) -> dict:
    """Return what the files depend on."""
    return {name: value for name, value in asdict(config).items() if name not in ("out", "workers")}


if __name__ == "__main__":
    run_script(main, Config, __doc__, interrupted="run it again")
