"""Deal series into folds, stratified; the series of one patient stay together."""

import hashlib

import numpy as np
import pandas as pd

from src.labels import LABELS, PRESENT
from src.script import UserError


def seeded_order(uid: str, seed: int) -> int:
    """Return a 64-bit hash of (seed, uid): it looks random and depends on nothing else."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{uid}".encode(), digest_size=8).digest(), "big")


def patients(series: pd.DataFrame, folds: int) -> pd.Series:
    """Return the patient of each series: patient_id, or the series itself if that is unusable.

    An id is unusable if it is empty, or a placeholder such as "ANONYMOUS": one that covers more
    than 1 / folds of all series (and more than 2) could not be dealt.
    """
    known = series.patient_id.fillna("").str.strip()
    count = known.map(known.value_counts())
    unusable = (known == "") | ((count > 2) & (count > len(series) / folds))
    return known.where(~unusable, series.SeriesInstanceUID)


def deal(series: pd.DataFrame, folds: int, seed: int) -> np.ndarray:
    """Return the fold 0..folds-1 of each row, (N,) int; it does not depend on the rows' order.

    The patients are sorted by presence, modality, sex and labels of their first series and dealt
    round-robin; a hash of (seed, uid) breaks ties.
    Raise UserError if there are fewer patients than folds, or fewer than two folds.
    """
    if folds < 2:
        raise UserError(f"--folds {folds}: give --folds 2 or more, one is held out")
    table = series.assign(
        patient=patients(series, folds),
        tie=series.SeriesInstanceUID.map(lambda uid: seeded_order(uid, seed)),
    )
    table["sex"] = table.PatientSex.astype(object).fillna("") if "PatientSex" in table else ""
    keys = [LABELS[PRESENT], "Modality", "sex", *LABELS[:PRESENT], "tie"]
    in_order = table.sort_values(keys).patient.drop_duplicates()
    if len(in_order) < folds:
        raise UserError(
            f"{len(series)} series of {len(in_order)} patients cannot fill {folds} folds: "
            "choose fewer with --folds"
        )
    fold_of = pd.Series(np.arange(len(in_order)) % folds, index=in_order)
    return table.patient.map(fold_of).to_numpy(int)
