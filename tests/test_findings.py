import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from src.dicom import open_series, read_series
from src.inference.findings import (
    FindingRules,
    SlicePeaks,
    find,
    findings_at,
    merge,
    peaks_of,
)
from src.labels import LABELS, LOCATIONS, PRESENT
from src.orientation import canonical_point, stored_point
from src.sampling.slices import centre_crop, original_point, resized_point
from src.sampling.view import extent_mm, view_of
from tests.dicom_files import AXES, SPACING, places, stored_as, volume, write_frames, write_slices
from tests.reference import plain_images

RULES = FindingRules(threshold=0.15, peaks=3, reach=12.0)


def gaussian(
    side: int, x: float, y: float, height: float = 0.9, sigma: float = 1.5
) -> torch.Tensor:
    rows, columns = torch.meshgrid(
        torch.arange(side) + 0.0, torch.arange(side) + 0.0, indexing="ij"
    )
    return height * torch.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))


@given(st.floats(1.6, 12.4), st.floats(1.6, 12.4))
def test_the_peak_of_a_gaussian_is_found_between_the_pixels(x, y):
    peaks = peaks_of(gaussian(15, x, y)[None], np.array([0.8]), crop=120, count=3)
    assert peaks.x[0] == pytest.approx((x + 0.5) * 8 - 0.5, abs=0.1)
    assert peaks.y[0] == pytest.approx((y + 0.5) * 8 - 0.5, abs=0.1)
    height = gaussian(15, x, y).max()
    assert peaks.score[0] == pytest.approx(0.8 * float(height), rel=1e-5)


def test_a_peak_at_the_edge_stays_in_the_image():
    peaks = peaks_of(gaussian(12, -0.4, 11.3)[None], np.array([1.0]), crop=96, count=3)
    assert (peaks.x[0], peaks.y[0]) == (3.5, 91.5)


def test_two_aneurysms_on_a_slice_are_two_peaks():
    heat = torch.maximum(gaussian(20, 4, 5, 0.9), gaussian(20, 15, 14, 0.5))
    peaks = peaks_of(heat[None], np.array([1.0]), crop=20, count=3)
    assert [(round(x), round(y)) for x, y in zip(peaks.x[:2], peaks.y[:2], strict=True)] == [
        (4, 5),
        (15, 14),
    ]
    np.testing.assert_allclose(peaks.score[:2], [0.9, 0.5], rtol=1e-4)


def test_peaks_of_neighbouring_slices_are_one_finding_and_far_ones_are_not():
    score = np.array([0.3, 0.9, 0.4, 0.5, RULES.threshold - 0.01])
    where = np.array(
        [[0, 0, 0], [0, 0, 5], [3, 0, 10], [0, RULES.reach + 1, 5], [100, 0, 0]], float
    )
    peaks = SlicePeaks(np.arange(5), where[:, 0], where[:, 1], score)
    assert merge(peaks, where, RULES) == [1, 3]


@given(
    st.sampled_from(["", "T", "X", "Y", "TX", "TY", "XY", "TXY"]),
    st.floats(-0.5, 9.5),
    st.floats(-0.5, 11.5),
)
def test_stored_points_undo_canonical_ones(orientation, x, y):
    there = canonical_point(x, y, orientation, height=12, width=10)
    assert stored_point(*there, orientation, height=12, width=10) == pytest.approx((x, y))


@given(st.floats(0, 500), st.integers(3, 600), st.integers(3, 600))
def test_original_points_undo_resized_ones(position, length, size):
    assert original_point(resized_point(position, length, size), length, size) == pytest.approx(
        position, abs=1e-6
    )


@pytest.mark.parametrize("plane", AXES)
@pytest.mark.parametrize("code", ["", "X", "Y", "T", "TXY"])
@pytest.mark.parametrize("storage", ["files", "frames"])
def test_a_bright_spot_is_found_in_the_original_image(plane, code, storage, tmp_path):
    """The brightest pixel of a volume, in any plane, stored in any direction."""
    size, crop, axes = 48, 40, AXES[plane]
    images = volume((5, 12, 10), high=900)
    slice_, row, column = 3, 5, 4
    images[slice_, row, column] = 4000
    points = places(axes, 5)
    expected_mm = points[slice_] + row * SPACING[1] * axes[1] + column * SPACING[2] * axes[2]
    stored, points, orientation, spacing = stored_as(images, axes, points, code)
    if storage == "files":
        folder = write_slices(tmp_path / "1.2.3", stored, points, orientation, spacing)
    else:
        folder = write_frames(
            tmp_path / "1.2.3" / "a.dcm", stored[::-1], points[::-1], orientation
        ).parent
    series = read_series(folder)
    prepared = centre_crop(plain_images(series, size, "percentile"), crop).astype(np.float32)
    heat = torch.from_numpy(np.where(prepared > 4.5, prepared / 5, 0.0)).float()
    heat = torch.nn.functional.avg_pool2d(heat[:, None], 3, 1, 1)[:, 0]
    slices = np.full((5, len(LABELS)), 0.1)
    slices[slice_, [4, PRESENT]] = 0.9
    view = view_of(extent_mm(series.shape[1:], series.spacing[1:], series.orientation), size, crop)
    opened, tokens = open_series(folder), np.arange(5)
    peaks = find(opened, tokens, slices[:, PRESENT], heat, view, RULES)
    found = findings_at(opened, tokens, peaks, slices[peaks.token, :PRESENT], view)[0]
    assert (found.label, found.slice, found.sop_uid) == (
        LOCATIONS[4],
        slice_,
        series.sop_uids[slice_],
    )
    assert found.frame == (1 if storage == "frames" else -1)
    image = series.pixels[found.slice]
    assert image[round(found.y), round(found.x)] == image.max() == 4000
    if storage == "files" or spacing == SPACING[1:]:  # frames are written with that spacing only
        np.testing.assert_allclose(found.patient, expected_mm, atol=0.5)
    assert found.position == pytest.approx(series.positions[slice_])


def test_a_prepared_pixel_spans_what_the_stored_ones_did():
    for shape, orientation, expected in (((100, 200), "", (1, 1)), ((100, 100), "T", (1, 0.5))):
        extent = extent_mm(shape, (0.5, 0.25), orientation)
        assert view_of(extent, 50, 40).pixel_mm.tolist() == list(expected)
