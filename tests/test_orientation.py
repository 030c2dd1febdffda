"""The canonical orientation against ITK's, for every way to store a volume."""

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK

from src.orientation import (
    canonical,
    canonical_point,
    canonical_shape,
    normal_of,
    orientation_code,
    plane_of,
    stored_point,
)
from tests.dicom_files import tilted

CANONICAL = {"axial": "LPS", "coronal": "LIP", "sagittal": "PIL"}  # columns, rows, slices to
PLANES = ("sagittal", "coronal", "axial")  # by the axis of the normal


def directions():
    """Return the directions along rows and down columns of all 24 ways, as unit vectors."""
    found = []
    for (across, down), signs in product(permutations(range(3), 2), product((1, -1), repeat=2)):
        found.append((signs[0] * np.eye(3)[across], signs[1] * np.eye(3)[down]))
    return found


@pytest.mark.parametrize("degrees", [0.0, 14.0, -20.0])
@pytest.mark.parametrize("way", range(24))
def test_canonical_volumes_equal_those_of_itk(way, degrees):
    across, down = tilted(np.stack(directions()[way]), degrees)
    normal = np.cross(across, down)
    stored = np.random.default_rng(way).integers(0, 999, (3, 4, 5)).astype(np.int32)
    image = SimpleITK.GetImageFromArray(stored)
    image.SetDirection(np.stack([across, down, normal], axis=1).ravel().tolist())
    orientation = (*across.tolist(), *down.tolist())
    plane = plane_of(orientation)
    assert plane == PLANES[np.abs(normal).argmax()]
    expected = SimpleITK.GetArrayFromImage(SimpleITK.DICOMOrient(image, CANONICAL[plane]))

    order = 1 if normal_of(orientation) @ normal > 0 else -1
    found = canonical(stored, orientation_code(orientation))[::order]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(normal_of(orientation), order * normal, atol=1e-12)


@pytest.mark.parametrize("code", ["", "T", "X", "Y", "TX", "TY", "XY", "TXY"])
def test_every_pixel_is_found_in_the_canonical_image_and_back(code):
    stored = np.arange(20).reshape(4, 5)
    image = canonical(stored, code)
    assert image.shape == canonical_shape(4, 5, code)
    for y, x in np.ndindex(4, 5):
        column, row = canonical_point(x, y, code, 4, 5)
        assert image[row, column] == stored[y, x]
        assert stored_point(column, row, code, 4, 5) == (x, y)


def test_an_unknown_orientation_changes_nothing():
    assert orientation_code(None) == ""
    assert plane_of(None) == "unknown"


def test_the_normal_is_a_unit_vector_whatever_the_directions_lengths():
    assert normal_of((2.0, 0, 0, 0, 3.0, 0)).tolist() == [0, 0, 1]
    assert normal_of((0, 1.0, 0, 1.0, 0, 0)).tolist() == [0, 0, 1]
