"""The pictures of a page: heat and rings are where they belong, and no mark hides another."""

from base64 import b64decode
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.inference.findings import Finding
from tests.dicom_files import SPACING
from tests.predicted import SHAPE, predicted
from tools.pages import slice_viewer
from tools.pages.slice_viewer import curve_of, shown_tokens, spread, viewer_of

COORDINATE = st.floats(0, 500)


def picture(source: str) -> np.ndarray:
    content = np.frombuffer(b64decode(source.partition(",")[2]), np.uint8)
    return cv2.imdecode(content, cv2.IMREAD_UNCHANGED).astype(float)


def brightest(image: np.ndarray, x: float, y: float, width: float, height: float) -> np.ndarray:
    """Return the centre of what is bright in an image that is drawn in a box of the SVG."""
    bright = np.where(image > 0.7 * image.max(), image, 0)
    rows, columns = np.indices(image.shape) + 0.5
    centre = [(bright * axis).sum() / bright.sum() for axis in (columns, rows)]
    return [x, y] + np.array(centre) * [width, height] / image.shape[::-1]


@pytest.mark.parametrize(
    ("plane", "code", "view_mm"),
    [("axial", "", 0.0), ("axial", "TXY", 14.0), ("coronal", "T", 0.0), ("sagittal", "Y", 14.0)],
)
def test_ring_heat_and_spot_are_at_one_place(plane, code, view_mm, tmp_path):
    case = predicted(tmp_path, plane, code, view_mm=view_mm)
    viewer = viewer_of(case.prepared, case.prediction)
    shown = next(each for each in viewer["slices"] if each["marks"])
    [mark], size = shown["marks"], (viewer["width"], viewer["height"])
    spot = brightest(picture(shown["picture"]), 0, 0, *size)
    hottest = brightest(picture(shown["heat"])[..., 3], *viewer["seen"])
    unit = SHAPE[2] * SPACING[2] / size[0]  # mm
    assert np.abs([mark.x, mark.y] - spot).max() * unit < 0.5
    assert np.abs(hottest - spot).max() * unit < 0.5
    assert viewer["first"] == shown["number"] == case.prediction.findings[0].slice


def test_pixels_that_are_not_square_are_drawn_true_to_scale(tmp_path):
    case = predicted(tmp_path)
    viewer = viewer_of(case.prepared, case.prediction)
    tall = SHAPE[1] * SPACING[1] / (SHAPE[2] * SPACING[2])
    assert viewer["height"] / viewer["width"] == pytest.approx(tall, rel=0.01)
    rows, columns = picture(viewer["slices"][0]["picture"]).shape
    assert rows / columns == pytest.approx(tall, rel=0.01)


@settings(max_examples=50)
@given(st.lists(st.tuples(COORDINATE, COORDINATE), max_size=5), st.floats(1, 40))
def test_no_mark_hides_another(points, apart):
    moved = np.array(spread(points, apart, 250)).reshape(-1, 2)
    for k, place in enumerate(moved):
        distances = np.linalg.norm(np.delete(moved, k, axis=0) - place, axis=1)
        assert (distances >= apart * 0.999).all()
    assert ((moved >= 0) & (moved <= 500)).all()


def test_two_findings_of_one_slice_have_two_marks_on_the_curve(tmp_path):
    prediction = predicted(tmp_path).prediction
    [finding] = prediction.findings
    first, second = curve_of(replace(prediction, findings=[finding, finding]))["marks"]
    assert (first.x, first.y) == (second.x, second.y)  # both point to the same place
    assert np.hypot(first.text_x - second.text_x, first.text_y - second.text_y) >= slice_viewer.MARK


def test_long_series_are_thinned_but_for_findings(tmp_path):
    case = predicted(tmp_path)
    [finding] = case.prediction.findings
    tokens = np.arange(0, 2400, 2)
    odd: Finding = replace(finding, slice=int(tokens[7]))
    shown = shown_tokens(replace(case.prediction, tokens=tokens, findings=[odd]))
    assert len(shown) == slice_viewer.MOST_SLICES + 1 and 7 in shown
    assert set(np.diff(shown)) == {1, 2, 3}
