"""Scale and offset that the labels share. What is fitted is judged by scikit-learn and scipy."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from sklearn.linear_model import LogisticRegression

from src.evaluation import platt
from src.evaluation.calibration import FEWEST, apply, calibrated, calibration_error, logit, sigmoid
from src.labels import LABELS, LOCATIONS, PRESENT

NAN = float("nan")
RARE = 0


def example(rows=600, seed=0, scale=2.0, offset=-1.0, presence=(1.0, 0.5), shifts=None):
    """Truth and logits (N, 14): the true logit of a location is scale * logit + offset + shift."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(-1, 1, (rows, len(LABELS)))
    true = scale * logits + offset + (np.zeros(len(LABELS)) if shifts is None else shifts)
    true[:, PRESENT] = presence[0] * logits[:, PRESENT] + presence[1]
    return (generator.random(true.shape) < special.expit(true)).astype(float), logits


def shifts_of(**labels):
    shifts = np.zeros(len(LABELS))
    for name, value in labels.items():
        shifts[int(name[1:])] = value
    return shifts


def unpenalised(columns, truth):
    return LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(columns, truth)


def test_one_label_is_fitted_as_by_scikit_learn():
    truth, logits = example(5000)
    expected = unpenalised(logits[:, :1], truth[:, 0])
    found = platt.fit_one(truth[:, 0], logits[:, 0])
    assert found == pytest.approx((expected.coef_[0, 0], expected.intercept_[0]), rel=2e-3)


def test_without_shrinkage_offsets_are_those_of_scikit_learn():
    truth, logits = example(1500, shifts=shifts_of(_1=0.6, _4=-0.5))
    groups = np.append(1 + np.arange(PRESENT), platt.ALONE)
    found = platt.fit(truth, logits, groups, spread=100).maps(groups)
    label = np.tile(np.eye(PRESENT), (len(truth), 1))
    columns = np.column_stack([logits[:, :PRESENT].ravel(), label])
    expected = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=2000)
    expected.fit(columns, truth[:, :PRESENT].ravel())
    np.testing.assert_allclose(found.scales[:PRESENT], expected.coef_[0, 0], rtol=2e-3)
    np.testing.assert_allclose(found.offsets[:PRESENT], expected.coef_[0, 1:], atol=0.01)
    alone = unpenalised(logits[:, PRESENT:], truth[:, PRESENT])
    assert found.scales[PRESENT] == pytest.approx(alone.coef_[0, 0], rel=5e-3)


def test_the_covariance_is_the_inverse_curvature_of_an_independent_loss():
    truth, logits = example(400)
    groups = np.append(np.zeros(PRESENT, int), platt.ALONE)
    groups[3] = 4
    found = platt.fit(truth, logits, groups, spread=0.7)

    def loss(point):
        s, b, t, c, u = point
        true = np.exp(s) * logits + b + u * (np.arange(len(LABELS)) == 3)
        true[:, PRESENT] = np.exp(t) * logits[:, PRESENT] + c
        prior = (s**2 + t**2) / 4 + (b**2 + c**2) / 100 + u**2 / 0.49
        return -np.log(special.expit(np.where(truth == 1, true, -true))).sum() + prior / 2

    steps = 1e-3 * np.eye(5)
    slope = [(loss(found.mean + h) - loss(found.mean - h)) / 2e-3 for h in steps]
    np.testing.assert_allclose(slope, 0, atol=1e-2)
    for k, step in enumerate(steps):
        if k not in (0, 2):  # expected and observed curvature of the offsets are equal
            second = loss(found.mean + step) - 2 * loss(found.mean) + loss(found.mean - step)
            precision = np.linalg.inv(found.covariance)[k, k]
            assert second / 1e-6 == pytest.approx(precision, rel=1e-3)


@pytest.mark.parametrize(("scale", "offset"), [(0.4, 0.3), (1.0, 0.0), (4.0, 1.5)])
def test_known_scales_and_offsets_are_found(scale, offset):
    truth, logits = example(4000, 1, scale, offset, presence=(0.7, -1.0))
    found = platt.fit_maps(truth, logits)
    np.testing.assert_allclose(found.scales[:PRESENT], scale, rtol=0.06)
    np.testing.assert_allclose(found.offsets[:PRESENT], offset, atol=0.12)
    assert (found.scales[PRESENT], found.offsets[PRESENT]) == pytest.approx((0.7, -1), abs=0.15)


