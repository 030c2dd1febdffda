"""Labels with which held-out predictions disagree, as proposals for data/overrides.csv."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from src.labels import LABELS, LOCATIONS, MIRROR, PRESENT

UID = "SeriesInstanceUID"
PRESENCE = LABELS[PRESENT]
SWAPPED, UNLABELLED, UNSEEN, FAR = "sides swapped", "unlabelled", "not seen", "localizer far"
KINDS = (SWAPPED, UNLABELLED, UNSEEN, FAR)  # those that are most often right come first
COLUMNS = [UID, "label", "value", "reason", "probability", "why"]


@dataclass(frozen=True)
class Rules:
    """What counts as a disagreement."""

    above: float  # probability from which on a label of 0 is doubted
    below: float  # probability up to which a label of 1 is doubted
    far: float  # mm from a localizer to the nearest finding


def propose(
    labels: pd.DataFrame, predictions: pd.DataFrame, distances: pd.DataFrame, rules: Rules
) -> pd.DataFrame:
    """Return COLUMNS, the most convincing first; the rows of one disagreement follow one another.

    Taken over as they are, the rows leave no series that contradicts itself: presence 0 beside a
    location that is 1.

    labels, predictions: a row per series, UID and the 14 labels; of the same series.
    distances: UID, label, mm, line of each localizer; mm to the nearest finding, infinite if the
        findings of the series are nearer to other localizers.
    """
    probabilities = predictions.set_index(UID)[list(LABELS)]
    truth = labels.set_index(UID)[list(LABELS)].loc[probabilities.index]
    doubted: dict[tuple[str, str], dict] = {}
    for uid in truth.index:
        for row in of_series(uid, truth.loc[uid], probabilities.loc[uid], rules):
            doubted.setdefault((uid, row["label"]), row)
    for row in far_rows(truth, probabilities, distances, rules):
        doubted.setdefault((row[UID], row["label"]), row)
    table = pd.DataFrame(list(doubted.values()), columns=[*COLUMNS, "strength"])
    table["kind"] = table.reason.map(KINDS.index)
    # A series' rows of one kind stay together, where its strongest row belongs.
    table["strongest"] = table.groupby([UID, "kind"]).strength.transform("max")
    by = ["kind", "strongest", UID, "strength"]
    table = table.sort_values(by, ascending=[True, False, True, False], kind="stable")
    return table[COLUMNS].reset_index(drop=True)


def of_series(uid: str, truth: pd.Series, found: pd.Series, rules: Rules) -> list[dict]:
    """Return the proposals for one series; an earlier one of a label counts.

    truth: 0, 1 or NaN of each label. found: their probabilities.
    """
    rows = swapped_rows(uid, truth, found, rules)
    for label in LABELS:
        if truth[label] == 0 and found[label] >= rules.above:
            why = f"predicted with {found[label]:.2f} but labelled 0"
            rows.append(proposal(uid, label, 1, UNLABELLED, found[label], why))
        elif truth[label] == 1 and found[label] <= rules.below:
            why = f"labelled 1 but predicted with {found[label]:.2f} only"
            rows.append(proposal(uid, label, 0, UNSEEN, found[label], why))
    return consistent(uid, truth, found, rows)


def swapped_rows(uid: str, truth: pd.Series, found: pd.Series, rules: Rules) -> list[dict]:
    """Return two rows for each aneurysm that is labelled on one side and predicted on the other."""
    rows = []
    for index, label in enumerate(LOCATIONS):
        other = LABELS[MIRROR[index]]
        one_side = other != label and truth[label] == 1 and truth[other] == 0
        if one_side and found[label] <= rules.below and found[other] >= rules.above:
            why = f"{label} {found[label]:.2f}, {other} {found[other]:.2f}: the other side?"
            rows.append(proposal(uid, label, 0, SWAPPED, found[label], why))
            rows.append(proposal(uid, other, 1, SWAPPED, found[other], why))
    return rows


def consistent(uid: str, truth: pd.Series, found: pd.Series, rows: list[dict]) -> list[dict]:
    """Return the proposals, changed so that presence is not 0 beside a location that is 1."""
    after = truth.copy()
    for row in reversed(rows):  # the first one of a label counts
        after[row["label"]] = row["value"]
    positive = [label for label in LOCATIONS if after[label] == 1]
    if after[PRESENCE] != 0 or not positive:
        return rows
    raised = [row for row in rows if row["value"] == 1 and row["label"] in positive]
    if not raised:
        why = f"{PRESENCE} is proposed as 0"
        return rows + [proposal(uid, label, 0, UNSEEN, found[label], why) for label in positive]
    rows = [row for row in rows if row["label"] != PRESENCE]
    if truth[PRESENCE] == 0:
        why = f"{raised[0]['label']} is proposed as 1"
        rows.append(proposal(uid, PRESENCE, 1, raised[0]["reason"], found[PRESENCE], why))
    return rows


def far_rows(
    truth: pd.DataFrame, probabilities: pd.DataFrame, distances: pd.DataFrame, rules: Rules
) -> list[dict]:
    """Return a row for each localizer that no finding is near to. Its label stays 1."""
    rows = []
    for place in distances.itertuples():
        uid, label = place.SeriesInstanceUID, place.label
        if uid not in truth.index or place.mm <= rules.far or truth.at[uid, label] != 1:
            continue
        mm = "no finding is near" if np.isinf(place.mm) else f"{place.mm:.0f} mm to a finding"
        why = f"train_localizers.csv, line {place.line}: {mm}; is its point right?"
        strength = min(place.mm, 1e6) / 1e6  # the farthest first
        row = proposal(uid, label, 1, FAR, probabilities.at[uid, label], why)
        rows.append(row | {"strength": strength})
    return rows


def proposal(uid: str, label: str, value: int, kind: str, probability: float, why: str) -> dict:
    return {
        UID: uid,
        "label": label,
        "value": value,
        "reason": kind,
        "probability": round(float(probability), 4),
        "why": why,
        "strength": float(probability) if value else 1 - float(probability),
    }
