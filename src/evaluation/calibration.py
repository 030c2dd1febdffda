"""Whether probabilities mean what they say, and one temperature a label that corrects them.

scipy is imported inside the functions, so that scripts start quickly.
"""

import numpy as np

BINS = 10  # of a reliability curve
FEWEST = 5  # rows of either class from which a temperature is fitted
COLDEST, HOTTEST = 0.05, 20.0  # range of temperatures
CERTAIN = 1e-7  # probabilities are kept this far from 0 and 1


def logit(probabilities: np.ndarray) -> np.ndarray:
    """Return log(p / (1 - p)) of probabilities in 0..1, kept CERTAIN away from both ends."""
    from scipy import special

    return special.logit(np.clip(probabilities, CERTAIN, 1 - CERTAIN))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities 0..1 of logits."""
    from scipy import special

    return special.expit(logits)


def log_loss(truth: np.ndarray, logits: np.ndarray) -> float:
    """Return the mean -log(probability of the truth) in nats; exact where probabilities round."""
    return float(np.mean(np.logaddexp(0, logits) - truth * logits))


def can_fit(truth: np.ndarray) -> bool:
    """Return whether labels 0, 1 or NaN (N,) hold enough of both for a temperature."""
    truth = truth[~np.isnan(truth)]
    return FEWEST <= truth.sum() <= len(truth) - FEWEST


def fit_temperature(truth: np.ndarray, logits: np.ndarray) -> float:
    """Return the t in COLDEST..HOTTEST with the least log loss of logits / t (Guo et al. 2017).

    1.0 if `can_fit` says no. The loss is convex in 1 / t: its slope is zero there, or t a bound.
    """
    from scipy import optimize

    def slope(inverse: float) -> float:
        return np.mean(logits * (sigmoid(inverse * logits) - truth))

    if not can_fit(truth):
        return 1.0
    if slope(1 / COLDEST) <= 0:
        return COLDEST
    if slope(1 / HOTTEST) >= 0:
        return HOTTEST
    return float(1 / optimize.brentq(slope, 1 / HOTTEST, 1 / COLDEST))


def fit_temperatures(truth: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Return the temperature of each column: (L,). truth, logits: (N, L); a truth may be NaN."""
    temperatures = []
    for column, theirs in zip(truth.T, logits.T, strict=True):
        known = ~np.isnan(column)
        temperatures.append(fit_temperature(column[known], theirs[known]))
    return np.array(temperatures)


def crossfit(truth: np.ndarray, logits: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Return the logits (N, L), those of each part divided by temperatures fitted on all others."""
    cooled = np.empty_like(logits)
    for part in np.unique(parts):
        inside = parts == part
        cooled[inside] = logits[inside] / fit_temperatures(truth[~inside], logits[~inside])
    return cooled


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
    # Rounding may put an end on the wrong side of fractions 0 and 1.
    return np.minimum(middle - half, fraction), np.maximum(middle + half, fraction)
