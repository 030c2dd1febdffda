"""Which series count for the FROC, and their findings judged by each rule.

For tools/score.py and tools/measure_findings.py.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from src.evaluation import froc
from src.labels import LABELS, PRESENT
from src.progress import progress
from src.script import UserError
from tools.scoring.points import NoPlace, places_of
from tools.scoring.tables import UID, ranges

NO_POINT = "an aneurysm, or an unknown presence, without a localizer"
WITHIN, RADIUS = f"within {froc.HIT:g} mm", "within the aneurysm's own radius"
SIZES = (3.0, 5.0, 10.0)  # mm, diameters where a range begins


@dataclass
class Cases:
    """Series whose findings and aneurysms are in millimetres."""

    rows: np.ndarray  # (S,) their rows of the scored table
    points: list[tuple[np.ndarray, np.ndarray, np.ndarray]]  # places, probabilities, aneurysms
    radii: list[np.ndarray]  # mm of each case's aneurysms, NaN if unknown
    counted: list[np.ndarray]  # bool of each case's aneurysms: the others are ignored
    left_out: Counter  # reason: number of series

    def judged(self, patients: np.ndarray) -> froc.Judged:
        """Judge by the distance that is the same for all. patients: (N,) of the scored table."""
        reaches = [froc.HIT] * len(self.points)
        return self._judge(np.ones(len(self.points), bool), patients, reaches)

    def judged_by_radius(self, patients: np.ndarray) -> froc.Judged | None:
        """Judge by each aneurysm's own radius, in cases where all are known; None without any."""
        known, reaches = [], []
        for radii, counted in zip(self.radii, self.counted, strict=True):
            known.append(not np.isnan(radii[counted]).any())
            reaches.append(np.where(np.isnan(radii), froc.HIT, radii))
        judged = self._judge(np.array(known, bool), patients, reaches)
        return judged if len(judged.hit_by) else None

    def _judge(self, chosen: np.ndarray, patients: np.ndarray, reaches: list) -> froc.Judged:
        """Judge the cases of a mask (S,). reaches: mm, of each case."""
        numbers = np.flatnonzero(chosen)
        points = [self.points[number] for number in numbers]
        judged = froc.judge_cases(
            points, patients[self.rows[numbers]], [reaches[number] for number in numbers]
        )
        counted = [self.counted[number] for number in numbers]
        return judged.of_aneurysms(np.concatenate([np.empty(0, bool), *counted]))

    def sizes(self, limits: tuple[float, ...]) -> dict[str, np.ndarray]:
        """Return which aneurysms are in each range of diameters: (A,) bool. limits: mm."""
        pairs = zip(self.radii, self.counted, strict=True)
        radii = [each[counted] for each, counted in pairs]
        return ranges(2 * np.concatenate([np.empty(0), *radii]), limits, "mm")


def make_cases(
    table: pd.DataFrame, findings: pd.DataFrame, aneurysms: pd.DataFrame, root: Path
) -> Cases:
    """Return the series of the scored table that count. root: folder of their DICOM files.

    Left out are series with an aneurysm, or where that is unknown, but without a localizer: whether
    their findings are false is unknown. So are series whose points cannot be placed.
    aneurysms: with a column `counted`; the others are neither hit nor missed, and no finding on
        them is false.
    """
    none_of = findings[:0], aneurysms[:0]
    by_uid = [dict(list(each.groupby(UID))) for each in (findings, aneurysms)]
    cases = Cases(np.empty(0, int), [], [], [], Counter())
    rows = []
    labels = zip(table[UID], table[LABELS[PRESENT]], strict=True)
    for row, (uid, present) in progress(
        list(enumerate(labels)), "findings", " series", total=len(table)
    ):
        found, true = (each.get(uid, none) for each, none in zip(by_uid, none_of, strict=True))
        counted = true["counted"].to_numpy(bool)
        if not counted.any() and present != 0:
            cases.left_out[NO_POINT] += 1
            continue
        try:
            places, centres = places_of(uid, root, found, true)
        except NoPlace as error:
            cases.left_out[str(error)] += 1
            continue
        rows.append(row)
        cases.points.append((places, found["probability"].to_numpy(np.float64), centres))
        cases.radii.append(true["radius"].to_numpy(np.float64))
        cases.counted.append(counted)
    cases.rows = np.array(rows, int)
    if not any(counted.any() for counted in cases.counted):
        reasons = "; ".join(f"{count} series: {name}" for name, count in cases.left_out.items())
        raise UserError(
            "no FROC: no aneurysm of a scored series has a place "
            f"({reasons or 'no series has an aneurysm'}): check the localizers and --series"
        )
    return cases


def froc_figures(
    found: Cases,
    patients: np.ndarray,
    draws: int,
    rates: tuple[float, ...] = froc.RATES,
    sizes: tuple[float, ...] = SIZES,
) -> dict:
    """Return the FROC by each rule and of each size, and what was left out.

    patients: (N,) numbers of the scored table. sizes: mm, diameters where a range begins.
    """
    judged = found.judged(patients)
    rules = {WITHIN: judged, RADIUS: found.judged_by_radius(patients)}
    figures = {"left_out": dict(found.left_out), "rules": {}, "sizes": {}}
    for name, each in rules.items():
        if each:
            figures["rules"][name] = {
                "cases": len(each.patients),
                "aneurysms": len(each.hit_by),
                "rows": froc.froc(each, draws, rates),
                "curve": froc.curve(each),
            }
    if RADIUS in figures["rules"]:
        for name, chosen in found.sizes(sizes).items():
            figures["sizes"][name] = froc.froc(judged, draws, rates, chosen)
    return figures
