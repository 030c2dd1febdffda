"""Findings against explicit loops over the cells of each map, in float64."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from src.inference.findings import (
    FindingRules,
    SlicePeaks,
    find,
    findings_at,
    merge,
    peaks_of,
    refinement,
)
from src.labels import LOCATIONS, PRESENT
from src.sampling.view import extent_mm, view_of


@dataclass
class PlainSeries:
    """What `find` reads of a series."""

    shape: tuple
    spacing: tuple
    orientation: str
    positions: np.ndarray | None

    @property
    def sop_uids(self):
        return [f"1.{k}" for k in range(self.shape[0])]

    @property
    def frames(self):
        return np.arange(self.shape[0])[::-1] - 1

    def patient_point(self, number, x, y):
        return number, x, y


def plain_vertex(before, here, after):
    """Return the vertex of the parabola through three logarithms at -1, 0 and 1."""
    heights = np.log(np.maximum([before, here, after], 1e-12))
    a, b, _ = np.polyfit([-1, 0, 1], heights, 2)
    return -b / (2 * a) if a < 0 else 0.0


def plain_peaks(heat, present, crop, count):
    """Return [(token, x, y, score)]: by map, then by height; no two cells are equal."""
    found = []
    _, height, width = heat.shape
    for token, map_ in enumerate(heat):
        maxima = []
        for row in range(height):
            for column in range(width):
                around = map_[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
                if map_[row, column] == around.max() and map_[row, column] > 0:
                    maxima.append((map_[row, column], row, column))
        for value, row, column in sorted(maxima, reverse=True)[:count]:
            x, y = float(column), float(row)
            if 0 < column < width - 1:
                x += plain_vertex(*map_[row, column - 1 : column + 2])
            if 0 < row < height - 1:
                y += plain_vertex(*map_[row - 1 : row + 2, column])
            in_crop = (x + 0.5) * crop / width - 0.5, (y + 0.5) * crop / height - 0.5
            found.append((token, *in_crop, present[token] * value))
    return found


def plain_merge(scores, places, rules):
    """Return the indices of findings: from the highest, none within reach of one before."""
    found = []
    for index in sorted(range(len(scores)), key=lambda k: -scores[k]):
        distances = [np.sqrt(((places[index] - places[other]) ** 2).sum()) for other in found]
        if scores[index] >= rules.threshold and all(d > rules.reach for d in distances):
            found.append(index)
    return found


def stored(series, size, x, y):
    """Return column and row of the stored image of a place in the prepared one.

    The numbers of the stored columns and rows are turned as the image is, and read there.
    """
    _, height, width = series.shape
    rows, columns = np.mgrid[:height, :width].astype(float)
    read = []
    for numbers in (columns, rows):
        turned = numbers.T if "T" in series.orientation else numbers
        turned = np.fliplr(turned) if "X" in series.orientation else turned
        turned = np.flipud(turned) if "Y" in series.orientation else turned
        tall, wide = turned.shape
        down, across = (y + 0.5) / size * tall - 0.5, (x + 0.5) / size * wide - 0.5
        slope_down = (turned[-1, 0] - turned[0, 0]) / (tall - 1)
        slope_across = (turned[0, -1] - turned[0, 0]) / (wide - 1)
        read.append(turned[0, 0] + down * slope_down + across * slope_across)
    return read


def maps(seed, tokens=5, height=9, width=12):
    generator = np.random.default_rng(seed)
    heat = generator.random((tokens, height, width)) ** 2
    heat[0, :3] = 0
    return heat, generator.random((tokens, PRESENT + 1))


@pytest.mark.parametrize("count", [1, 3, 500])
@pytest.mark.parametrize("seed", range(3))
def test_peaks_equal_the_slow_reference(seed, count):
    heat, slices = maps(seed)
    peaks = peaks_of(torch.from_numpy(heat), slices[:, 0], 96, count)
    found = np.stack([peaks.token, peaks.x, peaks.y, peaks.score], axis=1)
    np.testing.assert_allclose(found, plain_peaks(heat, slices[:, 0], 96, count), atol=1e-9)


def test_an_empty_map_has_no_peaks():
    peaks = peaks_of(torch.zeros(2, 4, 5), np.ones(2), 40, 3)
    assert len(peaks.token) == len(peaks.score) == 0
    assert merge(peaks, np.zeros((0, 3)), FindingRules(0.1, 3, 5.0)) == []


def test_a_place_that_is_no_maximum_is_refined_by_half_a_pixel_at_most():
    """Falling, rising, flat, a valley, a flat valley, a maximum between zeros."""
    before, after = [0.9, 0.1, 0.3, 0.5, 0.6, 0.0], [0.1, 0.9, 0.3, 0.5, 0.5, 0.0]
    three = np.array([before, [0.8, 0.8, 0.3, 0.1, 0.45, 0.2], after])
    assert refinement(three, np.ones(6, bool)).tolist() == [-0.5, 0.5, 0, 0, 0, 0]
    assert refinement(three, np.zeros(6, bool)).tolist() == [0] * 6


@pytest.mark.parametrize("seed", range(5))
def test_merging_equals_the_slow_reference(seed):
    generator = np.random.default_rng(seed)
    places, scores = generator.uniform(0, 30, (60, 3)), generator.integers(0, 10, 60) / 10
    nothing = np.zeros(60)
    rules = FindingRules(threshold=0.3, peaks=3, reach=9.0)
    found = merge(SlicePeaks(nothing, nothing, nothing, scores), places, rules)
    assert found == plain_merge(scores, places, rules)


def test_peaks_exactly_at_the_limits():
    """At the threshold is a finding, at the reach is the same one."""
    places = np.array([[0, 0, 0], [0, 3, 4], [5.01, 0, 0]])
    nothing, rules = np.zeros(3), FindingRules(threshold=0.25, peaks=3, reach=5.0)
    peaks = SlicePeaks(nothing, nothing, nothing, np.array([0.5, 0.4, 0.25]))
    assert merge(peaks, places, rules) == [0, 2]


@pytest.mark.parametrize("code", ["", "T", "X", "Y", "TX", "TY", "XY", "TXY"])
@pytest.mark.parametrize("placed", [True, False])
def test_findings_equal_the_slow_reference(code, placed):
    seed = len(code) + 10 * placed
    heat, slices = maps(seed)
    tokens, size, crop = np.array([1, 2, 4, 7, 8]), 64, 48
    positions = np.cumsum(np.linspace(1, 4, 10)) - 20 if placed else None
    spacing = (3.0, 0.7, 0.4) if placed else (1.5, 0.7, None)
    series = PlainSeries((10, 50, 70), spacing, code, positions)
    rules = FindingRules(threshold=0.1, peaks=4, reach=6.0)

    peaks = plain_peaks(heat, slices[:, PRESENT], crop, rules.peaks)
    down_mm, across_mm = 50 * 0.7 / size, 70 * (0.4 if placed else 0.5) / size
    if "T" in code:
        down_mm, across_mm = across_mm, down_mm
    places = []
    for token, x, y, _ in peaks:
        along = positions[tokens[token]] if placed else tokens[token] * 1.5
        places.append([x * across_mm, y * down_mm, along])
    expected = plain_merge([score for *_, score in peaks], np.array(places), rules)

    view = view_of(extent_mm(series.shape[1:], spacing[1:], code), size, crop)
    found_peaks = find(series, tokens, slices[:, PRESENT], torch.from_numpy(heat), view, rules)
    locations = slices[found_peaks.token, :PRESENT]
    found = findings_at(series, tokens, found_peaks, locations, view)
    assert 1 < len(found) == len(expected) < len(peaks)
    for finding, index in zip(found, expected, strict=True):
        token, x, y, score = peaks[index]
        number = int(tokens[token])
        column, row = stored(series, size, x + 8, y + 8)  # crop 48 of 64
        assert (finding.slice, finding.sop_uid, finding.frame) == (
            number,
            f"1.{number}",
            8 - number,
        )
        assert finding.label == LOCATIONS[max(range(PRESENT), key=lambda k: slices[token, k])]
        assert finding.probability == pytest.approx(score)
        assert (finding.x, finding.y) == pytest.approx((column, row))
        assert finding.position == (positions[number] if placed else None)
        assert finding.patient == (number, finding.x, finding.y)
        numbers = [finding.probability, finding.x, finding.y, *[finding.position] * placed]
        assert {type(value) for value in numbers} == {float}  # json knows no others


def test_what_is_beyond_the_edge_of_the_image_is_no_finding():
    """A view of 160 mm of a field of 80 mm; the highest heat is beside it."""
    series = PlainSeries((1, 48, 48), (5.0, 80 / 48, 80 / 48), "", np.zeros(1))
    view = view_of(np.array([80.0, 80.0]), 48, 40, 160.0)
    heat = torch.zeros(1, 40, 40)
    heat[0, 20, 5], heat[0, 12, 20] = 0.9, 0.5
    peaks = find(series, np.array([0]), np.ones(1), heat, view, FindingRules(0.1, 3, 6.0))
    (found,) = findings_at(series, np.array([0]), peaks, np.ones((1, PRESENT)), view)
    assert found.probability == 0.5 and 0 <= found.x < 48 and 0 <= found.y < 48
