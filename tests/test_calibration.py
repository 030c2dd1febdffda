import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from src.evaluation.calibration import (
    BINS,
    FEWEST,
    calibration_error,
    can_fit,
    chance_error,
    log_loss,
    logit,
    reliability,
    sigmoid,
    wilson,
)


def example(rows=400, seed=0):
    """Labels that are drawn with their probabilities, and the logits of these."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(-0.5, 2, rows)
    return (generator.random(rows) < special.expit(logits)).astype(int), logits


def test_logits_of_0_and_1_are_finite_and_come_back():
    probabilities = np.array([0.0, 0.001, 0.5, 0.999, 1.0])
    assert np.isfinite(logit(probabilities)).all()
    np.testing.assert_allclose(sigmoid(logit(probabilities)), probabilities, atol=2e-7)


def test_log_loss_equals_scikit_learn():
    truth, logits = example()
    expected = reference.log_loss(truth, special.expit(logits))
    assert log_loss(truth, logits) == pytest.approx(expected, rel=1e-10)


def test_a_fit_needs_enough_of_both_among_the_known():
    truth = np.array([1.0] * FEWEST + [0.0] * FEWEST + [np.nan] * 9)
    assert can_fit(truth) and can_fit(1 - truth)
    assert not can_fit(truth[1:]) and not can_fit(1 - truth[1:]) and not can_fit(truth[:0])


def test_reliability_is_the_quantile_curve_of_scikit_learn():
    truth, logits = example(1000)
    predicted, observed, counts = reliability(truth, sigmoid(logits))
    expected = calibration_curve(truth, sigmoid(logits), n_bins=BINS, strategy="quantile")
    np.testing.assert_allclose((observed, predicted), expected, rtol=1e-12)
    assert counts.tolist() == [100] * 10


def test_calibration_error_by_hand():
    truth, probabilities = np.array([0, 1, 1, 1, 0]), np.array([0.1, 0.3, 0.9, 0.7, 0.8])
    # bins of 3 and 2 rows: (0.1, 0.3, 0.7) with 2 of 3 positive, (0.8, 0.9) with 1 of 2
    expected = 3 / 5 * abs(1.1 / 3 - 2 / 3) + 2 / 5 * abs(0.85 - 0.5)
    assert calibration_error(truth, probabilities, bins=2) == pytest.approx(expected)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=60), st.randoms())
def test_the_order_of_the_rows_does_not_matter(rows, random):
    shuffled = random.sample(rows, len(rows))
    first, second = np.array(rows), np.array(shuffled)  # (N, 2)
    error = calibration_error(first[:, 0], first[:, 1] / 4)
    assert error == pytest.approx(calibration_error(second[:, 0], second[:, 1] / 4), abs=1e-12)


def test_one_probability_for_all_is_calibrated_if_it_is_the_fraction_of_positives():
    truth = np.arange(100) % 4 == 0
    assert calibration_error(truth, np.full(100, 0.25)) == pytest.approx(0, abs=1e-12)
    assert calibration_error(truth, np.full(100, 0.75)) == pytest.approx(0.5)


def test_error_by_chance_is_that_of_exact_probabilities():
    examples = [example(200, seed) for seed in range(60)]
    expected = np.mean([calibration_error(truth, sigmoid(logits)) for truth, logits in examples])
    assert chance_error(sigmoid(examples[0][1])) == pytest.approx(expected, rel=0.15)
    assert chance_error(np.array([0.0, 1.0] * 50)) == 0


@pytest.mark.parametrize(
    ("positive", "rows"), [(0, 20), (3, 20), (20, 20), (1, 7), (0, 181), (181, 181)]
)
def test_wilson_intervals_are_those_of_scipy_and_hold_the_fraction(positive, rows):
    low, high = wilson(np.array([positive / rows]), np.array([rows]))
    expected = stats.binomtest(positive, rows).proportion_ci(method="wilson")
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=1e-4)
    assert 0 <= low[0] <= positive / rows <= high[0] <= 1
