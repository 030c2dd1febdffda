"""Whether probabilities mean what they say. What corrects them is fitted in platt.py.

scipy is imported inside the functions, so that scripts start quickly.
"""

import numpy as np

from src.labels import PRESENT

BINS = 10  # of a reliability curve
FEWEST = 5  # rows of either class from which a map is fitted
HAIR = 1e-3  # of a difference of logits, which keeps an order that would be lost
CERTAIN = 1e-7  # probabilities are kept this far from 0 and 1


def logit(probabilities: np.ndarray) -> np.ndarray:
    """Return log(p / (1 - p)) of probabilities in 0..1, kept CERTAIN away from both ends."""
    from scipy import special

    return special.logit(np.clip(probabilities, CERTAIN, 1 - CERTAIN))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities 0..1 of logits."""
    from scipy import special

    return special.expit(logits)


def apply(probabilities: np.ndarray, scales: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the calibrated probabilities (..., 14)."""
    return sigmoid(calibrated(logit(probabilities), scales, offsets))


def apply_one(probability: float, scale: float, offset: float) -> float:
    """Return the calibrated probability of one quantity, such as a finding."""
    return float(sigmoid(scale * logit(probability) + offset))


def calibrated(logits: np.ndarray, scales: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return scale * logit + offset (..., 14); scales, offsets: (14,).

    An aneurysm at a place is an aneurysm: presence does not fall below a location that it was
    above. It is raised above the highest of these, by a hair.
    """
    found = scales * logits + offsets
    above = logits[..., PRESENT:] - logits[..., :PRESENT]  # (..., 13)
    raised = np.where(above >= 0, found[..., :PRESENT] + HAIR * above, -np.inf).max(axis=-1)
    found[..., PRESENT] = np.maximum(found[..., PRESENT], raised)
    return found


def log_loss(truth: np.ndarray, logits: np.ndarray) -> float:
    """Return the mean -log(probability of the truth) in nats; exact where probabilities round."""
    return float(np.mean(np.logaddexp(0, logits) - truth * logits))


def can_fit(truth: np.ndarray) -> bool:
    """Return whether labels 0, 1 or NaN (N,) hold enough of both for a fit."""
    truth = truth[~np.isnan(truth)]
    return FEWEST <= truth.sum() <= len(truth) - FEWEST


def reliability(
    truth: np.ndarray, probabilities: np.ndarray, bins: int = BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean probability, fraction of positives and number of rows of bins: three (bins,).

    Bins hold equally many rows (N,), the lowest probabilities first. Rows of equal probability
    count as their mean, so their order does not matter; scikit-learn's quantile bins would merge.
    """
    _, groups, sizes = np.unique(probabilities, return_inverse=True, return_counts=True)
    fractions = (np.bincount(groups, truth) / sizes)[groups]  # (N,)
    rows = np.array_split(np.argsort(probabilities, kind="stable"), min(bins, len(truth)))
    predicted = np.array([probabilities[chosen].mean() for chosen in rows])
    observed = np.array([fractions[chosen].mean() for chosen in rows])
    return predicted, observed, np.array([len(chosen) for chosen in rows])


def calibration_error(truth: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> float:
    """Return the expected calibration error (Guo et al. 2017, here with bins of equally many rows).

    The mean distance of a bin's mean probability from its fraction of positives, weighted by rows.
    """
    predicted, observed, counts = reliability(truth, probabilities, bins)
    return float(np.average(np.abs(predicted - observed), weights=counts))


def chance_error(probabilities: np.ndarray, draws: int = 100, seed: int = 0) -> float:
    """Return the mean `calibration_error` of labels drawn with the probabilities (N,); not 0."""
    uniform = np.random.default_rng(seed).random((draws, len(probabilities)))
    errors = [calibration_error(drawn, probabilities) for drawn in uniform < probabilities]
    return float(np.mean(errors))


def wilson(fraction: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the 95 % interval of a fraction of `counts` rows (Wilson 1927)."""
    z2 = 1.96**2
    middle = (fraction + z2 / (2 * counts)) / (1 + z2 / counts)
    variance = fraction * (1 - fraction) * z2 / counts + z2**2 / (4 * counts**2)
    half = np.sqrt(variance) / (1 + z2 / counts)
    # Rounding may put an end on the wrong side of fractions 0 and 1, or outside of these.
    return np.clip(middle - half, 0, fraction), np.clip(middle + half, fraction, 1)
