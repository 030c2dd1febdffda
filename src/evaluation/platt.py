"""Scale and offset of logits that make probabilities mean what they say, and keep their order.

The calibrated logit of label k is scale * logit + offset (Platt 1999, "Probabilistic outputs for
support vector machines"). The labels share a map; a rare label follows the others:

    locations   exp(s) * logit + b + u_k,   u_k ~ N(0, spread^2)
    presence    exp(t) * logit + c

The maximum of the posterior is found, and its covariance is the inverse of the expected information
there (Breslow & Clayton 1993). The spread is that of the evidence: the sum of u^2 over the number
of well determined u (MacKay 1992, Schall 1991), so that labels which do not differ have none.

Two labels have different maps, and may change places in a series, only by measured evidence: the
95 % interval of the difference of their offsets excludes 0 (of scale and offset together, where
presence is one of them). `fit_maps` ends with groups of labels of one map each, any two of which
differ so. Rows are taken as independent, which those of one patient are not quite.
"""

from itertools import combinations
from typing import NamedTuple

import numpy as np

from src.evaluation.calibration import calibrated, can_fit, sigmoid
from src.labels import LABELS, PRESENT

SHARED, ALONE = 0, -1  # groups of labels; others have the shared scale and an offset of their own
WIDE_SCALE, WIDE_OFFSET = 2.0, 10.0  # standard deviations of the priors of s, t and of b, c
LEAST_SPREAD, ROUNDS = 0.01, 30  # of the u, and of the search for their spread
CERTAIN = 1.96  # standard deviations, half a 95 % interval
DOUBT = 0.05  # two groups are one if this much of the posterior is farther out than no difference
COMMON = 4  # number of s, b, t, c: the parameters before the u


class Maps(NamedTuple):
    """A calibrated logit is scale * logit + offset."""

    scales: np.ndarray  # (L,) above 0
    offsets: np.ndarray  # (L,)
    groups: np.ndarray  # (L,) labels of one group have one map


class Posterior(NamedTuple):
    """A Gaussian of the parameters s, b, t, c and one u a group. P of them, L labels."""

    mean: np.ndarray  # (P,)
    covariance: np.ndarray  # (P, P)
    of_scale: np.ndarray  # (L, P): of_scale @ mean is the logarithm of the scale
    of_offset: np.ndarray  # (L, P): of_offset @ mean is the offset

    def maps(self, groups: np.ndarray) -> Maps:
        return Maps(np.exp(self.of_scale @ self.mean), self.of_offset @ self.mean, groups)

    def doubt(self, first: int, second: int) -> float:
        """Return how much of the posterior is farther out than that two labels have one map."""
        from scipy import stats

        rows = np.stack([each[first] - each[second] for each in (self.of_scale, self.of_offset)])
        rows = rows[rows.any(axis=1)]  # (1 or 2, P); none if they share all
        if not len(rows):
            return 1.0
        difference = rows @ self.mean
        spread = rows @ self.covariance @ rows.T
        return float(stats.chi2.sf(difference @ np.linalg.solve(spread, difference), len(rows)))


def fit_maps(truth: np.ndarray, logits: np.ndarray) -> Maps:
    """Return the maps of the 14 labels. truth, logits: (N, 14); truth is 0, 1 or NaN.

    A label needs FEWEST positives and negatives for an offset of its own, and presence for a scale.
    With fewer of all labels together logits stay as they are.
    """
    groups = np.full(len(LABELS), SHARED)
    if not can_fit(truth.ravel()):
        return Maps(np.ones(len(LABELS)), np.zeros(len(LABELS)), groups)
    if can_fit(truth[:, PRESENT]) and can_fit(truth[:, :PRESENT].ravel()):
        groups[PRESENT] = ALONE
    each, spread = groups.copy(), 1.0
    each[:PRESENT] = 1 + np.arange(PRESENT)
    enough = np.array([can_fit(column) for column in truth[:, :PRESENT].T])  # (13,)
    posterior, spread = _with_spread(truth, logits, each, enough)
    deviations = posterior.covariance.diagonal()[COMMON:] ** 0.5
    for k, (mean, deviation) in enumerate(zip(posterior.mean[COMMON:], deviations, strict=True)):
        if enough[k] and abs(mean) > CERTAIN * deviation:
            groups[k] = 1 + k
    while True:
        posterior = fit(truth, logits, groups, spread)
        pair = _most_alike(posterior, groups)
        if pair is None:
            return posterior.maps(groups)
        kept, merged = pair
        groups[groups == merged] = kept


def fit_one(truth: np.ndarray, logits: np.ndarray) -> tuple[float, float] | None:
    """Return scale and offset of one quantity, None with too few to fit. truth, logits: (N,)."""
    if not can_fit(truth):
        return None
    groups = np.array([SHARED])
    found = fit(truth[:, None], logits[:, None], groups, 1.0).maps(groups)
    return float(found.scales[0]), float(found.offsets[0])


