"""Measure how well the findings of tools/predict.py are placed, against the localizers.

Held-out series, straight from DICOM, each by the network that never saw it.

Reads   data/series/, train_{N}_folds.csv
        data/train_stage1_{N}_folds.csv   the localizers that point into the series
        data/train_localizers.csv         their sizes, where it has them
        data/train_ignored.csv            if it exists: treated aneurysms, neither hit nor missed,
                                          and no finding on them is false
        model/{encoder}/fold-{k}/weights_inference.pth (train_stage2.py)

Writes  model/{encoder}/localisation.json       for tools/report.py
        model/{encoder}/fold-{k}/findings.csv   one row a finding: its series, its rank, its
                                                distances to the nearest aneurysm, mm to the
                                                left of the middle, its slice, column and
                                                row of the stored image; tools/score.py reads it,
                                                too

A finding hits an aneurysm that is within 10 mm of it in three dimensions, and, where the localizers
have radius_mm or volume_mm3, by a second rule within the aneurysm's own radius. FROC: the fraction
of the aneurysms that are hit, at the threshold that gives a stated number of findings a series
that hit none (Bunch et al. 1978), with 95 % intervals by patient. A finding is on the wrong side if
its location names the other side of the middle than the one that it is on, by over 10 mm. The
middle is that of the view, or of a sagittal stack, by which findings are named, too: whether it is
that of the head shows where findings are compared with the sides of the aneurysms themselves.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.artifacts.csv_cells import read_cells
from src.artifacts.files import write_json
from src.artifacts.paths import ArtifactError, DataFolder, EncoderFolder, RunFolder
from src.artifacts.provenance import weights_of, write_predictions
from src.artifacts.tables import LOCALIZER_COLUMNS, folds_of, read_fold, read_spots
from src.device import choose_device
from src.dicom import Series, open_series
from src.evaluation.choice import Choice
from src.inference.ensemble import Prediction, Predictor
from src.inference.findings import Finding, FindingRules, stored_place
from src.inference.sources import chosen_pairs
from src.labels import LABELS, NOTHING, PRESENT
from src.preprocess.images import PreparedSeries
from src.progress import in_thread, progress
from src.script import UserError, run_script
from src.worker_pool import Failure, attempt
from tools.scoring.localisation import summary
from tools.scoring.points import PLACE, NoPlace, index_of, radii_of, read_aneurysms
from tools.scoring.points import image_point as place

FOUND_COLUMNS = [
    "SeriesInstanceUID",
    "rank",
    "probability",
    "label",
    "mm_left",
    "location",
    "mm",
    "mm_along",
    "mm_in_plane",
    "slice",
    "SOPInstanceUID",
    "frame",
    "column",
    "row",
]


@dataclass
class Config:
    data_dir: Path = Path("data")  # series/, tables and folds
    model_dir: Path = Path("model")  # trained networks
    encoder: str = "convnext_base.dinov3_lvd1689m"  # the one that was trained
    fold: int | Literal["all"] = 0  # held out
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...
    batch_size: int = 128  # slices per batch

    threshold: float = 0.02  # lowest probability of a finding; low, for the whole curve
    peaks: int = 3  # highest local maxima of a slice's heatmap that are looked at
    reach: float = 12.0  # mm within which peaks are one finding


def main(config: Config) -> pd.DataFrame:
    data = DataFolder(config.data_dir)
    folds = folds_of(data, config.fold)
    runs = {fold: RunFolder(config.model_dir, config.encoder, fold) for fold in folds}
    weights = {fold: weights_of(run, "end_to_end") for fold, run in runs.items()}
    chosen = chosen_pairs(config.model_dir, config.encoder, folds)
    judged = [judge_fold(config, data, fold, chosen[fold].pair) for fold in folds]
    tables = [pd.concat(parts, ignore_index=True) for parts in zip(*judged, strict=True)]
    found = tables[0]
    if found.empty:
        raise UserError(
            f"no finding of {config.threshold:g} or more in any series: lower --threshold, train "
            "longer, or with the heatmap, or take an encoder with class activation maps"
        )
    folds = {"name": "held-out folds", "value": str(config.fold)}
    rows = [folds, *summary(*tables)]
    run = RunFolder(config.model_dir, config.encoder, config.fold)
    write_predictions(run.findings, found[FOUND_COLUMNS], weights)
    write_json(EncoderFolder(config.model_dir, config.encoder).localisation, {"rows": rows})
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        print(f"{row['name']:<{width}} {row['value']}")
    return found


def judge_fold(
    config: Config, data: DataFolder, fold: int, pair: Choice
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Judge the held-out series of a fold.

    Return all findings with their distance to the nearest aneurysm; the series and whether they
    could be read; the aneurysms, those that are ignored. All but the series have PLACE in mm.
    """
    device = choose_device(config.device)
    predictor = Predictor(config.model_dir, config.encoder, (fold,), device, pair=pair)
    rules = FindingRules(config.threshold, config.peaks, config.reach)
    _, held_out = read_fold(data, fold, predictor.settings)
    spots = read_spots(data)
    spots["radius"] = radii_of_spots(data, spots)
    positives = spots[spots.location != NOTHING].groupby("SeriesInstanceUID")

    def prepared(uid: str) -> PreparedSeries:
        return predictor.prepare(open_series(data.series(uid)))

    ignored = read_aneurysms(data.ignored) if data.ignored.exists() else None
    found, series, aneurysms, passed = [], [], [], []
    outcomes = in_thread(lambda uid: (uid, attempt(prepared, uid)), held_out.SeriesInstanceUID)
    for uid, outcome in progress(outcomes, f"fold {fold}", " series", total=len(held_out)):
        read = not isinstance(outcome, Failure)  # eval_end_to_end.py says why not
        series.append({"SeriesInstanceUID": uid, "read": read})
        if read:
            truth = positives.get_group(uid) if uid in positives.groups else spots[:0]
            prediction = predictor.explain(outcome, config.batch_size, rules)
            rows, true = judge_series(uid, outcome.series, prediction.findings, truth)
            lefts = mm_left(outcome.series, prediction)
            found += [row | {"mm_left": left} for row, left in zip(rows, lefts, strict=True)]
            aneurysms += true
            if ignored is not None:
                passed += ignored_places(data, uid, outcome.series, ignored)
    known = held_out.columns.intersection(["SeriesInstanceUID", "patient_id", LABELS[PRESENT]])
    return (
        pd.DataFrame(found, columns=[*FOUND_COLUMNS, *PLACE]),
        pd.DataFrame(series).merge(held_out[known]),
        pd.DataFrame(aneurysms, columns=["SeriesInstanceUID", "location", *PLACE, "radius"]),
        pd.DataFrame(passed, columns=["SeriesInstanceUID", *PLACE, "radius"]),
    )


