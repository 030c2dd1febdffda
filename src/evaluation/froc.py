"""FROC: which aneurysms are found at how many false findings a case (Bunch et al. 1978).

One place for what a hit is. A finding within reach of an aneurysm hits it, and a finding that hits
none is false; a second finding that hits the same aneurysm is neither a hit more nor false.
"""

from dataclasses import dataclass, replace

import numpy as np

from src.evaluation.resampling import fraction_interval, patient_counts

HIT = 10.0  # mm, reach of an aneurysm where its own radius is not asked for
RATES = (0.25, 0.5, 1.0, 2.0)  # false findings a case


@dataclass(frozen=True)
class Judged:
    """The findings and the aneurysms of S cases (series), judged by one rule."""

    patients: np.ndarray  # (S,) number of each case's patient; none from 0 on is missing
    wrong: np.ndarray  # (W,) probabilities of the false findings
    wrong_case: np.ndarray  # (W,) whose they are, 0 to S - 1
    hit_by: np.ndarray  # (A,) highest probability of a finding that hits the aneurysm; 0 if none
    hit_case: np.ndarray  # (A,) whose they are

    def of_cases(self, chosen: np.ndarray) -> "Judged":
        """Return the cases of a mask (S,) alone."""
        number = np.cumsum(chosen) - 1
        wrong, hit = chosen[self.wrong_case], chosen[self.hit_case]
        return Judged(
            np.unique(self.patients[chosen], return_inverse=True)[1],
            self.wrong[wrong],
            number[self.wrong_case[wrong]],
            self.hit_by[hit],
            number[self.hit_case[hit]],
        )

    def of_aneurysms(self, chosen: np.ndarray) -> "Judged":
        """Return the aneurysms of a mask (A,) alone. A finding that hits others is not false."""
        return replace(self, hit_by=self.hit_by[chosen], hit_case=self.hit_case[chosen])


def judge(
    places: np.ndarray, probabilities: np.ndarray, aneurysms: np.ndarray, reach: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray]:
    """Return which findings of a case are false (F,), and what hits each aneurysm (A,).

    places: (F, 3) mm. probabilities: (F,). aneurysms: (A, 3) mm. reach: mm of all, or (A,) of each.
    """
    apart = np.linalg.norm(places[:, None] - aneurysms, axis=2)  # (F, A)
    inside = apart <= reach
    hit_by = np.where(inside, probabilities[:, None], 0.0).max(axis=0, initial=0.0)
    return ~inside.any(axis=1), hit_by


def judge_cases(cases: list[tuple], patients: np.ndarray, reaches: list) -> Judged:
    """Return what `judge` says of all cases.

    cases: (places, probabilities, aneurysms) of each. patients: (S,) numbers, in any order.
    reaches: of each case.
    """
    wrong, wrong_case, hit_by, hit_case = ([np.empty(0)] for _ in range(4))
    for number, ((places, probabilities, aneurysms), reach) in enumerate(
        zip(cases, reaches, strict=True)
    ):
        is_false, hits = judge(places, probabilities, aneurysms, reach)
        wrong.append(probabilities[is_false])
        wrong_case.append(np.full(is_false.sum(), number))
        hit_by.append(hits)
        hit_case.append(np.full(len(hits), number))
    return Judged(
        np.unique(patients, return_inverse=True)[1],
        np.concatenate(wrong),
        np.concatenate(wrong_case).astype(int),
        np.concatenate(hit_by),
        np.concatenate(hit_case).astype(int),
    )


def thresholds(judged: Judged, rates: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the lowest threshold that leaves at most `rates` false findings a case above it: (R,).

    0 if all findings are not that many. counts: (S,), how often each case occurs.
    """
    order = np.argsort(-judged.wrong, kind="stable")
    above = counts[judged.wrong_case[order]].cumsum()
    first_too_many = np.searchsorted(above, np.asarray(rates) * counts.sum(), side="right")
    return np.append(judged.wrong[order], 0.0)[first_too_many]


def sensitivities(
    judged: Judged, rates: np.ndarray, counts: np.ndarray, chosen: np.ndarray
) -> np.ndarray:
    """Return the fraction of the chosen aneurysms above each of the `thresholds`: (R,).

    NaN if there is none. chosen: (A,) bool. counts: (S,), how often each case occurs.
    """
    hits = judged.hit_by[chosen] > thresholds(judged, rates, counts)[:, None]  # (R, A)
    weights = counts[judged.hit_case[chosen]]
    return hits @ weights / weights.sum() if weights.sum() else np.full(len(hits), np.nan)


def froc(
    judged: Judged,
    draws: int,
    rates: tuple[float, ...] = RATES,
    chosen: np.ndarray | None = None,
    seed: int = 0,
) -> list[dict]:
    """Return a row a rate: its threshold, what it is reached with, the sensitivity, its interval.

    The interval is the wider of two: of the bootstrap by patient, in which the threshold varies,
    and of `fraction_interval`, which does not shrink to nothing where all or none are hit.
    chosen: (A,) bool, the aneurysms that count (of a size); the false findings are those of all.
    """
    chosen = np.ones(len(judged.hit_by), bool) if chosen is None else chosen
    once = np.ones(len(judged.patients))
    counts = patient_counts(judged.patients, draws, seed)
    drawn = np.array([sensitivities(judged, rates, each, chosen) for each in counts])
    drawn = drawn.reshape(-1, len(rates))
    drawn = drawn[~np.isnan(drawn).any(axis=1)]  # (draws with an aneurysm, R)
    patients = judged.patients[judged.hit_case[chosen]]
    rows = []
    for k, threshold in enumerate(thresholds(judged, rates, once)):
        hits = judged.hit_by[chosen] > threshold
        ends = fraction_interval(hits, patients)
        if len(drawn):
            low, high = np.percentile(drawn[:, k], (2.5, 97.5))
            ends = [min(ends[0], float(low)), max(ends[1], float(high))]
        rows.append(
            {
                "rate": float(rates[k]),
                "threshold": float(threshold),
                "reached": float((judged.wrong > threshold).sum() / max(len(once), 1)),
                "hit": int(hits.sum()),
                "aneurysms": len(hits),
                "sensitivity": float(hits.mean()) if len(hits) else None,
                "interval": ends,
            }
        )
    return rows


def curve(judged: Judged) -> list[list[float]]:
    """Return [threshold, false findings a case, sensitivity] wherever the sensitivity rises.

    Findings at the threshold count.
    """
    rows = []
    for threshold in np.unique(judged.hit_by[judged.hit_by > 0])[::-1]:
        wrong = (judged.wrong >= threshold).sum() / len(judged.patients)
        hit = (judged.hit_by >= threshold).mean()
        rows.append([float(threshold), float(wrong), float(hit)])
    return rows
