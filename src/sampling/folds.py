"""Deal series into folds: stratified by presence, modality, sex and labels; the series of one patient stay together."""

import hashlib

import numpy as np
import pandas as pd

from src.labels import LABELS, PRESENT
from src.script import UserError


def seeded_order(uid: str, seed: int) -> int:
    """A number that looks random and depends on (seed, uid) only: 64 bits of a hash."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{uid}".encode(), digest_size=8).digest(), "big")


def patients(series: pd.DataFrame, folds: int) -> pd.Series:
    """Whom each series belongs to: patient_id, or the series itself where it is missing or plainly a placeholder.

    An id that covers more than 1 / folds of all series (and more than 2) could not be dealt out: "ANONYMOUS" is nobody.
    """
    known = series.patient_id.fillna("").str.strip()
    count = known.map(known.value_counts())
    nobody = (known == "") | ((count > 2) & (count > len(series) / folds))
    return known.where(~nobody, series.SeriesInstanceUID)


def deal(series: pd.DataFrame, folds: int, seed: int) -> np.ndarray:
    """Fold 0..folds-1 of each row, (N,) int. The same for any order of the rows.

    The patients are sorted by presence, modality, sex and labels of their first series, and dealt out round-robin; ties are
    broken by a hash of (seed, uid). Raises UserError where there are fewer patients than folds.
    """
    table = series.assign(
        patient=patients(series, folds),
        tie=series.SeriesInstanceUID.map(lambda uid: seeded_order(uid, seed)),
    )
    table["sex"] = table.PatientSex.fillna("").astype(str) if "PatientSex" in table else ""
    keys = [LABELS[PRESENT], "Modality", "sex", *LABELS[:PRESENT], "tie"]
    in_order = table.sort_values(keys).patient.drop_duplicates()
    if len(in_order) < folds:
        raise UserError(
            f"{len(series)} series of {len(in_order)} patients cannot fill {folds} folds: choose fewer with --folds"
        )
    fold_of = {patient: place % folds for place, patient in enumerate(in_order)}
    return table.patient.map(fold_of).to_numpy(int)
