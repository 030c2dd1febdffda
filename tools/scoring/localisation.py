"""How well findings are placed and named: the rows of measure_findings.py's table."""

from pathlib import Path

import numpy as np
import pandas as pd

from src.evaluation import froc
from src.evaluation.resampling import fraction_interval, patient_numbers
from src.labels import SOMEWHERE
from tools.scoring.cases import WITHIN, froc_figures, make_cases
from tools.scoring.output import rate_text

DRAWS = 1000  # of the bootstrap
FAR = 10.0  # mm from the middle: from here on a side is certain
SIDES = {"Left": 1, "Right": -1}  # first word of a location: sign of mm to the left


def summary(
    found: pd.DataFrame, series: pd.DataFrame, aneurysms: pd.DataFrame, ignored: pd.DataFrame
) -> list[dict[str, str]]:
    """Return the rows of the table, over the series that could be read.

    The first finding of series with an aneurysm, then the FROC. found and aneurysms have their
    PLACE in mm, aneurysms their radius, series the label of presence and perhaps patient_id.
    ignored: aneurysms that are neither hit nor missed.
    """
    positive = set(aneurysms.SeriesInstanceUID)
    count = int(series.read.sum())
    first = found[(found["rank"] == 0) & found.SeriesInstanceUID.isin(positive)]
    hits = first[first.mm <= froc.HIT]
    named = hits[hits.location != SOMEWHERE]  # nobody knows where the others are
    read = series[series.read].reset_index(drop=True)
    patients = patient_numbers(read.get("patient_id", [""] * len(read)))
    patient_of = pd.Series(patients, read.SeriesInstanceUID)
    rows = {
        "series, how many could be read; aneurysms in these": (
            f"{len(series)}, {count}; {len(aneurysms)}"
        ),
        f"first finding of a series with an aneurysm: within {froc.HIT:.0f} mm of one": (
            f"{len(hits) / len(positive):.3f} of {len(positive)}"
        ),
        "    median distance along the slices, in the plane": (
            f"{first.mm_along.median():.1f} mm, {first.mm_in_plane.median():.1f} mm"
        ),
    } | name_rows(found, named, patient_of)
    all_of_them = pd.concat([aneurysms.assign(counted=True), ignored.assign(counted=False)])
    cases = make_cases(read, found, all_of_them, Path())  # all places are known
    figures = froc_figures(cases, patients, DRAWS)
    for rule, of_rule in figures["rules"].items():
        for row in of_rule["rows"]:
            name = f"aneurysms hit {rule} at {row['rate']:g} false findings a series"
            rows[name] = rate_text(row)
    for size, of_size in figures["sizes"].items():
        for row in of_size:
            name = f"    of diameter {size}, {WITHIN}, at {row['rate']:g}"
            rows[name] = rate_text(row)
    for reason, left_out in figures["left_out"].items():
        rows[f"series left out of these: {reason}"] = str(left_out)
    return [{"name": name, "value": value} for name, value in rows.items()]


def name_rows(found: pd.DataFrame, named: pd.DataFrame, patient_of: pd.Series) -> dict[str, str]:
    """Return the rows on names and sides. named: first findings near an aneurysm with a name."""
    both = named[side_of(named.label).notna() & side_of(named.location).notna()]
    sided = far_with_side(found)
    return {
        f"    location named rightly, of those within {froc.HIT:.0f} mm": (
            fraction(named.label == named.location, patient_of[named.SeriesInstanceUID])
        ),
        "    named on the other side than the aneurysm, of those that both have one": fraction(
            side_of(both.label) != side_of(both.location), patient_of[both.SeriesInstanceUID]
        ),
        f"findings with a side that are over {FAR:.0f} mm on the other one": fraction(
            on_wrong_side(sided), patient_of[sided.SeriesInstanceUID]
        ),
    }


def far_with_side(found: pd.DataFrame) -> pd.DataFrame:
    """Return the findings far from the middle whose location names a side."""
    return found[side_of(found.label).notna() & (found.mm_left.abs() > FAR)]


def on_wrong_side(sided: pd.DataFrame) -> pd.Series:
    """Return which findings are on the other side than the one that their location names."""
    return np.sign(sided.mm_left) != side_of(sided.label)


def side_of(locations: pd.Series) -> pd.Series:
    return locations.str.split().str[0].map(SIDES)


def fraction(true: pd.Series, patients: pd.Series) -> str:
    """Return the fraction of true ones with its 95 % interval by patient."""
    if not len(true):
        return "n/a"
    low, high = fraction_interval(true.to_numpy(bool), patients.to_numpy())
    return f"{true.mean():.3f} ({low:.3f} to {high:.3f}; {true.sum()} of {len(true)})"
