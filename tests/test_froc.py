"""FROC against counting: thresholds by trying all, samples of patients drawn one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.evaluation.froc import (
    RATES,
    curve,
    froc,
    judge,
    judge_cases,
    sensitivities,
    thresholds,
)
from src.evaluation.metrics import drawn_counts
from src.evaluation.resampling import fraction_interval


def plain_judge(findings, aneurysms):
    """findings: (place, probability); aneurysms: (place, reach). Return false ones, hit_by."""
    wrong, hit_by = [], [0.0] * len(aneurysms)
    for place, probability in findings:
        hits = 0
        for number, (centre, reach) in enumerate(aneurysms):
            if sum((a - b) ** 2 for a, b in zip(place, centre, strict=True)) ** 0.5 <= reach:
                hits += 1
                hit_by[number] = max(hit_by[number], probability)
        if not hits:
            wrong.append(probability)
    return wrong, hit_by


def plain_sensitivity(cases, rate):
    """cases: (false ones, hit_by) of each. Try every threshold; the best that keeps the rate."""
    wrong = [p for case, _ in cases for p in case]
    hit_by = [p for _, case in cases for p in case]
    best, lowest = 0.0, None
    for threshold in sorted({0.0, *wrong}):
        if sum(p > threshold for p in wrong) <= rate * len(cases):
            lowest = threshold if lowest is None else lowest
            best = max(best, sum(p > threshold for p in hit_by) / len(hit_by))
    return best, lowest


POINTS = st.tuples(*[st.integers(0, 30)] * 3)
FINDINGS = st.lists(st.tuples(POINTS, st.integers(1, 12).map(lambda k: k / 12)), max_size=6)
ANEURYSMS = st.lists(st.tuples(POINTS, st.sampled_from([2.0, 5.0, 10.0])), max_size=3)
CASES = st.lists(st.tuples(FINDINGS, ANEURYSMS), min_size=1, max_size=8)


def as_arrays(case):
    findings, aneurysms = case
    places = np.array([place for place, _ in findings], float).reshape(-1, 3)
    centres = np.array([centre for centre, _ in aneurysms], float).reshape(-1, 3)
    reach = np.array([reach for _, reach in aneurysms])
    return (places, np.array([p for _, p in findings]), centres), reach


@given(CASES)
@settings(max_examples=200, deadline=None)
def test_hits_and_sensitivities_are_those_of_counting(cases):
    plain = [plain_judge(*case) for case in cases]
    arrays, reaches = zip(*[as_arrays(case) for case in cases], strict=True)
    judged = judge_cases(list(arrays), np.arange(len(cases)), list(reaches))
    assert sorted(judged.wrong) == sorted(p for wrong, _ in plain for p in wrong)
    assert judged.hit_by.tolist() == [p for _, hits in plain for p in hits]
    assert judged.hit_case.tolist() == [k for k, (_, hits) in enumerate(plain) for _ in hits]
    if not len(judged.hit_by):
        assert all(row["sensitivity"] is None for row in froc(judged, 5))
        return
    for row in froc(judged, 5):
        best, threshold = plain_sensitivity(plain, row["rate"])
        assert row["sensitivity"] == pytest.approx(best) and row["threshold"] == threshold
        assert row["reached"] * len(cases) == sum(p > threshold for p in judged.wrong)
        assert row["interval"][0] <= row["sensitivity"] <= row["interval"][1]
    assert_curve_is_counting(judged, plain)


def assert_curve_is_counting(judged, plain):
    points = curve(judged)
    assert [row[0] for row in points] == sorted({p for p in judged.hit_by if p}, reverse=True)
    for threshold, wrong, hit in points:
        counted = sum(p >= threshold for case, _ in plain for p in case)
        assert wrong == pytest.approx(counted / len(plain))
        hits = [p >= threshold for _, case in plain for p in case]
        assert hit == pytest.approx(sum(hits) / len(hits))


def random_cases(seed, cases=30):
    generator = np.random.default_rng(seed)
    found = []
    for number in range(cases):
        findings = [
            (tuple(generator.integers(0, 40, 3).tolist()), generator.integers(1, 20) / 20)
            for _ in range(generator.integers(0, 6))
        ]
        aneurysms = []
        for _ in range(number % 3):
            centre = tuple(generator.integers(0, 40, 3).tolist())
            aneurysms.append((centre, 10.0))
            if generator.random() < 0.7:
                findings.append((centre, generator.integers(5, 20) / 20))
        found.append((findings, aneurysms))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_intervals_are_the_percentiles_of_patients_drawn_one_by_one(seed):
    """Two cases a patient; each drawn sample is built as lists and counted."""
    cases = random_cases(seed)
    plain = [plain_judge(*case) for case in cases]
    arrays, reaches = zip(*[as_arrays(case) for case in cases], strict=True)
    patients = np.arange(30) // 2
    judged = judge_cases(list(arrays), patients, list(reaches))
    rows = froc(judged, 40, seed=seed)
    drawn = []
    for counts in drawn_counts(15, 40, seed).astype(int):
        sample = [plain[k] for k in range(30) for _ in range(counts[patients[k]])]
        drawn.append([plain_sensitivity(sample, rate)[0] for rate in RATES])
    for k, row in enumerate(rows):
        low, high = np.percentile([each[k] for each in drawn], (2.5, 97.5))
        hits = judged.hit_by > row["threshold"]
        fixed = fraction_interval(hits, patients[judged.hit_case])
        assert row["interval"] == pytest.approx([min(low, fixed[0]), max(high, fixed[1])])


def test_a_size_counts_its_own_aneurysms_and_the_false_findings_of_all():
    judged = random_judged(4)
    chosen = np.arange(len(judged.hit_by)) % 2 == 0
    for row, of_all in zip(froc(judged, 5, chosen=chosen), froc(judged, 5), strict=True):
        assert row["threshold"] == of_all["threshold"]
        assert row["sensitivity"] == (judged.hit_by[chosen] > row["threshold"]).mean()
        assert row["aneurysms"] == chosen.sum()
    nothing = froc(judged, 5, chosen=np.zeros_like(chosen))
    assert {row["interval"] for row in nothing} == {None}


def random_judged(seed):
    arrays, reaches = zip(*[as_arrays(case) for case in random_cases(seed)], strict=True)
    return judge_cases(list(arrays), np.arange(30), list(reaches))


def test_cases_of_a_mask_are_those_cases_alone():
    cases = random_cases(5)
    chosen = np.arange(30) % 4 != 1
    arrays, reaches = zip(*[as_arrays(case) for case in cases], strict=True)
    some = [number for number in range(30) if chosen[number]]
    expected = judge_cases(
        [arrays[k] for k in some], np.arange(len(some)), [reaches[k] for k in some]
    )
    found = judge_cases(list(arrays), np.arange(30), list(reaches)).of_cases(chosen)
    for name in ("patients", "wrong", "wrong_case", "hit_by", "hit_case"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_a_second_finding_on_an_aneurysm_is_neither_a_hit_more_nor_false():
    places = np.array([[0.0, 0, 0], [1, 0, 0], [50, 0, 0]])
    wrong, hit_by = judge(places, np.array([0.4, 0.9, 0.7]), np.array([[0.0, 0, 0]]), 10.0)
    assert wrong.tolist() == [False, False, True] and hit_by.tolist() == [0.9]
    edge = judge(np.array([[10.0, 0, 0]]), np.array([0.5]), np.zeros((1, 3)), 10.0)
    assert edge[1].tolist() == [0.5]  # the reach itself counts
    assert judge(np.empty((0, 3)), np.empty(0), np.zeros((2, 3)), 10.0)[1].tolist() == [0, 0]


def test_three_of_three_is_no_certainty():
    judged = judge_cases(
        [(np.zeros((1, 3)), np.array([0.9]), np.zeros((1, 3)))] * 3, np.arange(3), [10.0] * 3
    )
    for row in froc(judged, 50):
        assert row["sensitivity"] == 1 and row["interval"] == pytest.approx([0.439, 1], abs=2e-3)
        assert (row["hit"], row["aneurysms"], row["reached"]) == (3, 3, 0)


def test_weights_are_copies():
    judged = random_judged(6)
    counts = np.random.default_rng(0).integers(0, 4, 30)
    everything = np.ones(len(judged.hit_by), bool)
    found = sensitivities(judged, RATES, counts.astype(float), everything)
    plain = [plain_judge(*case) for case in random_cases(6)]
    sample = [plain[k] for k in range(30) for _ in range(counts[k])]
    expected = [plain_sensitivity(sample, rate) for rate in RATES]
    assert found.tolist() == pytest.approx([best for best, _ in expected])
    assert thresholds(judged, RATES, counts.astype(float)).tolist() == [t for _, t in expected]
