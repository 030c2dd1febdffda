"""The report's part on calibration: what is fitted, saved, and how good it is, cross-fitted."""

from pathlib import Path

import numpy as np
import pandas as pd

from src.artifacts.calibration import (
    CALIBRATED_POINTS,
    POINTS,
    Calibration,
    write_calibration,
)
from src.artifacts.paths import ArtifactError, EncoderFolder, RunFolder
from src.artifacts.tables import read_table
from src.evaluation import calibration, froc, platt, scoring
from src.labels import LABELS, LOCATIONS, PRESENT
from src.sampling.folds import seeded_order
from tools.pages import report_figures, report_scores
from tools.pages.report_figures import saved
from tools.pages.report_inputs import UID, Pooled
from tools.pages.report_weights import WeightsCheck

PLACE = ["slice", "column", "row"]  # of a finding, in the stored image
TOGETHER = "the 13 locations together"
FINDINGS = f"a finding within {froc.HIT:.0f} mm of an aneurysm"


def section(folder: EncoderFolder, judged: Pooled, found: pd.DataFrame) -> dict:
    """Fit and save the calibration; return what the page says of it. found: of `read_findings`."""
    truth, probabilities = judged.arrays()
    logits = calibration.logit(probabilities)  # (N, 14)
    maps = platt.fit_maps(truth, logits)
    after = platt.crossfit(truth, logits, parts_of(judged.table))  # (N, 14)
    hits = found.hit.to_numpy(float)
    of_findings = platt.fit_one(hits, calibration.logit(found.probability.to_numpy()))
    made_of = {"folds": judged.folds, "n_series": judged.series, "evaluation": judged.name}
    made_of["n_findings"] = int((~np.isnan(hits)).sum())
    made = Calibration(maps.scales, maps.offsets, of_findings)
    made_of |= operating_points(judged, after, made)
    write_calibration(folder, made, made_of, judged.folds)

    columns = {report_scores.PRESENCE: [PRESENT], TOGETHER: list(range(PRESENT))}
    columns |= {label: [k] for k, label in enumerate(LOCATIONS)}
    rows, curves = [], {}
    for name, chosen in columns.items():
        curves[name] = [each[:, chosen].ravel() for each in (truth, logits, after)]
        own = (None, None)
        if name in LABELS:
            own = float(maps.scales[chosen[0]]), float(maps.offsets[chosen[0]])
        rows.append(row_of(name, own, *curves[name]))
    if of_findings:
        curves[FINDINGS] = crossfitted_findings(found)
        rows.append(row_of(FINDINGS, of_findings, *curves[FINDINGS]))
    drawn = {name: drawable(*curves[name]) for name in curves if name not in LOCATIONS}
    drawn = {name: content for name, content in drawn.items() if len(content[0])}
    return {
        "picture": saved(folder, "calibration", report_figures.draw_reliability, drawn),
        "rows": rows,
        "bins": calibration.BINS,
        "file": folder.calibration.name,
        "fewest": calibration.FEWEST,
        "own": own_maps(maps.groups),
        "findings": of_findings is not None,
        "moved": moved(logits, after),
    }


def operating_points(judged: Pooled, after: np.ndarray, made: Calibration) -> dict[str, list]:
    """Return sensitivities and specificities of the presence, calibrated and as it is given.

    after: (N, 14) cross-fitted logits, judged at THRESHOLDS. Probabilities as the networks give
    them are judged at what the fitted map makes THRESHOLDS of, so that these are of use, too.
    """
    scale, offset = made.scales[PRESENT], made.offsets[PRESENT]
    truth, given = judged.arrays()
    truth, patients = truth[:, PRESENT].astype(np.float64), judged.table.patient.to_numpy()
    present = calibration.sigmoid(after[:, PRESENT])
    calibrated, plain = [], []
    for threshold in scoring.THRESHOLDS:
        calibrated.append(scoring.at_threshold(truth, present, threshold, patients))
        before = calibration.apply_one(threshold, 1 / scale, -offset / scale)
        plain.append(scoring.at_threshold(truth, given[:, PRESENT], before, patients))
    return {POINTS: plain, CALIBRATED_POINTS: calibrated}


def own_maps(groups: np.ndarray) -> list[str]:
    """Return the labels whose map differs from the shared one."""
    return [label for label, group in zip(LABELS, groups, strict=True) if group != platt.SHARED]


