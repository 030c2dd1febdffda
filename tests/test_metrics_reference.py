"""Scores and intervals against pairs of rows, one drawn sample after the other."""

import warnings

import numpy as np
import pandas as pd
import pytest

from src.evaluation.metrics import (
    MetricError,
    auc,
    drawn_counts,
    joined,
    label_arrays,
    mean_location,
    roc_band,
    roc_points,
    weighted_score,
)
from src.labels import LABELS, LOCATIONS, PRESENT
from tests.evaluations import percentiles
from tests.test_metrics import example, tables

KEY = ["SeriesInstanceUID"]


def plain_aucs(truth, probabilities):
    """Return how many pairs of a positive and a negative are in order: 14 rates, or NaN."""
    aucs = []
    for k in range(14):
        positives = probabilities[truth[:, k] == 1, k][:, None]
        negatives = probabilities[truth[:, k] == 0, k]
        pairs = positives.size * negatives.size
        ordered = (positives > negatives).sum() + (positives == negatives).sum() / 2
        aucs.append(ordered / pairs if pairs else np.nan)
    return aucs


@pytest.mark.parametrize("seed", range(3))
def test_intervals_equal_the_percentiles_of_the_same_draws(seed):
    """Row by row repeated, scored by scikit-learn; one location has no positive, one has one."""
    truth, probabilities = example(50, seed)
    probabilities = np.round(probabilities, 1)
    truth[:, 4], truth[1:, 5], truth[0, 5] = 0, 0, 1
    drawn = []
    for counts in drawn_counts(50, 60, seed).astype(int):
        rows = np.repeat(np.arange(50), counts)
        aucs = plain_aucs(truth[rows], probabilities[rows])
        location = np.nanmean(aucs[:13])
        drawn.append([*aucs, location, 0.5 * aucs[13] + 0.5 * location])
    drawn = np.array(drawn)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = percentiles(truth, probabilities, 60, seed)
    assert list(found["locations"]) == list(LOCATIONS)
    assert found.keys() == {"score", "present", "mean_location", "locations"}
    for k, name in enumerate((*LOCATIONS, "present", "mean_location", "score")):
        ours = found["locations"][name] if k < 13 else found[name]
        values = drawn[np.isfinite(drawn[:, k]), k]
        if k == 4:
            assert ours is None and len(values) == 0
        else:
            np.testing.assert_allclose(ours, np.percentile(values, (2.5, 97.5)), atol=1e-12)
    assert np.isnan(drawn[:, 5]).any()
    default = percentiles(truth, probabilities, 60)
    assert default == percentiles(truth, probabilities, 60, 0)


def test_presence_and_locations_weigh_half_each():
    truth, probabilities = example()
    probabilities[:, PRESENT] = truth[:, PRESENT]
    aucs = plain_aucs(truth, probabilities)
    scores = weighted_score(truth, probabilities)
    assert scores["present"] == 1
    assert scores["score"] == pytest.approx(0.5 + 0.5 * np.mean(aucs[:13]))
    values = mean_location(scores), scores["score"], scores["present"]
    assert [type(value) for value in values] == [float] * 3
    assert list(scores["locations"].values()) == pytest.approx(aucs[:13])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_prediction_that_is_not_finite_is_counted_and_named(value):
    truth, probabilities = example(20)
    probabilities[7, 3] = probabilities[9, 13] = value
    with pytest.raises(MetricError, match="2 of 20 predictions are not finite, the first in row 7"):
        weighted_score(truth, probabilities)


def test_presence_and_one_location_need_both_classes():
    truth, probabilities = example(30)
    truth[:, 1:PRESENT] = 0
    scores = weighted_score(truth, probabilities)
    assert [value is None for value in scores["locations"].values()] == [False] + [True] * 12
    truth[:, 0] = 1
    with pytest.raises(MetricError, match="no score from 30 rows"):
        weighted_score(truth, probabilities)
    truth[:, 0], truth[:, PRESENT] = example(30)[0][:, 0], 0
    with pytest.raises(MetricError, match="no score from 30 rows"):
        weighted_score(truth, probabilities)


def test_curve_of_a_small_example_by_hand():
    truth, scores = np.array([1, 0, 1, 0, 2]), np.array([0.9, 0.8, 0.8, 0.1, 0.5])
    false, true = roc_points(truth, scores)  # any label but 0 is positive
    assert false.tolist() == [0, 0, 0.5, 0.5, 1]
    assert true.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1, 1])
    assert auc(truth, scores) == pytest.approx((2 + 1.5 + 1) / 6)  # of 6 pairs, one is a tie


def test_the_band_of_one_draw_is_its_curve():
    truth, probabilities = example(40)
    grid = np.linspace(0, 1, 9)
    (counts,) = drawn_counts(40, 1, 5).astype(int)
    rows = np.repeat(np.arange(40), counts)
    false, true = roc_points(truth[rows, 2], probabilities[rows, 2])
    band = roc_band(truth[:, 2], probabilities[:, 2], grid, 1, seed=5)
    np.testing.assert_allclose(band, [np.interp(grid, false, true)] * 2, atol=1e-12)
    default = roc_band(truth[:, 2], probabilities[:, 2], grid, 20)
    np.testing.assert_array_equal(default, roc_band(truth[:, 2], probabilities[:, 2], grid, 20, 0))


@pytest.mark.parametrize("flip", [1, -1])
def test_the_band_of_classes_that_are_all_apart_and_tied(flip):
    """All draws with both classes have one curve, with one step at one or the other end."""
    truth = np.array([1, 1, 1, 0, 0, 0])
    band = roc_band(truth, flip * truth / 2, np.array([0.5]), 20)
    assert band.tolist() == ([[1.0], [1.0]] if flip == 1 else [[0.0], [0.0]])


def test_joined_rows_hold_labels_and_predictions_once():
    truth, predictions = tables()
    both = joined(truth.assign(fold=3), predictions.iloc[::-1], KEY)
    predicted = [f"{label} predicted" for label in LABELS]
    assert list(both.columns) == [*KEY, *LABELS, "fold", *predicted]
    labels, probabilities = label_arrays(both)
    assert labels.dtype == np.int64 and probabilities.dtype == np.float64
    np.testing.assert_array_equal(probabilities, predictions[list(LABELS)])
    np.testing.assert_array_equal(labels, truth[list(LABELS)])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda truth, found: (truth, found.drop(index=[3, 2])), r"2 rows .* the first is 1\.2"),
        (lambda truth, found: (truth.drop(index=[1, 3]), found), r"2 rows .* the first is 1\.1"),
        (
            lambda truth, found: (pd.concat([truth, truth.loc[[4]]]), found),
            r"labels hold 1\.4 twice",
        ),
        (
            lambda truth, found: (truth, pd.concat([found, found.loc[[3, 1]]])),
            r"predictions hold 1\.3 twice",
        ),
    ],
)
def test_the_first_row_that_does_not_fit_is_named(change, reason):
    with pytest.raises(MetricError, match=reason):
        joined(*change(*tables()), KEY)


def test_the_first_prediction_that_is_not_finite_is_named():
    truth, predictions = tables()
    predictions.loc[[1, 3], LABELS[5]] = np.inf
    with pytest.raises(MetricError, match=r"the prediction of 1\.1 is not finite"):
        joined(truth, predictions, KEY)
