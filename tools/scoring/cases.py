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
    left_out: Counter  # reason: number of series

    def judged(self, patients: np.ndarray) -> froc.Judged:
        """Judge by the distance that is the same for all. patients: (N,) of the scored table."""
        reaches = [froc.HIT] * len(self.points)
        return froc.judge_cases(self.points, patients[self.rows], reaches)

    def judged_by_radius(self, patients: np.ndarray) -> froc.Judged | None:
        """Judge by each aneurysm's own radius, in cases where all are known; None without any."""
        known = [not np.isnan(radii).any() for radii in self.radii]
        points = [point for point, usable in zip(self.points, known, strict=True) if usable]
        radii = [radius for radius, usable in zip(self.radii, known, strict=True) if usable]
        if not sum(map(len, radii)):
            return None
        return froc.judge_cases(points, patients[self.rows[known]], radii)

    def sizes(self, limits: tuple[float, ...]) -> dict[str, np.ndarray]:
        """Return which aneurysms are in each range of diameters: (A,) bool. limits: mm."""
        return ranges(2 * np.concatenate([np.empty(0), *self.radii]), limits, "mm")


def make_cases(
    table: pd.DataFrame, findings: pd.DataFrame, aneurysms: pd.DataFrame, root: Path
) -> Cases:
    """Return the series of the scored table that count. root: folder of their DICOM files.

    Left out are series with an aneurysm, or where that is unknown, but without a localizer: whether
    their findings are false is unknown. So are series whose points cannot be placed.
    """
    none_of = findings[:0], aneurysms[:0]
    by_uid = [dict(list(each.groupby(UID))) for each in (findings, aneurysms)]
    cases = Cases(np.empty(0, int), [], [], Counter())
    rows = []
    labels = zip(table[UID], table[LABELS[PRESENT]], strict=True)
    for row, (uid, present) in progress(
        list(enumerate(labels)), "findings", " series", total=len(table)
    ):
        found, true = (each.get(uid, none) for each, none in zip(by_uid, none_of, strict=True))
        if not len(true) and present != 0:
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
    cases.rows = np.array(rows, int)
    if not sum(len(centres) for *_, centres in cases.points):
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