def moved(before: np.ndarray, after: np.ndarray) -> int:
    """Return how many series have another most probable location. Both: logits (N, 14)."""
    tops = [each[:, :PRESENT].argmax(axis=1) for each in (before, after)]
    return int((tops[0] != tops[1]).sum())


def parts_of(table: pd.DataFrame) -> np.ndarray:
    """Return what is cross-fitted: the folds (N,), or halves of the series of the only fold."""
    folds = table.fold.to_numpy()
    if len(np.unique(folds)) > 1:
        return folds
    return np.array([seeded_order(uid, 0) % 2 for uid in table[UID]])


def row_of(
    name: str,
    own: tuple[float | None, float | None],
    labels: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
) -> list:
    """Return a row of the table. own: scale and offset; labels 0, 1 or NaN and logits: (N,)."""
    known = ~np.isnan(labels)
    labels, before, after = (each[known] for each in (labels, before, after))
    if not len(labels):
        return [name, 0, *own, None, None, None, None, None]
    losses = [calibration.log_loss(labels, each) for each in (before, after)]
    probabilities = [calibration.sigmoid(each) for each in (before, after)]
    errors = [calibration.calibration_error(labels, each) for each in probabilities]
    chance = calibration.chance_error(probabilities[1])
    return [name, int(labels.sum()), *own, *losses, *errors, chance]


def drawable(
    labels: np.ndarray, before: np.ndarray, after: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return known labels and the probabilities of logits before and after."""
    known = ~np.isnan(labels)
    return labels[known], calibration.sigmoid(before[known]), calibration.sigmoid(after[known])


def crossfitted_findings(found: pd.DataFrame) -> list[np.ndarray]:
    """Return hits 0, 1 or NaN, and logits before and after; all (N,)."""
    hits = found.hit.to_numpy(float)
    before = calibration.logit(found.probability.to_numpy())
    after, parts = before.copy(), parts_of(found)
    for part in np.unique(parts):
        inside = parts == part
        fitted = platt.fit_one(hits[~inside], before[~inside])
        if fitted:
            scale, offset = fitted
            after[inside] = scale * before[inside] + offset
    return [hits, before, after]


def read_findings(
    series: pd.DataFrame, model_dir: Path, encoder: str, check: WeightsCheck
) -> pd.DataFrame:
    """Return the findings of tools/measure_findings.py: UID, fold, probability, hit and PLACE.

    hit: 0 or 1; NaN in a series with an aneurysm whose place nobody knows.
    PLACE: NaN in files of older versions.
    Of each fold its own or that of --fold all, the newer of both. series: UID, fold and labels.
    check: learns which weights made them.
    """
    columns = [UID, "fold", "probability", "hit", *PLACE]
    tables = [pd.DataFrame(columns=columns, dtype=float)]
    for fold, held_out in series.groupby("fold"):
        paths = [RunFolder(model_dir, encoder, name).findings for name in ("all", fold)]
        paths = [path for path in paths if path.exists()]
        for path in sorted(paths, key=lambda each: each.stat().st_mtime_ns, reverse=True):
            table = _findings_of(path, series, held_out)
            if len(table):
                tables.append(table)
                run = RunFolder(model_dir, encoder, fold)
                check.look(path, run, int(fold), "tools/measure_findings.py")
                break
    return pd.concat([table for table in tables if len(table)] or tables, ignore_index=True)


def _findings_of(path: Path, series: pd.DataFrame, held_out: pd.DataFrame) -> pd.DataFrame:
    table = read_table(path, [UID, "probability", "mm"])
    table = table.reindex(columns=[UID, "probability", "mm", *PLACE])
    if not table.probability.between(0, 1).all() or not (table.mm >= 0).all():
        raise ArtifactError(f"{path} holds no findings: run tools/measure_findings.py again")
    strangers = set(table[UID]) - set(series[UID])
    if strangers:
        raise ArtifactError(
            f"{path} holds series {min(strangers)}, which is in no fold: "
            "run tools/measure_findings.py again"
        )
    table = table.merge(held_out[[UID, "fold", LABELS[PRESENT]]], on=UID)
    unplaced = np.isinf(table.mm) & (table[LABELS[PRESENT]] != 0)
    hits = (table.mm <= froc.HIT).astype(float).mask(unplaced)
    return table[[UID, "fold", "probability", *PLACE]].assign(hit=hits)
