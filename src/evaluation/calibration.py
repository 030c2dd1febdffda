"""Whether probabilities mean what they say: reliability, its error, and one temperature a label that sharpens or softens them. numpy only."""

import numpy as np

BINS = 10  # of a reliability curve
FEWEST = 5  # rows of either class from which a temperature is fitted
COLDEST, HOTTEST = 0.05, 20.0  # temperatures that are looked at
CERTAIN = 1e-7  # how near to 0 and 1 a probability is taken at its word
HALVINGS = 60  # of the interval that holds the temperature


def logit(probabilities: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) of probabilities in 0..1, kept CERTAIN away from both ends; any shape."""
    kept = np.clip(probabilities, CERTAIN, 1 - CERTAIN)
    return np.log(kept) - np.log1p(-kept)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities 0..1 of logits; any shape."""
    return np.exp(-np.logaddexp(0, -logits))


def log_loss(truth: np.ndarray, logits: np.ndarray) -> float:
    """Mean of -log(probability of what was true), in nats. truth: 0 or 1, logits: both of one shape."""
    return float(np.mean(np.logaddexp(0, logits) - truth * logits))


def can_fit(truth: np.ndarray) -> bool:
    """Whether labels 0 or 1 (N,) hold enough of both for a temperature."""
    return FEWEST <= truth.sum() <= len(truth) - FEWEST


def fit_temperature(truth: np.ndarray, logits: np.ndarray) -> float:
    """The t in COLDEST..HOTTEST for which sigmoid(logits / t) has the least log loss (Platt 1999 without his shift; Guo et al. 2017); both (N,).

    1.0 where `can_fit` says no. The loss is convex in 1 / t, so the sign of its slope tells on which side the best one lies.
    """
    if not can_fit(truth):
        return 1.0
    low, high = 1 / HOTTEST, 1 / COLDEST
    for _ in range(HALVINGS):
        middle = np.sqrt(low * high)
        slope = np.mean(logits * (sigmoid(middle * logits) - truth))
        low, high = (low, middle) if slope > 0 else (middle, high)
    return float(1 / np.sqrt(low * high))


def fit_temperatures(truth: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """(L,): the temperature of each column. Both (N, L)."""
    return np.array([fit_temperature(truth[:, k], logits[:, k]) for k in range(truth.shape[1])])


def crossfit(truth: np.ndarray, logits: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """The logits (N, L), those of each part divided by temperatures that were fitted on all other parts. parts: (N,), two different values at least."""
    cooled = np.empty_like(logits)
    for part in np.unique(parts):
        inside = parts == part
        cooled[inside] = logits[inside] / fit_temperatures(truth[~inside], logits[~inside])
    return cooled


def reliability(
    truth: np.ndarray, probabilities: np.ndarray, bins: int = BINS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean probability, share of positives and number of rows in bins of equally many rows, the lowest probabilities first: three of (bins,).

    truth, probabilities: (N,). Fewer bins where there are fewer rows. Each row of several with one probability counts as their mean, so that it does
    not matter which of them falls into which bin.
    """
    _, inverse, repeats = np.unique(probabilities, return_inverse=True, return_counts=True)
    shares = (np.bincount(inverse, truth) / repeats)[inverse]  # (N,)
    pieces = np.array_split(np.argsort(probabilities, kind="stable"), min(bins, len(truth)))
    predicted, observed = (
        np.array([values[piece].mean() for piece in pieces]) for values in (probabilities, shares)
    )
    return predicted, observed, np.array([len(piece) for piece in pieces])


def calibration_error(truth: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: the mean distance of a bin's mean probability from its share of positives, bins weighted by their rows (Guo et al.
    2017, there with bins of equal width; here of equally many rows, because nearly all probabilities are small). truth, probabilities: (N,)."""
    predicted, observed, counts = reliability(truth, probabilities, bins)
    return float(np.average(np.abs(predicted - observed), weights=counts))


def chance_error(probabilities: np.ndarray, draws: int = 100, seed: int = 0) -> float:
    """What `calibration_error` would be if the probabilities (N,) were exactly right: its mean over labels drawn with them. Not 0: bins are finite."""
    generator = np.random.default_rng(seed)
    return float(
        np.mean(
            [
                calibration_error(
                    generator.random(len(probabilities)) < probabilities, probabilities
                )
                for _ in range(draws)
            ]
        )
    )


def wilson(share: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % interval of a share of `counts` independent rows (Wilson 1927); all of one shape."""
    z2 = 1.96**2
    middle = (share + z2 / (2 * counts)) / (1 + z2 / counts)
    half = np.sqrt(share * (1 - share) * z2 / counts + z2**2 / (4 * counts**2)) / (1 + z2 / counts)
    return np.minimum(middle - half, share), np.maximum(
        middle + half, share
    )  # at 0 and 1 they are equal but for rounding
