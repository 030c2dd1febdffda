"""How well the findings of tools/predict.py are placed: held-out series, from DICOM, each by the network that never saw it, against the localizers.

Reads   data/series/, train_{N}_folds.csv, train_stage1_{N}_folds.csv (the localizers that point into the series),
        model/{encoder}/fold-{k}/weights_inference.pth (train_stage2.py)

Writes  model/{encoder}/localisation.json (for tools/report.py), fold-{k}/findings.csv (one row a finding: series, rank, distances to the nearest aneurysm)

A finding hits an aneurysm where it lies within 10 mm of it in three dimensions. FROC: share of the aneurysms that are hit, at the threshold that
gives so many findings that hit none, a series (Bunch et al. 1978).
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
from src.inference.ensemble import Predictor, PreparedSeries
from src.inference.findings import Finding
from src.labels import NOTHING
from src.progress import in_thread, progress
from src.sampling.slices import DEFAULT_SPACING
from src.script import UserError, run_script

HIT = 10.0  # mm
FALSE_POSITIVES = (0.25, 0.5, 1.0, 2.0)  # a series
LEAST = 0.02  # probability of the findings that are judged; lower than what is shown, for the whole curve


@dataclass
class Config:
    data_dir: Path = Path("data")  # series/, tables and folds
    model_dir: Path = Path("model")  # trained networks
    encoder: str = "convnext_base.dinov3_lvd1689m"  # as trained
    fold: int | Literal["all"] = 0  # held out
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...
    batch_size: int = 128  # slices


def main(config: Config) -> pd.DataFrame:
    data = DataFolder(config.data_dir)
    judged = [judge_fold(config, data, fold) for fold in folds_of(data, config.fold)]
    found, series, aneurysms = (
        pd.concat(parts, ignore_index=True) for parts in zip(*judged, strict=True)
    )
    if found.empty:
        raise UserError(
            "no finding in any series: train with the heatmap, or take an encoder with class activation maps"
        )
    rows = [
        {"name": "held-out folds", "value": str(config.fold)},
        *summary(found, series, aneurysms),
    ]
    write_table(RunFolder(config.model_dir, config.encoder, config.fold).findings, found)
    write_json(EncoderFolder(config.model_dir, config.encoder).localisation, {"rows": rows})
    for row in rows:
        print(f"{row['name']:<66} {row['value']}")
    return found


def judge_fold(
    config: Config, data: DataFolder, fold: int
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Of the held-out series: all findings with the distance to the nearest aneurysm; the series and whether they could be read; the aneurysms
    with the best probability that hits each."""
    predictor = Predictor(config.model_dir, config.encoder, (fold,), choose_device(config.device))
    _, held_out = read_fold(data, fold, predictor.settings)
    spots = read_spots(data)
    spots = spots[spots.location != NOTHING]
    found, series, aneurysms = [], [], []
    prepared = in_thread(
        lambda uid: (uid, prepare(predictor, data, uid)), held_out.SeriesInstanceUID
    )
    for uid, one in progress(prepared, f"fold {fold}", " series", total=len(held_out)):
        series.append({"SeriesInstanceUID": uid, "read": one is not None})
        if one is None:
            continue
        truth = [
            (row.location, place(one.series, int(row.f), row.x, row.y))
            for row in spots[spots.SeriesInstanceUID == uid].itertuples()
        ]
        findings = predictor.predict(one, config.batch_size, LEAST).findings
        places = [place(one.series, finding.slice, finding.x, finding.y) for finding in findings]
        found += [
            finding_row(uid, rank, finding, at, truth)
            for rank, (finding, at) in enumerate(zip(findings, places, strict=True))
        ]
        for location, point in truth:
            hits = [
                finding.probability
                for finding, at in zip(findings, places, strict=True)
                if np.linalg.norm(at - point) <= HIT
            ]
            aneurysms.append(
                {"SeriesInstanceUID": uid, "location": location, "hit_by": max(hits, default=0.0)}
            )
    return (
        pd.DataFrame(
            found,
            columns=[
                "SeriesInstanceUID",
                "rank",
                "probability",
                "label",
                "location",
                "mm",
                "mm_along",
                "mm_in_plane",
            ],
        ),
        pd.DataFrame(series),
        pd.DataFrame(aneurysms, columns=["SeriesInstanceUID", "location", "hit_by"]),
    )


def prepare(predictor: Predictor, data: DataFolder, uid: str) -> PreparedSeries | None:
    """None where the series cannot be read: eval_end_to_end.py says why."""
    try:
        return predictor.prepare(open_series(data.series(uid)))
    except Exception:  # no series may stop the others
        return None


def place(series: Series, index: int, x: float, y: float) -> np.ndarray:
    """(3,) mm of a point of the stored image: across, down, along the normal."""
    row_spacing, column_spacing = (
        value or default
        for value, default in zip(series.spacing[1:], DEFAULT_SPACING[1:], strict=True)
    )
    along = (
        index * (series.spacing[0] or DEFAULT_SPACING[0])
        if series.positions is None
        else series.positions[index]
    )
    return np.array([x * column_spacing, y * row_spacing, along])


def finding_row(
    uid: str, rank: int, finding: Finding, at: np.ndarray, truth: list[tuple[str, np.ndarray]]
) -> dict:
    """A finding at a place (3,) mm and the aneurysm, of (location, place) in its series, that is nearest."""
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
    location, point = min(truth, key=lambda one: np.linalg.norm(at - one[1]))
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
    """The table: the first finding of series with an aneurysm, and the FROC, over the series that could be read."""
    positive = set(aneurysms.SeriesInstanceUID)
    count = int(series.read.sum())
    first = found[(found["rank"] == 0) & found.SeriesInstanceUID.isin(positive)]
    hits = first[first.mm <= HIT]
    rows = [
        (
            "series, of which could be read; aneurysms in these",
            f"{len(series)}, {count}; {len(aneurysms)}",
        ),
        (
            f"first finding of a series with an aneurysm: within {HIT:.0f} mm of one",
            f"{len(hits) / len(positive):.3f} of {len(positive)}",
        ),
        (
            "    median distance along the slices, in the plane",
            f"{first.mm_along.median():.1f} mm, {first.mm_in_plane.median():.1f} mm",
        ),
        (
            f"    location named rightly, of those within {HIT:.0f} mm",
            f"{(hits.label == hits.location).mean():.3f}",
        ),
    ]
    wrong = np.sort(found.probability[found.mm > HIT])[::-1]
    for rate in FALSE_POSITIVES:
        threshold = wrong[int(rate * count)] if rate * count < len(wrong) else 0.0
        rows.append(
            (
                f"aneurysms hit at {rate:g} false findings a series",
                f"{(aneurysms.hit_by > threshold).mean():.3f} (threshold {threshold:.2f})",
            )
        )
    return [{"name": name, "value": value} for name, value in rows]


if __name__ == "__main__":
    run_script(main, Config, __doc__)