def crossfit(truth: np.ndarray, logits: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Return the calibrated logits (N, 14), those of each part by maps fitted on all others."""
    crossfitted = np.empty_like(logits)
    for part in np.unique(parts):
        inside = parts == part
        scales, offsets, _ = fit_maps(truth[~inside], logits[~inside])
        crossfitted[inside] = calibrated(logits[inside], scales, offsets)
    return crossfitted


def fit(
    truth: np.ndarray,
    logits: np.ndarray,
    groups: np.ndarray,
    spread: float,
    start: np.ndarray | None = None,
) -> Posterior:
    """Return the posterior of the maps of given groups. truth, logits: (N, L); groups: (L,)."""
    from scipy import optimize

    density = _Density(truth, logits, groups, spread)
    start = np.zeros(len(density.tight)) if start is None else start
    options = {"max_trust_radius": 4.0, "gtol": 1e-5}
    found = optimize.minimize(
        density.loss, start, jac=True, hess=density.curvature, method="trust-exact", options=options
    )
    covariance = np.linalg.inv(density.information(found.x))
    return Posterior(found.x, covariance, density.of_scale, density.of_offset)


class _Density:
    """-log of the posterior density at a point (P,), and its derivatives."""

    def __init__(self, truth: np.ndarray, logits: np.ndarray, groups: np.ndarray, spread: float):
        self.of_scale, self.of_offset = _design(groups)
        self.tight = np.full(self.of_scale.shape[1], spread**-2.0)  # (P,) precision of the prior
        self.tight[:COMMON] = (WIDE_SCALE**-2, WIDE_OFFSET**-2) * 2
        self.known = ~np.isnan(truth)
        self.labels, self.logits = np.where(self.known, truth, 0), logits  # (N, L)

    def loss(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        scales, given = self._calibrated(point)
        nats = np.logaddexp(0, given) - self.labels * given
        once, by_logit, _ = self._sums(sigmoid(given) - self.labels)
        slope = (scales * by_logit) @ self.of_scale + once @ self.of_offset + self.tight * point
        return nats[self.known].sum() + self.tight @ point**2 / 2, slope

    def information(self, point: np.ndarray) -> np.ndarray:
        """Return the expected curvature (P, P), which is positive definite."""
        scales, given = self._calibrated(point)
        probabilities = sigmoid(given)
        once, by_logit, by_square = self._sums(probabilities * (1 - probabilities))
        of_scale = self.of_scale * scales[:, None]  # (L, P) slopes of the scales
        mixed = of_scale.T @ (by_logit[:, None] * self.of_offset)
        squares = of_scale.T @ (by_square[:, None] * of_scale)
        squares += self.of_offset.T @ (once[:, None] * self.of_offset)
        return squares + mixed + mixed.T + np.diag(self.tight)

    def curvature(self, point: np.ndarray) -> np.ndarray:
        """Return the observed curvature (P, P): scales are exponentials."""
        scales, given = self._calibrated(point)
        _, by_logit, _ = self._sums(sigmoid(given) - self.labels)
        bent = self.of_scale.T @ ((scales * by_logit)[:, None] * self.of_scale)
        return self.information(point) + bent

    def _calibrated(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the scales (L,) and the calibrated logits (N, L)."""
        scales = np.exp(self.of_scale @ point)
        return scales, scales * self.logits + self.of_offset @ point

    def _sums(self, values: np.ndarray) -> list[np.ndarray]:
        """Return the sums (L,) of known values (N, L) times 1, the logit and its square."""
        values = np.where(self.known, values, 0)
        return [(values * self.logits**power).sum(axis=0) for power in range(3)]


def _design(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `of_scale` and `of_offset` (L, P) of Posterior."""
    own = np.unique(groups[groups > SHARED]).tolist()
    of_scale = np.zeros((len(groups), COMMON + len(own)))
    of_offset = np.zeros_like(of_scale)
    for k, group in enumerate(groups):
        of_scale[k, 2 if group == ALONE else 0] = 1
        of_offset[k, 3 if group == ALONE else 1] = 1
        if group > SHARED:
            of_offset[k, COMMON + own.index(group)] = 1
    return of_scale, of_offset


def _with_spread(
    truth: np.ndarray, logits: np.ndarray, groups: np.ndarray, enough: np.ndarray
) -> tuple[Posterior, float]:
    """Return the posterior with the spread of the u that the data support, and the spread.

    enough: (13,) which locations are asked.
    """
    spread, start = 1.0, None
    for _ in range(ROUNDS):
        posterior = fit(truth, logits, groups, spread, start)
        start, before = posterior.mean, spread
        variances = posterior.covariance.diagonal()[COMMON:][enough]
        determined = np.sum(1 - variances / spread**2)  # 0 to the number of u
        square = np.sum(start[COMMON:][enough] ** 2) / max(determined, 1e-9)
        spread = max(float(square) ** 0.5, LEAST_SPREAD)
        if abs(spread - before) < 0.01 * before:
            break
    return posterior, before


def _most_alike(posterior: Posterior, groups: np.ndarray) -> tuple[int, int] | None:
    """Return the two groups that differ least, the one to keep first; None if all differ."""
    found = {}
    for first, second in combinations(np.unique(groups).tolist(), 2):
        members = [int(np.flatnonzero(groups == each)[0]) for each in (first, second)]
        pair = (second, first) if first == ALONE else (first, second)
        found[pair] = posterior.doubt(*members)
    pair = max(found, key=found.get, default=None)
    return pair if pair and found[pair] > DOUBT else None
