"""Draw patients, not series: the bootstrap; intervals that hold where it cannot, for few rows.

scipy is imported inside the functions, so that scripts start quickly.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from src.evaluation.calibration import wilson
from src.evaluation.metrics import drawn_counts


def patient_numbers(patients: Sequence[str]) -> np.ndarray:
    """Return the number of each row's patient (N,), in order of first appearance.

    An identifier that is empty, or a placeholder such as "ANONYMOUS" (it covers more than 2 rows
    and more than half of all), makes each row a patient of its own.
    patients: (N,) identifiers.
    """
    names = pd.Series(patients, dtype=object).fillna("").astype(str).str.strip()
    counts = names.map(names.value_counts())
    unusable = (names == "") | ((counts > 2) & (counts > len(names) / 2))
    rows = pd.Series(range(len(names)), dtype=object)
    return pd.factorize(names.where(~unusable, rows))[0]


def patient_counts(patients: np.ndarray, draws: int, seed: int = 0) -> np.ndarray:
    """Return how often each row occurs in each bootstrap sample: (draws, N) float64.

    A sample draws as many patients as there are, with replacement, and takes all rows of each.
    If each row is a patient, the samples are those of `drawn_counts`.
    patients: (N,) from `patient_numbers`.
    """
    if not len(patients):
        return np.zeros((draws, 0))
    return drawn_counts(int(patients.max()) + 1, draws, seed)[:, patients]


def fraction_interval(hits: np.ndarray, patients: np.ndarray) -> list[float] | None:
    """Return the 95 % interval of the fraction of `hits` (N,) bool; None without rows.

    Wilson's interval, with fewer rows where rows of one patient resemble one another (the
    effective sample size of Korn and Graubard 1998). Where all or none hit, nothing shows how much
    they do: then the patients are counted, not their rows.
    patients: (N,) whose each row is.
    """
    if not len(hits):
        return None
    fraction, rows = hits.mean(), len(hits)
    _, members = np.unique(patients, return_inverse=True)
    deviations = np.bincount(members, hits - fraction)  # (number of patients,)
    if fraction in (0, 1):
        rows = len(deviations)
    else:
        variance = (deviations**2).sum() / rows**2
        rows /= max(1.0, variance / (fraction * (1 - fraction) / rows))
    low, high = wilson(np.array(fraction), np.array(rows))
    return [float(low), float(high)]


def auc_interval(area: float, positives: int, negatives: int) -> list[float]:
    """Return the 95 % interval of an AUC of so many positives and negatives, both at least 1.

    Newcombe's fifth method (2006): the AUCs from which this one is 1.96 standard errors or less
    away, by the variance that each of these would have. It is no point where the AUC is 1.
    """
    return [
        _lowest_auc(area, positives, negatives),
        1 - _lowest_auc(1 - area, positives, negatives),
    ]


def _lowest_auc(area: float, positives: int, negatives: int) -> float:
    from scipy import optimize

    middle = (positives + negatives) / 2

    def beyond(lowest: float) -> float:
        paired = (1 - lowest) / (2 - lowest) + lowest / (1 + lowest)
        variance = lowest * (1 - lowest) * (1 + (middle - 1) * paired) / (positives * negatives)
        return area - lowest - 1.96 * variance**0.5

    edge = area - 1e-9  # of an AUC of 1 the AUC itself solves the equation, too
    return float(optimize.brentq(beyond, 0, edge)) if edge > 0 else 0.0
