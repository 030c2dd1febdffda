"""How well the findings of tools/predict.py are placed: held-out series, from DICOM, each by the network that never saw it, against train_localizers.csv.

Reads   data/series/, train_localizers.csv, train_{N}_folds.csv, model/{encoder}/fold-{k}/weights_inference.pth

Writes  model/{encoder}/fold-{k}/localisation.json, findings.csv (one row a finding: series, rank, distances to the nearest aneurysm)

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

from src import artifacts, engine
from src.artifacts import DataFolder, RunFolder, folds_of
from src.dicom import DicomError, Series, open_series
from src.findings import Finding
from src.predictor import Predictor
from src.runtime import UserError, in_thread, progress, run_script
from src.spots import parse_coordinates
from src.volume import DEFAULT_SPACING

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
    localizers = artifacts.read_table(data.localizers, ("SeriesInstanceUID", "SOPInstanceUID", "coordinates", "location"))
    judged = [judge_fold(config, data, fold, localizers) for fold in folds_of(data, config.fold)]
    found, missed = (pd.concat(parts, ignore_index=True) for parts in zip(*judged, strict=True))
    if found.empty:
        raise UserError("no finding in any series: train with the heatmap, or take an encoder with class activation maps")
    rows = summary(found, missed)
    run = RunFolder(config.model_dir, config.encoder, config.fold)
    artifacts.write_table(run.findings, found)
    artifacts.write_json(run.localisation, {"rows": rows})
    for row in rows:
        print(f"{row['name']:<66} {row['value']}")
    return found


def judge_fold(config: Config, data: DataFolder, fold: int, localizers: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(all findings of the held-out series with their distances, one row an aneurysm with the best probability that hits it)."""
    predictor = Predictor(config.model_dir, config.encoder, (fold,), engine.choose_device(config.device))
    _, held_out = artifacts.read_fold(data, fold, predictor.settings)
    by_series = dict(list(localizers.groupby("SeriesInstanceUID")))
    found, aneurysms = [], []
    prepared = in_thread(lambda uid: (uid, prepare(predictor, data, uid)), held_out.SeriesInstanceUID)
    for uid, one in progress(prepared, f"fold {fold}", " series", total=len(held_out)):
        if one is None:
            continue
        truth = aneurysms_of(one.series, by_series.get(uid))
        rows = distances(uid, predictor.predict(one, config.batch_size, LEAST).findings, one.series, truth)
        found += rows
        for number, (label, _) in enumerate(truth):
            best = max((row["probability"] for row in rows if row["nearest"] == number and row["mm"] <= HIT), default=0.0)
            aneurysms.append({"SeriesInstanceUID": uid, "location": label, "hit_by": best})
    columns = ["SeriesInstanceUID", "rank", "probability", "label", "nearest", "location", "mm", "mm_along", "mm_in_plane", "series_fold"]
    return pd.DataFrame([row | {"series_fold": fold} for row in found], columns=columns), series_table(held_out, aneurysms)


def prepare(predictor: Predictor, data: DataFolder, uid: str):
    """None where the series cannot be read: eval_end_to_end.py says why."""
    try:
        return predictor.prepare(open_series(data.series(uid)))
    except DicomError:
        return None


def series_table(held_out: pd.DataFrame, aneurysms: list[dict]) -> pd.DataFrame:
    """One row an aneurysm; a series without any has a row without location, so that all are counted."""
    table = pd.DataFrame(aneurysms, columns=["SeriesInstanceUID", "location", "hit_by"])
    return held_out[["SeriesInstanceUID"]].merge(table, how="left")


def aneurysms_of(series: Series, rows: pd.DataFrame | None) -> list[tuple[str, np.ndarray]]:
    """(location, place in mm: across, down, along) of each localizer that points into the series."""
    found = []
    for row in [] if rows is None else rows.itertuples():
        x, y, frame = parse_coordinates(row.coordinates)
        there = [k for k, uid in enumerate(series.sop_uids) if uid == row.SOPInstanceUID and (frame is None or series.frames[k] in (-1, frame))]
        if there:
            found.append((row.location, place(series, there[0], x, y)))
    return found


def place(series: Series, index: int, x: float, y: float) -> np.ndarray:
    """(3,) mm of a point of the stored image: across, down, along the normal."""
    row_spacing, column_spacing = (value or default for value, default in zip(series.spacing[1:], DEFAULT_SPACING[1:], strict=True))
    along = index * (series.spacing[0] or DEFAULT_SPACING[0]) if series.positions is None else series.positions[index]
    return np.array([x * column_spacing, y * row_spacing, along])


def distances(uid: str, found: list[Finding], series: Series, truth: list[tuple[str, np.ndarray]]) -> list[dict]:
    """One row a finding: how far the nearest aneurysm of its series is."""
    rows = []
    for rank, one in enumerate(found):
        row = {"SeriesInstanceUID": uid, "rank": rank, "probability": one.probability, "label": one.label, "nearest": -1, "location": "", "mm": np.inf}
        if truth:
            apart = [place(series, one.slice, one.x, one.y) - point for _, point in truth]
            nearest = int(np.argmin([np.linalg.norm(vector) for vector in apart]))
            across, down, along = apart[nearest]
            row |= {"nearest": nearest, "location": truth[nearest][0], "mm": float(np.linalg.norm(apart[nearest]))}
            row |= {"mm_along": abs(along), "mm_in_plane": float(np.hypot(across, down))}
        rows.append(row)
    return rows


def summary(found: pd.DataFrame, aneurysms: pd.DataFrame) -> list[dict[str, str]]:
    """The table: the first finding of series with an aneurysm, and the FROC."""
    real = aneurysms[aneurysms.location.notna()]
    first = found[(found["rank"] == 0) & found.SeriesInstanceUID.isin(real.SeriesInstanceUID)]
    series = aneurysms.SeriesInstanceUID.nunique()
    hits = first[first.mm <= HIT]
    rows = [
        ("series, aneurysms in them", f"{series}, {len(real)}"),
        (f"first finding of a series with an aneurysm: within {HIT:.0f} mm of one", f"{len(hits) / max(len(first), 1):.3f} of {len(first)}"),
        ("    median distance along the slices, in the plane", f"{first.mm_along.median():.1f} mm, {first.mm_in_plane.median():.1f} mm"),
        (f"    location named rightly, of those within {HIT:.0f} mm", f"{(hits.label == hits.location).mean():.3f}"),
    ]
    wrong = np.sort(found.probability[found.mm > HIT])[::-1]
    for rate in FALSE_POSITIVES:
        threshold = wrong[int(rate * series)] if rate * series < len(wrong) else 0.0
        rows.append((f"aneurysms hit at {rate:g} false findings a series", f"{(real.hit_by > threshold).mean():.3f} (threshold {threshold:.2f})"))
    return [{"name": name, "value": value} for name, value in rows]


if __name__ == "__main__":
    run_script(main, Config, __doc__)
