"""Patients are drawn whole; intervals of fractions against scipy and simulated patients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from src.evaluation.metrics import drawn_counts
from src.evaluation.resampling import (
    auc_interval,
    fraction_interval,
    patient_counts,
    patient_numbers,
)


def test_patients_are_numbered_as_they_appear_and_an_empty_name_is_nobody_else():
    assert patient_numbers(["b", "a", "", "b", "", "a"]).tolist() == [0, 1, 2, 0, 3, 1]
    assert patient_numbers(["0", "", " 0 ", None]).tolist() == [0, 1, 0, 2]
    assert patient_numbers([]).tolist() == []


def test_a_placeholder_is_nobody():
    assert patient_numbers(["x"] * 4).tolist() == [0, 1, 2, 3]
    assert patient_numbers(["x", "x", "b", "x", "b"]).tolist() == [0, 1, 2, 3, 2]
    assert patient_numbers(["x", "x", "b", "c", "x", "d"]).tolist() == [0, 0, 1, 2, 0, 3]  # half
    assert patient_numbers(["x", "x"]).tolist() == [0, 0]


def test_rows_of_a_patient_are_drawn_together_and_as_many_patients_as_there_are():
    patients = patient_numbers(["a", "b", "a", "c", "b", "d"])
    counts = patient_counts(patients, 500, seed=1)
    assert (counts[:, 0] == counts[:, 2]).all() and (counts[:, 1] == counts[:, 4]).all()
    assert (counts[:, [0, 1, 3, 5]].sum(axis=1) == 4).all()
    assert abs(counts.mean(axis=0) - 1).max() < 0.15


def test_where_each_row_is_a_patient_the_draws_are_those_of_rows():
    np.testing.assert_array_equal(patient_counts(np.arange(30), 20, 7), drawn_counts(30, 20, 7))
    assert patient_counts(np.arange(0), 20).shape == (20, 0)


@given(st.lists(st.booleans(), min_size=1, max_size=80))
@settings(deadline=None)
def test_rows_of_different_patients_have_wilsons_interval(hits):
    found = fraction_interval(np.array(hits), np.arange(len(hits)))
    expected = stats.binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
    assert found == pytest.approx([expected.low, expected.high], abs=1e-4)


def test_two_of_two_is_no_certainty():
    low, high = fraction_interval(np.array([True, True]), np.array([0, 1]))
    assert low == pytest.approx(0.342, abs=1e-3) and high == 1
    assert fraction_interval(np.array([], bool), np.array([], int)) is None


@pytest.mark.parametrize("value", [True, False])
def test_ten_rows_of_one_patient_say_no_more_than_one(value):
    same = fraction_interval(np.full(10, value), np.zeros(10, int))
    assert same == fraction_interval(np.array([value]), np.zeros(1, int))


def test_copies_of_the_rows_change_nothing():
    hits = np.random.default_rng(0).random(40) < 0.7
    patients = np.arange(40)
    once = fraction_interval(hits, patients)
    thrice = fraction_interval(np.tile(hits, 3), np.tile(patients, 3))
    assert thrice == pytest.approx(once, abs=1e-12)


def test_intervals_of_patients_with_several_rows_hold_the_truth_as_often_as_they_say():
    """400 studies of 40 patients with 4 alike rows each; true fraction 0.8."""
    generator = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), 4)
    held, held_by_rows = 0, 0
    for _ in range(400):
        of_patient = generator.beta(0.8, 0.2, 40)  # nearly 0 or 1 each
        hits = generator.random(160) < of_patient[patients]
        low, high = fraction_interval(hits, patients)
        held += low <= 0.8 <= high
        low, high = fraction_interval(hits, np.arange(160))
        held_by_rows += low <= 0.8 <= high
    assert held / 400 > 0.92 and held_by_rows / 400 < 0.85


def hanley_mcneil(area, positives, negatives):
    """Return the variance of an AUC (1982), with the mean of both numbers in place of each."""
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    others = (positives + negatives) / 2 - 1
    total = area * (1 - area) + others * (first - area**2) + others * (second - area**2)
    return total / (positives * negatives)


@pytest.mark.parametrize("area", [0.0, 0.3, 0.8, 0.97, 1.0])
@pytest.mark.parametrize(("positives", "negatives"), [(1, 1), (2, 40), (30, 7)])
def test_the_ends_of_an_auc_are_196_standard_errors_away(area, positives, negatives):
    low, high = auc_interval(area, positives, negatives)
    assert 0 <= low <= area <= high <= 1 and high - low > 0.05
    for end in (low, high):
        if 0 < end < 1 and end != area:
            error = hanley_mcneil(end, positives, negatives) ** 0.5
            assert abs(area - end) / error == pytest.approx(1.96, abs=1e-4)
    mirrored = auc_interval(1 - area, positives, negatives)
    assert mirrored == pytest.approx([1 - high, 1 - low], abs=1e-9)


@pytest.mark.parametrize(("positives", "apart"), [(2, 1.0), (4, 2.5), (4, 4.0)])
def test_intervals_of_few_positives_hold_the_auc_as_often_as_they_say(positives, apart):
    """Normal scores of few positives and 30 negatives, 400 times."""
    generator = np.random.default_rng(0)
    true, held = stats.norm.cdf(apart / 2**0.5), 0
    for _ in range(400):
        higher, lower = generator.normal(apart, 1, positives), generator.normal(0, 1, 30)
        area = (higher[:, None] > lower).mean()
        low, high = auc_interval(area, positives, 30)
        held += low <= true <= high
    assert held / 400 > 0.93
