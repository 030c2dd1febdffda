import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from src.evaluation.metrics import (
    MetricError,
    auc,
    drawn_counts,
    join_by_uid,
    mean_location,
    roc_band,
    roc_points,
    weighted_auc,
    weighted_score,
)
from src.labels import LABELS, PRESENT
from tests.evaluations import percentiles


def example(rows=200, seed=0):
    generator = np.random.default_rng(seed)
    truth = (generator.random((rows, len(LABELS))) < 0.3).astype(int)
    return truth, np.clip(0.3 * truth + 0.7 * generator.random(truth.shape), 0, 1)


def test_weighted_score_is_the_weighted_mean_of_14_aucs():
    truth, probabilities = example()
    aucs = [roc_auc_score(truth[:, k], probabilities[:, k]) for k in range(len(LABELS))]
    weights = [1 / 26] * 13 + [13 / 26]
    scores = weighted_score(truth, probabilities)
    assert scores["score"] == pytest.approx(np.average(aucs, weights=weights))
    assert scores["present"] == pytest.approx(aucs[PRESENT])
    assert mean_location(scores) == pytest.approx(np.mean(aucs[:PRESENT]))


def test_a_location_without_both_classes_is_left_out_and_shown():
    truth, probabilities = example()
    truth[:, 4] = 0
    scores = weighted_score(truth, probabilities)
    assert scores["locations"][LABELS[4]] is None
    others = [roc_auc_score(truth[:, k], probabilities[:, k]) for k in range(PRESENT) if k != 4]
    assert scores["score"] == pytest.approx(0.5 * scores["present"] + 0.5 * np.mean(others))


ROWS = st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 3))  # truth, score, count


@given(st.lists(ROWS, min_size=1, max_size=40))
def test_auc_of_rows_that_occur_several_times_equals_scikit_learn(rows):
    truth, scores, counts = (np.array(column) for column in zip(*rows, strict=True))
    drawn = truth[counts > 0]
    (value,) = weighted_auc(truth, scores / 5, counts[None].astype(float))
    if len(drawn) == 0 or drawn.all() or not drawn.any():
        assert np.isnan(value)
    else:
        assert value == pytest.approx(roc_auc_score(truth, scores, sample_weight=counts), abs=1e-12)


def test_intervals_are_percentiles_of_scores_of_drawn_series():
    """Against the score itself, of series drawn one by one."""
    truth, probabilities = example(80)
    truth[:, 4] = 0
    truth[1:, 5] = 0  # a single positive: missing in about a third of the draws
    truth[0, 5] = 1
    ends = percentiles(truth, probabilities, 400)
    generator, plain = np.random.default_rng(1), []
    for _ in range(400):
        rows = generator.integers(0, 80, 80)
        plain.append(weighted_score(truth[rows], probabilities[rows]))

    def expected(value_of, tolerance=0.03):
        values = np.percentile([value_of(draw) for draw in plain], (2.5, 97.5))
        return pytest.approx(values, abs=tolerance)

    assert ends["score"] == expected(lambda draw: draw["score"])
    assert ends["present"] == expected(lambda draw: draw["present"])
    assert ends["mean_location"] == expected(mean_location)
    first = expected(lambda draw: draw["locations"][LABELS[0]], 0.04)
    assert ends["locations"][LABELS[0]] == first
    assert ends["locations"][LABELS[4]] is None
    assert ends["locations"][LABELS[5]] is not None


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=60))
def test_roc_points_and_auc_equal_scikit_learn_with_ties(rows):
    truth, scores = np.array([row[0] for row in rows]), np.array([row[1] for row in rows]) / 5
    false, true = roc_points(truth, scores)
    if truth.all() or not truth.any():
        assert np.isnan(false).all() or np.isnan(true).all()
        assert auc(truth, scores) is None
    else:
        expected = roc_curve(truth, scores, drop_intermediate=False)
        np.testing.assert_allclose((false, true), expected[:2], atol=1e-12)
        assert auc(truth, scores) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)


def test_roc_band_is_of_curves_of_drawn_rows():
    truth, probabilities = example(60)
    truth, scores, grid = truth[:, 0], np.round(probabilities[:, 0], 1), np.linspace(0, 1, 11)
    curves = []
    for counts in drawn_counts(60, 50, seed=3).astype(int):
        false, true, _ = roc_curve(
            np.repeat(truth, counts), np.repeat(scores, counts), drop_intermediate=False
        )
        curves.append(np.interp(grid, false, true))
    band = roc_band(truth, scores, grid, 50, seed=3)
    np.testing.assert_allclose(band, np.percentile(curves, (2.5, 97.5), axis=0), atol=1e-12)
    assert (band[1] - band[0]).max() > 0.1


def test_roc_band_leaves_out_draws_without_both_classes():
    truth, scores = np.arange(40) == 7, np.arange(40) / 40  # 1 positive: a third of draws lack it
    grid = np.linspace(0, 1, 5)
    assert np.isfinite(roc_band(truth, scores, grid, 50)).all()
    assert np.isfinite(roc_band(~truth, scores, grid, 50)).all()
    assert np.isfinite(roc_band(np.arange(2), np.arange(2) / 2, grid, 50)).all()
    undefined = roc_band(np.zeros(40), scores, grid, 50)
    assert undefined.shape == (2, 5) and np.isnan(undefined).all()


def test_drawn_counts_are_samples_with_replacement():
    counts = drawn_counts(30, 200, seed=0)
    assert (counts.sum(axis=1) == 30).all()
    assert counts.max() > 2
    assert counts.mean(axis=0) == pytest.approx(np.ones(30), abs=0.4)


def test_no_presence_contrast_is_a_clear_error():
    truth, probabilities = example()
    truth[:, PRESENT] = 1
    with pytest.raises(MetricError, match="both classes"):
        weighted_score(truth, probabilities)


def tables():
    truth, probabilities = example(5)
    uids = pd.DataFrame({"SeriesInstanceUID": [f"1.{k}" for k in range(5)]})
    labels = pd.DataFrame(truth, columns=list(LABELS))
    return uids.join(labels), uids.join(pd.DataFrame(probabilities, columns=list(LABELS)))


def test_predictions_are_joined_by_uid_not_by_position():
    truth, predictions = tables()
    labels, probabilities = join_by_uid(
        truth, predictions.sample(frac=1, random_state=1), ["SeriesInstanceUID"]
    )
    np.testing.assert_array_equal(labels, truth[list(LABELS)])
    np.testing.assert_array_equal(probabilities, predictions[list(LABELS)])


@pytest.mark.parametrize("fault", ["missing", "unknown", "twice", "nan"])
def test_predictions_that_do_not_fit_are_refused_with_the_uid(fault):
    truth, predictions = tables()
    if fault == "missing":
        predictions = predictions.drop(index=2)
    elif fault == "unknown":
        truth = truth.drop(index=2)
    elif fault == "twice":
        predictions = pd.concat([predictions, predictions.iloc[[2]]])
    else:
        predictions.loc[2, LABELS[0]] = np.nan
    with pytest.raises(MetricError, match=r"1\.2"):
        join_by_uid(truth, predictions, ["SeriesInstanceUID"])
