"""Scores with unknown labels against scikit-learn; samples of patients are built row by row."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from src.evaluation import metrics
from src.evaluation.calibration import BINS
from src.evaluation.metrics import drawn_counts
from src.evaluation.resampling import auc_interval
from src.evaluation.scoring import (
    at_threshold,
    calibration_of,
    differences,
    drawn_scores,
    intervals,
    scores_of,
)
from src.labels import LABELS, LOCATIONS, PRESENT


def example(rows=90, seed=0, unknown=0.2):
    """Labels, a fifth of them unknown; probabilities in steps of 0.05; three rows a patient."""
    generator = np.random.default_rng(seed)
    truth = (generator.random((rows, 14)) < 0.4).astype(float)
    probabilities = np.round(0.3 * truth + 0.7 * generator.random((rows, 14)), 2)
    truth[generator.random((rows, 14)) < unknown] = np.nan
    return truth, probabilities, np.arange(rows) // 3


def plain_scores(truth, probabilities):
    """Return the 14 AUCs by scikit-learn, their mean, the weighted score; NaN if not defined."""
    aucs = []
    for k in range(14):
        rows = ~np.isnan(truth[:, k])
        both = len(set(truth[rows, k])) == 2
        aucs.append(
            reference.roc_auc_score(truth[rows, k], probabilities[rows, k]) if both else np.nan
        )
    defined = [area for area in aucs[:13] if not np.isnan(area)]
    mean = np.mean(defined) if defined else np.nan
    score = (aucs[13] + mean) / 2
    if np.isnan(truth[:, 13]).any() and np.isnan(aucs[13]):
        score = mean
    if np.isnan(truth[:, :13]).any() and np.isnan(mean):
        score = aucs[13]
    return np.array([*aucs, mean, score])


def listed(scores):
    values = [*scores["locations"].values(), scores["present"]]
    return [*values, scores["mean_location"], scores["score"]]


@given(st.integers(0, 10**6), st.integers(2, 60), st.sampled_from([0.0, 0.3, 0.9]))
@settings(max_examples=30, deadline=None)
def test_scores_are_those_of_scikit_learn(seed, rows, unknown):
    truth, probabilities, patients = example(rows, seed, unknown)
    found = [np.nan if value is None else value for value in
             listed(scores_of(truth, probabilities, patients, 2))]  # fmt: skip
    np.testing.assert_allclose(found, plain_scores(truth, probabilities), atol=1e-12)


def test_without_unknown_labels_they_are_those_of_the_eval_scripts():
    truth, probabilities, _ = example(unknown=0)
    found = scores_of(truth, probabilities, np.arange(90), 50)
    plain = metrics.weighted_score(truth.astype(int), probabilities)
    assert found.items() >= plain.items()
    assert found["mean_location"] == metrics.mean_location(plain)
    rows = drawn_rows(np.arange(90), 50, 0)
    drawn = [plain_scores(truth[part], probabilities[part]) for part in rows]
    assert found["intervals"].keys() == found.keys() - {"intervals"}
    expected = np.percentile(drawn, (2.5, 97.5), axis=0).T
    np.testing.assert_allclose(listed(found["intervals"]), expected)


def drawn_rows(patients, draws, seed):
    """Yield the rows of each bootstrap sample: a drawn patient brings all of its rows."""
    for counts in drawn_counts(patients.max() + 1, draws, seed).astype(int):
        yield np.repeat(np.arange(len(patients)), counts[patients])


def test_intervals_are_the_percentiles_of_patients_drawn_one_by_one():
    truth, probabilities, patients = example()
    drawn = [plain_scores(truth[rows], probabilities[rows]) for rows in drawn_rows(patients, 20, 3)]
    expected = np.percentile(drawn, (2.5, 97.5), axis=0).T
    np.testing.assert_allclose(listed(intervals(truth, probabilities, patients, 20, 3)), expected)


def test_patients_with_alike_rows_have_wider_intervals_than_rows_would():
    truth, probabilities, _ = example(60, unknown=0)
    truth, probabilities = np.repeat(truth, 5, axis=0), np.repeat(probabilities, 5, axis=0)
    by_patient = intervals(truth, probabilities, np.arange(300) // 5, 300)["present"]
    by_row = intervals(truth, probabilities, np.arange(300), 300)["present"]
    assert np.diff(by_patient) > 1.8 * np.diff(by_row)  # near the root of 5


def test_few_patients_of_a_class_have_an_interval_that_is_no_point():
    truth, probabilities, patients = example(60, unknown=0)
    for k, positives in ((2, [0, 1, 3, 6, 9]), (3, [0, 3, 6, 9, 12])):  # rows 0, 1: one patient
        truth[:, k], truth[positives, k] = 0, 1
    truth[:, 4] = np.nan
    bootstrap = [plain_scores(truth[rows], probabilities[rows])
                 for rows in drawn_rows(patients, 15, 0)]  # fmt: skip
    found = intervals(truth, probabilities, patients, 15)
    area = plain_scores(truth, probabilities)[2]
    assert found["locations"][LOCATIONS[2]] == auc_interval(area, 4, 20)
    expected = np.percentile([each[3] for each in bootstrap], (2.5, 97.5))
    assert found["locations"][LOCATIONS[3]] == pytest.approx(expected)
    assert found["locations"][LOCATIONS[4]] is None and found["score"] is not None
    truth[:, PRESENT], truth[:4, PRESENT] = 1, 0
    found = intervals(truth, probabilities, patients, 15)
    assert found["present"] is not None and found["score"] is None


def test_all_pairs_in_order_is_no_certainty():
    truth, probabilities, patients = example(60, unknown=0)
    probabilities[:] = truth
    found = intervals(truth, probabilities, patients, 15)
    for ends in (found["present"], *found["locations"].values()):
        assert ends[0] < 0.9 and ends[1] == 1
    assert found["score"] is None and found["mean_location"] is None


def test_nothing_known_is_no_score_and_no_warning():
    truth, probabilities = np.full((4, 14), np.nan), np.full((4, 14), 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = scores_of(truth, probabilities, np.arange(4), 5)
    assert set(listed(found)) == set(listed(found["intervals"])) == {None}
    assert calibration_of(truth, probabilities) is None


@pytest.mark.parametrize(
    ("unknown", "half"), [(slice(0, 13), "present"), (slice(13, 14), "locations")]
)
def test_where_one_half_is_unknown_the_other_is_the_score(unknown, half):
    truth, probabilities, patients = example()
    truth[:, unknown] = np.nan
    found = scores_of(truth, probabilities, patients, 20)
    name = {"present": "present", "locations": "mean_location"}[half]
    assert found["score_of"] == half and found["score"] == found[name]
    assert found["intervals"]["score"] == found["intervals"][name]
    known = np.nan_to_num(truth)  # the same without a class, although all is known: no score
    found = scores_of(known, probabilities, patients, 20)
    assert found["score"] is None and "score_of" not in found
    truth, probabilities, _ = example(unknown=0)
    assert "score_of" not in scores_of(truth, probabilities, patients, 5)


def test_negatives_that_are_known_and_positives_that_are_not_leave_the_presence():
    """Open data: no artery is named, only healthy series know that it is not there."""
    truth, probabilities, patients = example(unknown=0)
    truth[:, :PRESENT] = np.where(truth[:, PRESENT:] == 1, np.nan, 0)
    found = scores_of(truth, probabilities, patients, 20)
    assert found["score"] == found["present"] and found["mean_location"] is None


def test_counts_of_one_are_the_rows_themselves():
    truth, probabilities, _ = example()
    once = drawn_scores(truth, probabilities, np.ones((1, 90)))
    np.testing.assert_allclose(once[0], plain_scores(truth, probabilities))
    assert once.shape == (1, len(LABELS) + 2)


def test_differences_are_paired():
    truth, first, patients = example(seed=1)
    second = np.clip(first + np.random.default_rng(2).normal(0, 0.05, first.shape), 0, 1)
    found = differences(truth, first, second, patients, 15, seed=5)
    expected = plain_scores(truth, first) - plain_scores(truth, second)
    np.testing.assert_allclose(listed(found), expected, atol=1e-12)
    drawn = [
        plain_scores(truth[rows], first[rows]) - plain_scores(truth[rows], second[rows])
        for rows in drawn_rows(patients, 15, 5)
    ]
    ends = np.percentile(drawn, (2.5, 97.5), axis=0).T
    np.testing.assert_allclose(listed(found["intervals"]), ends, atol=1e-12)
    alone = intervals(truth, first, patients, 15, 5)["score"]
    assert np.diff(found["intervals"]["score"]) < np.diff(alone)  # the same patients cancel
    same = differences(truth, first, first, patients, 10)
    assert set(listed(same)) == {0.0} and same["intervals"]["score"] == [0.0, 0.0]
    truth[:, 0], truth[:5, 0] = 0, 1  # of two patients
    found = differences(truth, first, second, patients, 5)
    assert found["intervals"]["locations"][LOCATIONS[0]] is None


@pytest.mark.parametrize("threshold", [0.0, 0.35, 0.5, 1.0])
def test_sensitivity_and_specificity_are_those_of_scikit_learn(threshold):
    truth, probabilities, _ = example()
    for k in range(14):
        known = ~np.isnan(truth[:, k])
        called = probabilities[known, k] >= threshold
        found = at_threshold(truth[:, k], probabilities[:, k], threshold, np.arange(90))
        for name, value in (("sensitivity", 1), ("specificity", 0)):
            rate = reference.recall_score(truth[known, k], called, pos_label=value)
            assert found[name] == pytest.approx(rate)
            rows = found["positives" if value else "negatives"]
            assert rows == (truth[:, k] == value).sum()
            test = stats.binomtest(round(rate * rows), rows).proportion_ci(method="wilson")
            assert found[f"{name}_interval"] == pytest.approx([test.low, test.high], abs=1e-4)


def test_a_label_without_positives_has_a_specificity_alone():
    found = at_threshold(np.zeros(4), np.array([0.1, 0.2, 0.6, 0.5]), 0.5, np.arange(4))
    assert (found["sensitivity"], found["sensitivity_interval"]) == (None, None)
    assert (found["specificity"], found["positives"], found["negatives"]) == (0.5, 0, 4)


def test_calibration_is_that_of_scikit_learn():
    generator = np.random.default_rng(0)
    probabilities = generator.random(500)
    truth = (generator.random(500) < probabilities**2).astype(float)
    unknown = generator.permutation(500)[:100]  # so many that bins are equally full
    kept = np.setdiff1d(np.arange(500), unknown)
    truth[unknown] = np.nan
    found = calibration_of(truth, probabilities)
    labels, given = truth[kept], probabilities[kept]
    assert found["brier"] == pytest.approx(reference.brier_score_loss(labels, given))
    assert found["log_loss"] == pytest.approx(reference.log_loss(labels, given))
    rows = np.array(found["curve"])
    expected = calibration_curve(labels, given, n_bins=BINS, strategy="quantile")
    np.testing.assert_allclose((rows[:, 1], rows[:, 0]), expected, rtol=1e-12)
    assert (rows[:, 4] == 400 // BINS).all()
    apart = np.abs(rows[:, 0] - rows[:, 1])
    assert found["error"] == pytest.approx((apart * rows[:, 4]).sum() / len(kept))
    assert (found["rows"], found["positives"]) == (len(kept), labels.sum())
    assert (rows[:, 2] <= rows[:, 1]).all() and (rows[:, 1] <= rows[:, 3]).all()