def mm_left(series: Series, prediction: Prediction) -> list[float]:
    """Return how far to the patient's left of the middle each finding is, in mm.

    The middle is the centre of the view on the finding's slice, in sagittal series that of the
    middle slice. NaN where the series has no place in the patient.
    """
    centre = (prediction.view.crop - 1) / 2  # pixels of the crop
    column, row = stored_place(series, centre, centre, prediction.view)
    per_slice = series.plane != "sagittal"
    found = []
    for finding in prediction.findings:
        ends = (finding.slice,) if per_slice else (0, len(series.slices) - 1)
        middles = [series.patient_point(each, column, row) for each in ends]
        known = finding.patient is not None and None not in middles
        found.append(finding.patient[0] - np.mean([x for x, _, _ in middles]) if known else np.nan)
    return found


def ignored_places(data: DataFolder, uid: str, series: Series, ignored: pd.DataFrame) -> list[dict]:
    """Return one row an aneurysm of a series that does not count. ignored: those of all series."""
    rows = []
    for point in ignored[ignored.SeriesInstanceUID == uid].to_dict("records"):
        try:
            at = place(series, index_of(series, point), point["column"], point["row"])
        except NoPlace as error:
            raise ArtifactError(f"{data.ignored}, series {uid}: {error}, correct it") from error
        row = {"SeriesInstanceUID": uid, "radius": point["radius"]}
        rows.append(row | dict(zip(PLACE, at, strict=True)))
    return rows


def radii_of_spots(data: DataFolder, spots: pd.DataFrame) -> pd.Series:
    """Return the radius of each spot in mm; NaN where its localizer tells none."""
    cells = read_cells(data.localizers, LOCALIZER_COLUMNS)
    keys = ["SeriesInstanceUID", "SOPInstanceUID", "coordinates"]
    radii = cells[keys].assign(radius=radii_of(data.localizers, cells)).drop_duplicates(keys)
    return spots[keys].merge(radii, how="left", on=keys).radius.set_axis(spots.index)


def judge_series(
    uid: str, series: Series, findings: list[Finding], truth: pd.DataFrame
) -> tuple[list[dict], list[dict]]:
    """Return one row a finding, and one an aneurysm.

    truth: the rows of the series in train_stage1_{N}_folds.csv that are aneurysms, with radius.
    """
    aneurysms = [
        (row.location, place(series, int(row.f), row.x, row.y)) for row in truth.itertuples()
    ]
    rows = []
    for rank, finding in enumerate(findings):
        at = place(series, finding.slice, finding.x, finding.y)
        row = finding_row(uid, rank, finding, at, aneurysms)
        rows.append(row | dict(zip(PLACE, at, strict=True)))
    true = [
        {"SeriesInstanceUID": uid, "location": location, "radius": radius}
        | dict(zip(PLACE, point, strict=True))
        for (location, point), radius in zip(aneurysms, truth.radius, strict=True)
    ]
    return rows, true


def finding_row(
    uid: str, rank: int, finding: Finding, at: np.ndarray, truth: list[tuple[str, np.ndarray]]
) -> dict:
    """Return a finding at a place (3,) mm, and the aneurysm of its series that is nearest.

    truth: location and place (3,) mm of each aneurysm of the series.
    """
    row = {
        "SeriesInstanceUID": uid,
        "rank": rank,
        "probability": finding.probability,
        "label": finding.label,
        "location": "",
        "mm": np.inf,
        "slice": finding.slice,
        "SOPInstanceUID": finding.sop_uid,
        "frame": finding.frame,
        "column": finding.x,
        "row": finding.y,
    }
    if not truth:
        return row
    location, point = min(truth, key=lambda aneurysm: np.linalg.norm(at - aneurysm[1]))
    across, down, along = at - point
    return row | {
        "location": location,
        "mm": float(np.linalg.norm(at - point)),
        "mm_along": abs(along),
        "mm_in_plane": float(np.hypot(across, down)),
    }


if __name__ == "__main__":
    run_script(main, Config, __doc__, interrupted="run it again")
