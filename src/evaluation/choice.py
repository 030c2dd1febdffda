"""The step and the weight of stage 1's maximum with which stage 2 predicts, chosen by scores.

train_stage2.py stores the scores of all pairs with its best weights, as the setting `choices`:
rows (step, weight, score), None where the held-out fold gives no score.
"""

from typing import NamedTuple

import numpy as np

from src.artifacts.checkpoints import UNCHOSEN

WEIGHTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # 0: the transformer alone, as published
DIGITS = 9  # to which scores are compared: means of the same numbers may differ in the last bit


class Choice(NamedTuple):
    """With which neighbours the slices are read, and how much their highest logits count."""

    step: int
    stage1_weight: float

    def __str__(self) -> str:
        return f"step {self.step}, weight of stage 1 {self.stage1_weight:g}"


class Chosen(NamedTuple):
    """A pair, and on what it was chosen: other folds, the held-out fold, nothing."""

    pair: Choice
    on: str

    def __str__(self) -> str:
        return f"{self.pair} (chosen on {self.on})"

    def as_json(self) -> dict:
        return {**self.pair._asdict(), "chosen_on": self.on}


PLAIN = Choice(**UNCHOSEN)  # where no score has chosen


def candidates(steps: tuple[int, ...], fixed: float | None = None) -> list[Choice]:
    """Return all pairs, the smallest weight and step first. fixed: the only weight, or None."""
    weights = WEIGHTS if fixed is None else (float(fixed),)
    return [Choice(step, weight) for weight in weights for step in steps]


def best(tables: list[list], fixed: float | None = None) -> Choice | None:
    """Return the pair with the highest mean score over the folds' tables; None without scores.

    A table without any score says nothing. Of the others each must know the pair. Equal pairs: the
    smaller weight, then the smaller step, which is the published one.
    tables: rows (step, weight, score or None).
    fixed: the only weight that may win, or None.
    """
    scores = [_scores(table) for table in tables]
    scores = [known for known in scores if known]
    if not scores:
        return None
    shared = set.intersection(*[set(known) for known in scores])
    ranked = []
    for pair in shared:
        if fixed is None or pair.stage1_weight == fixed:
            mean = np.mean([known[pair] for known in scores])
            ranked.append((-round(float(mean), DIGITS), pair.stage1_weight, pair.step))
    if not ranked:
        return None
    _, weight, step = min(ranked)
    return Choice(step, weight)


def _scores(table: list) -> dict[Choice, float]:
    found = {}
    for step, weight, score in table:
        if score is not None and np.isfinite(score):
            found[Choice(step, weight)] = score
    return found


def of_folds(settings: dict[int, dict], select: str = "best") -> dict[int, Chosen]:
    """Return the pair for the held-out series of each fold.

    Other folds choose, so that the scores that are reported had no say. A fold that is alone, or
    beside folds without scores, takes its own pair; so does each with `select` "last".
    settings: of stage 2, of all folds that are evaluated together.
    """
    found = {}
    for fold, ours in settings.items():
        if select == "last":
            found[fold] = Chosen(own(ours), "nothing")
            continue
        others = [theirs.get("choices", []) for other, theirs in settings.items() if other != fold]
        pair = best(others)
        on = "other folds" if pair else ours.get("chosen_on", "the held-out fold")
        found[fold] = Chosen(pair or own(ours), on)
    return found


def own(settings: dict) -> Choice:
    """Return the pair that is stored with the weights."""
    return Choice(settings["step"], settings["stage1_weight"])


def of_ensemble(settings: list[dict]) -> Choice | None:
    """Return one pair for the networks of several folds on new data.

    None where each keeps its own: a single one, or networks without scores.
    """
    if len(settings) < 2:
        return None
    return best([theirs.get("choices", []) for theirs in settings])
