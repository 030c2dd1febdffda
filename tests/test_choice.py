"""Stage 2's step and weight of stage 1: which pair wins, with tables made by hand."""

import pytest

from src.evaluation.choice import PLAIN, Choice, Chosen, best, candidates, of_ensemble, of_folds


def table(**scores) -> list:
    """Return the rows of a fold: step1_w4=0.8 is the score of step 1 with weight 0.4."""
    rows = []
    for name, score in scores.items():
        step, weight = name.removeprefix("step").split("_w")
        rows.append([int(step), int(weight) / 10, score])
    return rows


def fold(step, weight, **scores) -> dict:
    return {"step": step, "stage1_weight": weight, "choices": table(**scores)}


def test_twelve_pairs_the_published_one_first():
    pairs = candidates((1, 2))
    assert len(pairs) == len(set(pairs)) == 12
    assert pairs[0] == (1, 0.0)
    assert {pair.stage1_weight for pair in pairs} == {0, 0.2, 0.4, 0.6, 0.8, 1}
    assert candidates((1, 2), 0.3) == [(1, 0.3), (2, 0.3)]
    assert PLAIN in pairs and PLAIN.step == 1


def test_the_highest_mean_over_the_tables_wins():
    first = table(step1_w0=0.7, step2_w0=0.9, step1_w6=0.8)
    second = table(step1_w6=0.8, step1_w0=0.7, step2_w0=0.6)  # means 0.7, 0.75, 0.8
    assert best([first]) == (2, 0.0)
    assert best([first, second]) == (1, 0.6)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ({"step2_w4": 0.8, "step1_w6": 0.8, "step1_w4": 0.8}, (1, 0.4)),
        ({"step1_w6": 0.8, "step2_w0": 0.8}, (2, 0.0)),
        ({"step2_w2": 0.1 + 0.2, "step1_w0": 0.3}, (1, 0.0)),  # differ in the last bit only
    ],
)
def test_of_equals_the_published_wins(rows, expected):
    assert best([table(**rows)]) == expected


def test_a_fold_without_scores_says_nothing():
    nothing = table(step1_w0=None, step2_w0=None)
    scored = table(step1_w0=0.5, step2_w0=0.6)
    assert best([nothing, scored]) == (2, 0.0)
    assert best([nothing]) is None and best([]) is None and best([[]]) is None
    assert best([table(step1_w0=float("nan"), step2_w0=0.1)]) == (2, 0.0)


def test_only_pairs_that_every_table_knows_can_win():
    whole = table(step1_w0=0.9, step1_w6=0.5)
    assert best([whole, table(step1_w6=0.5)]) == (1, 0.6)
    assert best([whole, table(step1_w3=0.5)]) is None
    assert best([whole], fixed=0.6) == (1, 0.6)
    assert best([whole], fixed=0.2) is None


def test_each_fold_is_judged_with_what_the_others_chose():
    folds = {
        0: fold(1, 0.0, step1_w0=1.0, step2_w6=0.1),
        1: fold(2, 0.6, step1_w0=0.2, step2_w6=0.4),
        2: fold(2, 0.6, step1_w0=0.3, step2_w6=0.6),
    }
    pairs = of_folds(folds)
    assert pairs[0] == Chosen(Choice(2, 0.6), "other folds")  # 0.25 and 0.5
    assert pairs[1].pair == (1, 0.0)  # 0.65 and 0.35
    assert pairs[2].pair == (1, 0.0)  # 0.6 and 0.25
    assert of_ensemble(list(folds.values())) == (1, 0.0)  # 0.5 and 0.37
    assert str(pairs[0]) == "step 2, weight of stage 1 0.6 (chosen on other folds)"


def test_what_a_fold_scores_has_no_say_in_how_it_is_judged():
    low = {0: fold(1, 0.0, step1_w0=0.1, step2_w6=0.9), 1: fold(1, 0.2, step1_w0=0.6, step2_w6=0.5)}
    high = {**low, 0: fold(2, 0.6, step1_w0=0.9, step2_w6=0.1)}
    assert of_folds(low)[0] == of_folds(high)[0] == Chosen(Choice(1, 0.0), "other folds")


def test_a_fold_alone_takes_its_own_pair():
    one = fold(2, 0.4, step2_w4=0.8)
    assert of_folds({3: one})[3] == Chosen(Choice(2, 0.4), "the held-out fold")
    assert of_ensemble([one]) is None
    old = {"step": 2, "stage1_weight": 0.3}  # a checkpoint without a table
    assert of_folds({0: old, 1: old})[0] == Chosen(Choice(2, 0.3), "the held-out fold")
    assert of_ensemble([old, old]) is None


def test_the_last_epoch_is_not_chosen():
    folds = {0: fold(1, 0.6, step2_w0=0.9), 1: fold(1, 0.6, step2_w0=0.9)}
    assert of_folds(folds, "last")[1] == Chosen(Choice(1, 0.6), "nothing")
