"""Measure how well the findings of tools/predict.py are placed, against the localizers.

Held-out series, straight from DICOM, each by the network that never saw it.

Reads   data/series/, train_{N}_folds.csv
        data/train_stage1_{N}_folds.csv   the localizers that point into the series
        model/{encoder}/fold-{k}/weights_inference.pth (train_stage2.py)

Writes  model/{encoder}/localisation.json       for tools/report.py
        model/{encoder}/fold-{k}/findings.csv   one row a finding: its series, its rank, and
                                                its distances to the nearest aneurysm

A finding hits an aneurysm that lies within 10 mm of it in three dimensions. FROC: the fraction
of the aneurysms that are hit, at the threshold that gives a stated number of findings a series
that hit none (Bunch et al. 1978).
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.artifacts.files import write_json
from src.artifacts.paths import DataFolder, EncoderFolder, RunFolder
from src.artifacts.tables import folds_of, read_fold, read_spots, write_table
from src.device import choose_device
from src.dicom import Series, open_series
from src.evaluation.choice import Choice
from src.inference.ensemble import Predictor, chosen_pairs
from src.inference.findings import Finding, FindingRules
from src.labels import NOTHING, SOMEWHERE
from src.preprocess.images import PreparedSeries
from src.progress import in_thread, progress
from src.sampling.slices import spacing_or_default
from src.script import UserError, run_script
from src.worker_pool import Failure, attempt

HIT = 10.0  # mm
FALSE_POSITIVES = (0.25, 0.5, 1.0, 2.0)  # a series
FOUND_COLUMNS = [
    "SeriesInstanceUID",
    "rank",
    "probability",
    "label",
    "location",
    "mm",
    "mm_along",
    "mm_in_plane",
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
    chosen = chosen_pairs(config.model_dir, config.encoder, folds)
    judged = [judge_fold(config, data, fold, chosen[fold].pair) for fold in folds]
    found, series, aneurysms = (
        pd.concat(parts, ignore_index=True) for parts in zip(*judged, strict=True)
    )
    if found.empty:
        raise UserError(
            "no finding in any series: train with the heatmap, "
            "or take an encoder with class activation maps"
        )
    folds = {"name": "held-out folds", "value": str(config.fold)}
    rows = [folds, *summary(found, series, aneurysms)]
    write_table(RunFolder(config.model_dir, config.encoder, config.fold).findings, found)
    write_json(EncoderFolder(config.model_dir, config.encoder).localisation, {"rows": rows})
    for row in rows:
        print(f"{row['name']:<66} {row['value']}")
    return found


def judge_fold(
    config: Config, data: DataFolder, fold: int, pair: Choice
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Judge the held-out series of a fold.

    Return all findings with their distance to the nearest aneurysm; the series and whether they
    could be read; the aneurysms, each with the best probability of a finding that hits it.
    """
    device = choose_device(config.device)
    predictor = Predictor(config.model_dir, config.encoder, (fold,), device, pair=pair)
    rules = FindingRules(config.threshold, config.peaks, config.reach)
    _, held_out = read_fold(data, fold, predictor.settings)
    spots = read_spots(data)
    positives = spots[spots.location != NOTHING].groupby("SeriesInstanceUID")

    def prepared(uid: str) -> PreparedSeries:
        return predictor.prepare(open_series(data.series(uid)))

    found, series, aneurysms = [], [], []
    outcomes = in_thread(lambda uid: (uid, attempt(prepared, uid)), held_out.SeriesInstanceUID)
    for uid, outcome in progress(outcomes, f"fold {fold}", " series", total=len(held_out)):
        read = not isinstance(outcome, Failure)  # eval_end_to_end.py says why not
        series.append({"SeriesInstanceUID": uid, "read": read})
        if read:
            truth = positives.get_group(uid) if uid in positives.groups else spots[:0]
            findings = predictor.explain(outcome, config.batch_size, rules).findings
            rows, hits = judge_series(uid, outcome.series, findings, truth)
            found += rows
            aneurysms += hits
    return (
        pd.DataFrame(found, columns=FOUND_COLUMNS),
        pd.DataFrame(series),
        pd.DataFrame(aneurysms, columns=["SeriesInstanceUID", "location", "hit_by"]),
    )


def judge_series(
    uid: str, series: Series, findings: list[Finding], truth: pd.DataFrame
) -> tuple[list[dict], list[dict]]:
    """Return one row a finding, and one an aneurysm with the best probability that hits it.

    truth: the rows of the series in train_stage1_{N}_folds.csv that are aneurysms.
    """
    aneurysms = [
        (row.location, place(series, int(row.f), row.x, row.y)) for row in truth.itertuples()
    ]
    rows = []
    hit_by = [0.0] * len(aneurysms)
    for rank, finding in enumerate(findings):
        at = place(series, finding.slice, finding.x, finding.y)
        rows.append(finding_row(uid, rank, finding, at, aneurysms))
        for index, (_, point) in enumerate(aneurysms):
            if np.linalg.norm(at - point) <= HIT:
                hit_by[index] = max(hit_by[index], finding.probability)
    hits = [
        {"SeriesInstanceUID": uid, "location": location, "hit_by": probability}
        for (location, _), probability in zip(aneurysms, hit_by, strict=True)
    ]
    return rows, hits


def place(series: Series, index: int, x: float, y: float) -> np.ndarray:
    """Return a point of the stored image as (3,) mm: across, down, along the normal."""
    between, row_spacing, column_spacing = spacing_or_default(series.spacing)
    along = index * between if series.positions is None else series.positions[index]
    return np.array([x * column_spacing, y * row_spacing, along])


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


def summary(
    found: pd.DataFrame, series: pd.DataFrame, aneurysms: pd.DataFrame
) -> list[dict[str, str]]:
    """Return the rows of the table, over the series that could be read.

    The first finding of series with an aneurysm, then the FROC.
    """
    positive = set(aneurysms.SeriesInstanceUID)
    count = int(series.read.sum())
    first = found[(found["rank"] == 0) & found.SeriesInstanceUID.isin(positive)]
    hits = first[first.mm <= HIT]
    named = hits[hits.location != SOMEWHERE]  # nobody knows where the others are
    rows = {
        "series, how many could be read; aneurysms in these": (
            f"{len(series)}, {count}; {len(aneurysms)}"
        ),
        f"first finding of a series with an aneurysm: within {HIT:.0f} mm of one": (
            f"{len(hits) / len(positive):.3f} of {len(positive)}"
        ),
        "    median distance along the slices, in the plane": (
            f"{first.mm_along.median():.1f} mm, {first.mm_in_plane.median():.1f} mm"
        ),
        f"    location named rightly, of those within {HIT:.0f} mm": (
            f"{(named.label == named.location).mean():.3f}" if len(named) else "n/a"
        ),
    }
    wrong = np.sort(found.probability[found.mm > HIT])[::-1]
    for rate in FALSE_POSITIVES:
        threshold = wrong[int(rate * count)] if rate * count < len(wrong) else 0.0
        hit = (aneurysms.hit_by > threshold).mean()
        rows[f"aneurysms hit at {rate:g} false findings a series"] = (
            f"{hit:.3f} (threshold {threshold:.2f})"
        )
    return [{"name": name, "value": value} for name, value in rows.items()]


if __name__ == "__main__":
    run_script(main, Config, __doc__, interrupted="run it again")