@pytest.mark.parametrize("positives", range(FEWEST))
def test_a_rare_label_follows_the_others(positives):
    truth, logits = example(300)
    truth[:, RARE] = np.arange(300) < positives
    found = platt.fit_maps(truth, logits)
    others = [k for k in range(PRESENT) if found.groups[k] == platt.SHARED]
    assert RARE in others and len(others) > 8
    for each in (found.scales, found.offsets):
        assert len(set(each[others])) == 1


def test_a_rare_label_does_not_become_the_most_probable_one():
    """With a temperature of 1 for the rare label and 0.2 for the others it was the first."""
    truth, logits = example(300, scale=5.0)
    logits[:, RARE] -= 2
    truth[:, RARE] = np.arange(300) < 1
    before, after = (each[:, :PRESENT].argmax(axis=1) for each in (logits, ours(truth, logits)))
    np.testing.assert_array_equal(before, after)


def ours(truth, logits):
    scales, offsets, _ = platt.fit_maps(truth, logits)
    return calibrated(logits, scales, offsets)


def test_a_label_that_differs_has_an_offset_of_its_own_if_the_rows_suffice():
    shifts = shifts_of(_6=1.5)
    many = platt.fit_maps(*example(2000, 3, shifts=shifts))
    assert many.groups[6] != platt.SHARED
    assert many.offsets[6] - many.offsets[1] == pytest.approx(1.5, abs=0.3)
    few = platt.fit_maps(*example(25, 3, shifts=shifts))
    assert few.groups[6] == platt.SHARED


def test_offsets_are_shrunk_more_where_positives_are_fewer():
    truth, logits = example(2000, 4, shifts=shifts_of(_2=1.0, _3=1.0))
    truth[100:, 3] = NAN
    groups = np.append(1 + np.arange(PRESENT), platt.ALONE)
    own = platt.fit(truth, logits, groups, spread=0.3).mean[platt.COMMON :]
    free = platt.fit(truth, logits, groups, spread=30).mean[platt.COMMON :]
    kept = own / (free - np.delete(free, [2, 3]).mean())
    assert 0 < kept[3] < kept[2] < 1


def evidence(truth, logits, first, second):
    """Return the likelihood ratio statistic that two sets of locations have other offsets."""
    members = [*first, *second]
    columns, labels = logits[:, members].ravel(), truth[:, members].ravel()
    other = np.tile(np.isin(members, second), len(truth))
    known = ~np.isnan(labels)
    losses = []
    for design in (columns[:, None], np.column_stack([columns, other])):
        model = unpenalised(design[known], labels[known])
        given = model.decision_function(design[known])
        losses.append(-np.log(special.expit(np.where(labels[known] == 1, given, -given))).sum())
    return 2 * (losses[0] - losses[1])


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([60, 300]),
    st.floats(0, 1.5),
    st.floats(0.3, 5),
    st.floats(0, 0.5),
)
def test_labels_change_places_only_by_measured_evidence(seed, rows, spread, scale, unknown):
    generator = np.random.default_rng(seed)
    shifts = generator.normal(0, spread, len(LABELS))
    truth, logits = example(rows, seed, scale, -2, shifts=shifts)
    truth[:, : generator.integers(0, 4)] = 0
    truth[generator.random(truth.shape) < unknown] = NAN
    maps = platt.fit_maps(truth, logits)
    series = generator.normal(-1, 2, (50, len(LABELS)))
    after = calibrated(series, maps.scales, maps.offsets)
    for j, k in combinations(range(PRESENT), 2):
        swapped = (series[:, j] - series[:, k]) * (after[:, j] - after[:, k]) < 0
        if not swapped.any():
            continue
        first, second = maps.groups[j], maps.groups[k]
        assert first != second
        sets = [np.flatnonzero(maps.groups[:PRESENT] == group) for group in (first, second)]
        assert evidence(truth, logits, *sets) > 3  # 3.84 in large samples
        for label in (j, k):
            assert np.nansum(truth[:, label]) >= FEWEST or maps.groups[label] == platt.SHARED
    above = series[:, :PRESENT] < series[:, PRESENT:]
    assert (after[:, :PRESENT] < after[:, PRESENT:])[above].all()


def test_labels_that_do_not_differ_rarely_have_offsets_of_their_own():
    moved = 0
    for seed in range(8):
        moved += (platt.fit_maps(*example(300, seed)).groups[:PRESENT] != platt.SHARED).sum()
    assert moved <= 5  # 5 % of 8 x 13


