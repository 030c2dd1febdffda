"""From a localizer to the crop, to a finding and back: against patient coordinates in mm."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils.data import default_collate

import train_stage1
from src.inference.findings import stored_place
from src.labels import LOCATIONS
from src.orientation import orientation_code
from src.sampling.augment import draw, warp
from src.sampling.resample import seen_volume
from src.sampling.slices import resized_point
from src.sampling.spots import PUBLISHED_SIDE, locate
from src.sampling.view import extent_mm, view_of, view_of_row
from tests.dicom_files import AXES, stored_as, tilted

PUBLISHED = train_stage1.augmentation_of(train_stage1.Config())
MOVING = replace(PUBLISHED, affine=1, mirror=0.5, occlude=0, brightness=0, quarter_turns=False)
EXACT = 0.05  # pixels
IN_MM = st.sampled_from([0.0, 120.0, 160.0, 250.0])
UID, CORNER = "1.2", np.array([-30.0, -20.0, 10.0])  # mm, first pixel of the canonical image


@dataclass
class Geometry:
    """A slice as it is stored, and where its canonical image is in the patient."""

    row: pd.Series  # of train_{N}_folds.csv
    orientation: np.ndarray  # (6,) as DICOM has it
    origin: np.ndarray  # (3,) mm, of the stored image's first pixel
    axes: np.ndarray  # (3, 3) canonical directions: normal, down, across
    pixel: np.ndarray  # (2,) mm of a canonical pixel, across and down
    sides: np.ndarray  # (2,) pixels of the canonical image, across and down

    def patient(self, x: float, y: float) -> np.ndarray:
        """DICOM PS3.3 C.7.6.2.1.1 for column x, row y of the stored image."""
        along_row = self.orientation[:3] * self.row.column_spacing * x
        return self.origin + along_row + self.orientation[3:] * self.row.row_spacing * y

    def in_plane(self, point: np.ndarray) -> np.ndarray:
        """Millimetres across and down from the outer corner of the canonical image."""
        return self.axes[[2, 1]] @ (point - CORNER) + self.pixel / 2


@st.composite
def geometries(draw_):
    axes = AXES[draw_(st.sampled_from(sorted(AXES)))]
    axes = tilted(axes) if draw_(st.booleans()) else axes
    height, width = draw_(st.integers(40, 90)), draw_(st.integers(40, 90))
    side = st.floats(150.0, 260.0)
    spacing = draw_(side) / height, draw_(side) / width
    code = draw_(st.sampled_from(["", "X", "Y", "XY", "T", "TX", "TY", "TXY"]))
    images = np.zeros((1, height, width))
    stored, points, orientation, stored_spacing = stored_as(
        images, axes, CORNER[None], code, spacing
    )
    head = draw_(st.tuples(st.floats(0.35, 0.65), st.floats(0.35, 0.65)))
    row = {
        "h": stored.shape[1],
        "w": stored.shape[2],
        "row_spacing": stored_spacing[0],
        "column_spacing": stored_spacing[1],
        "orientation": orientation_code(tuple(orientation)),
        "head_x": head[0],
        "head_y": head[1],
    }
    pixel, sides = np.array(spacing[::-1]), np.array([width, height])
    return Geometry(pd.Series(row), np.array(orientation), points[0], axes, pixel, sides)


def prepared_point(geometry: Geometry, x: float, y: float, size: int) -> np.ndarray:
    """The localizer of a stored pixel as create_folds.py and the data set read it."""
    row = {"SeriesInstanceUID": UID, "SOPInstanceUID": "s", "location": LOCATIONS[0]}
    row = pd.Series(row | {"coordinates": str({"x": float(x), "y": float(y)})})
    meta = pd.DataFrame([geometry.row], index=[UID])
    spot = locate(row, meta, {UID: ["s"]}, {UID: {"frames": np.array([-1])}})
    points = np.array([spot["x_512"], spot["y_512"]])
    return resized_point(points, PUBLISHED_SIDE, size)


def expected_in_crop(geometry: Geometry, point: np.ndarray, size: int, crop: int, view_mm: float):
    """Return where a point of the patient is in the crop, by millimetres alone."""
    extent = geometry.sides * geometry.pixel
    if not view_mm:
        return geometry.in_plane(point) / extent * size - 0.5 - (size - crop) // 2
    head = np.array([geometry.row.head_x, geometry.row.head_y]) * extent
    for axis in (0, 1):
        beyond = view_mm - extent[axis]  # all of a smaller field is seen: it moves by half of this
        if beyond > 0:
            middle = extent[axis] / 2
            head[axis] = min(max(head[axis], middle - beyond / 2), middle + beyond / 2)
    centre = (size - 1) / 2 - (size - crop) // 2
    return centre + (geometry.in_plane(point) - head) * crop / view_mm


class PlainSeries:
    def __init__(self, row):
        self.shape, self.orientation = (1, int(row.h), int(row.w)), row.orientation


@settings(max_examples=150, deadline=None)
@given(geometries(), st.data(), IN_MM, st.sampled_from([(64, 56), (96, 95), (61, 40), (64, 64)]))
def test_localizer_crop_finding_and_stored_pixel_agree(geometry, data, view_mm, sides):
    size, crop = sides
    x = data.draw(st.floats(0, geometry.row.w - 1))
    y = data.draw(st.floats(0, geometry.row.h - 1))
    view = view_of_row(geometry.row, size, crop, view_mm)
    in_crop = view.to_crop(prepared_point(geometry, x, y, size))
    expected = expected_in_crop(geometry, geometry.patient(x, y), size, crop, view_mm)
    np.testing.assert_allclose(in_crop, expected, atol=EXACT / 10)
    found = stored_place(PlainSeries(geometry.row), *expected, view)
    np.testing.assert_allclose(found, (x, y), atol=EXACT)
    through_matrix = view.matrix.astype(float) @ [*expected, 1]
    np.testing.assert_allclose(through_matrix, view.to_image(expected), atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(geometries(), st.data(), IN_MM, st.integers(0, 10_000))
def test_points_go_where_the_warped_picture_goes(geometry, data, view_mm, seed):
    """A round spot of the patient, in mm, drawn into the prepared image and warped."""
    size, crop, extent = 96, 80, geometry.sides * geometry.pixel
    view = view_of_row(geometry.row, size, crop, view_mm)
    drawn = draw(MOVING, np.random.default_rng(seed), size, crop, True, view)
    sigma = 2.2 * max(extent.max() / size, view.pixel_mm.max())
    reach = min(4 * sigma / view.pixel_mm.min() * 1.15, crop / 2 - 1)
    inside = st.floats(reach, crop - 1 - reach)
    wanted = drawn.matrix.astype(float) @ [data.draw(inside), data.draw(inside), 1]
    x, y = stored_place(PlainSeries(geometry.row), *view.to_crop(wanted), view)
    assume(-0.5 <= x <= geometry.row.w - 0.5 and -0.5 <= y <= geometry.row.h - 0.5)
    point = prepared_point(geometry, x, y, size)
    moved = drawn.move(point[None])[0]
    assume(((moved > reach - 1) & (moved < crop - reach)).all())
    at = geometry.in_plane(geometry.patient(x, y))  # mm from the corner
    assume(((at > 4 * sigma) & (at < extent - 4 * sigma)).all())

    along_x, along_y = ((np.arange(size) + 0.5) / size * side for side in extent)  # mm
    blob = np.exp(-(((along_x - at[0]) / sigma) ** 2) / 2)
    blob = np.exp(-(((along_y - at[1]) / sigma) ** 2) / 2)[:, None] * blob
    image = torch.from_numpy(blob).float().expand(1, 3, -1, -1)
    out = warp(image, default_collate([vars(drawn)]))[0, 1].double().numpy()
    rows, columns = np.mgrid[:crop, :crop]
    weight = out / out.sum()
    centre = [(weight * columns).sum(), (weight * rows).sum()]
    np.testing.assert_allclose(moved, centre, atol=EXACT)


@settings(max_examples=40, deadline=None)
@given(geometries(), st.data(), st.sampled_from([120.0, 160.0]), st.integers(0, 10_000))
def test_augmentation_turns_the_patient_without_shear(geometry, data, view_mm, seed):
    """Distances in the augmented crop are those in the patient, whatever shape the pixels have."""
    size, crop = 96, 80
    view = view_of_row(geometry.row, size, crop, view_mm)
    moving = replace(MOVING, scale=0.0, rotate=40.0)
    drawn = draw(moving, np.random.default_rng(seed), size, crop, True, view)
    columns = data.draw(st.lists(st.floats(0, geometry.row.w - 1), min_size=2, max_size=2))
    rows = data.draw(st.lists(st.floats(0, geometry.row.h - 1), min_size=2, max_size=2))
    places = list(zip(columns, rows, strict=True))
    points = np.stack([prepared_point(geometry, x, y, size) for x, y in places])
    first, second = drawn.move(points)
    apart = np.linalg.norm(geometry.patient(*places[0]) - geometry.patient(*places[1]))
    found = np.linalg.norm(first - second) * view_mm / crop
    assert found == pytest.approx(apart, abs=0.05)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_head_20_mm_off_centre_moves_the_crop_by_20_mm(axis):
    """A bright line through the head's centre stays in the middle of the crop."""
    extent = np.array([180.0, 240.0])
    size, crop, view_mm = 96, 80, 140.0
    head = np.array([0.5, 0.5])
    head[axis] += 20 / extent[axis]
    centred, moved = (view_of(extent, size, crop, view_mm, at) for at in (None, head))
    shift = centred.to_crop(moved.to_image(np.zeros(2)))
    expected = np.zeros(2)
    expected[axis] = 20 * crop / view_mm
    np.testing.assert_allclose(shift, expected, atol=1e-9)
    across_mm = (np.arange(size) + 0.5) / size * extent[axis]
    line = np.exp(-(((across_mm - extent[axis] / 2 - 20) / 8) ** 2))  # mm
    image = np.tile(line, (size, 1)) if axis == 0 else np.tile(line[:, None], (1, size))
    images = torch.from_numpy(image[None]).half()
    seen = seen_volume(images, moved, images.device)[0].float().numpy()
    profile = seen.sum(axis=1 - axis)
    assert (profile * np.arange(crop)).sum() / profile.sum() == pytest.approx(
        (crop - 1) / 2, abs=0.02
    )


def test_without_millimetres_the_pixel_is_that_of_the_image():
    extent = extent_mm((100, 50), (0.5, 2.0), "T")
    assert extent.tolist() == [50.0, 100.0]
    view = view_of(extent, 50, 40)
    assert view.pixel_mm.tolist() == [1.0, 2.0] and not view.in_mm
    assert view_of(extent, 50, 40, 20.0).pixel_mm.tolist() == [0.5, 0.5]


@given(st.floats(60.0, 159.0), st.floats(60.0, 300.0), st.floats(0, 1), st.floats(0, 1))
def test_a_field_smaller_than_the_view_is_seen_whole(across, down, x, y):
    view = view_of(np.array([across, down]), 96, 80, 160.0, (x, y))
    corners = view.to_crop(np.array([[-0.5, -0.5], [95.5, 95.5]]))  # of the prepared image
    assert -0.5 - EXACT < corners[0, 0] < corners[1, 0] < 79.5 + EXACT
    if down >= 160:
        head = view.to_crop(np.array([x, y]) * 96 - 0.5)
        assert head[1] == pytest.approx(39.5)