def test_presence_without_evidence_has_the_map_of_the_locations():
    truth, logits = example(40, 2, presence=(2.0, -1.0))
    assert len(set(platt.fit_maps(truth, logits).groups)) == 1
    truth, logits = example(2000, 2, presence=(0.7, 1.0))
    assert platt.fit_maps(truth, logits).groups[PRESENT] == platt.ALONE


def test_presence_does_not_fall_below_a_location_that_it_was_above():
    scales = np.append(np.full(PRESENT, 4.0), 1.0)
    logits = np.full((2, len(LABELS)), -3.0)
    logits[0, [5, PRESENT]] = 1.0, 1.5
    logits[1, [5, PRESENT]] = 1.5, 1.0  # a location was above it: it may stay there
    found = calibrated(logits, scales, np.zeros(len(LABELS)))
    assert 4 == found[0, 5] < found[0, PRESENT] < 4.01
    assert (found[1, 5], found[1, PRESENT]) == (6, 1)
    probabilities = apply(sigmoid(logits), scales, np.zeros(len(LABELS)))
    np.testing.assert_allclose(logit(probabilities), found, atol=1e-6)
    assert np.isnan(apply(np.full(len(LABELS), NAN), scales, scales)).all()


@pytest.mark.parametrize("known", [[PRESENT], list(range(PRESENT)), [1, 2, PRESENT]])
def test_unknown_labels_follow_those_that_are_known(known):
    truth, logits = example(800)
    hidden = np.full_like(truth, NAN)
    hidden[:, known] = truth[:, known]
    found = platt.fit_maps(hidden, logits)
    for k in set(range(len(LABELS))) - set(known):
        assert found.groups[k] == platt.SHARED
    logits[np.isnan(hidden)] = 99  # of no effect
    np.testing.assert_allclose(platt.fit_maps(hidden, logits).offsets, found.offsets)
    assert not np.allclose(found.scales, 1)


def test_unknown_rows_are_as_rows_that_are_not_there():
    truth, logits = example(400)
    truth[250:] = NAN
    whole, part = platt.fit_maps(truth, logits), platt.fit_maps(truth[:250], logits[:250])
    for first, second in zip(whole, part, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-7)


def test_with_too_few_positives_probabilities_stay():
    truth, logits = np.zeros((50, len(LABELS))), example(50)[1]
    truth[: FEWEST - 1, 2] = 1
    np.testing.assert_array_equal(ours(truth, logits)[:, :PRESENT], logits[:, :PRESENT])
    assert platt.fit_one(truth[:, 2], logits[:, 2]) is None


@pytest.mark.parametrize("sign", [1, -1])
def test_perfect_and_reversed_order_give_finite_scales_above_0(sign):
    logits = example(200)[1]
    found = platt.fit_maps((sign * logits > 0).astype(float), logits)
    assert (found.scales > 0).all() and np.isfinite(found.scales).all()
    assert (found.scales[:PRESENT] > 5).all() if sign == 1 else (found.scales < 0.2).all()


def test_crossfitted_logits_are_those_of_the_other_parts():
    truth, logits = example(300)
    parts = np.arange(300) % 3
    found = platt.crossfit(truth, logits, parts)
    scales, offsets, _ = platt.fit_maps(truth[parts != 1], logits[parts != 1])
    expected = calibrated(logits[parts == 1], scales, offsets)
    np.testing.assert_array_equal(found[parts == 1], expected)
    changed = np.where(parts[:, None] == 1, 1 - truth, truth)
    again = platt.crossfit(changed, logits, parts)
    np.testing.assert_array_equal(found[parts == 1], again[parts == 1])
    assert not np.allclose(found[parts != 1], again[parts != 1])


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_the_calibration_error_becomes_smaller_crossfitted(scale):
    truth, logits = example(900, 7, scale, -1.5, presence=(2.0, 1.0))
    truth[:, RARE] = np.arange(900) < 2
    after = platt.crossfit(truth, logits, np.arange(900) % 5)
    for chosen in (range(PRESENT), [PRESENT]):
        errors = [
            calibration_error(truth[:, chosen].ravel(), sigmoid(each[:, chosen]).ravel())
            for each in (logits, after)
        ]
        assert errors[1] < errors[0] / 2, (LOCATIONS, errors)
