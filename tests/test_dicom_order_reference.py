"""Order and choice of slices against how the volume was made."""

import numpy as np
import pytest

from src.dicom import read_series
from tests.dicom_files import AXES, dataset, places, save, tilted, volume, write_slices


@pytest.mark.parametrize("seed", range(8))
def test_slices_are_in_the_order_of_their_places_however_they_were_acquired(seed, tmp_path):
    """Any plane, tilted or not, stepped either way, of any spacing."""
    generator = np.random.default_rng(seed)
    axes = AXES[generator.choice(list(AXES))]
    axes = tilted(axes, generator.uniform(-20, 20)) if seed % 2 else axes
    count, spacing = int(generator.integers(2, 12)), generator.uniform(0.3, 6)
    images, points = volume((count, 6, 5), seed), places(axes, count, spacing)
    acquired = generator.permutation(count)
    write_slices(tmp_path, images, points, [*axes[2], *axes[1]], order=acquired)

    # The normal of the canonical axes points to the head, the back or the left.
    height = points @ np.cross(axes[2], axes[1])
    height = height if np.cross(axes[2], axes[1]) @ axes[0] > 0 else -height
    series = read_series(tmp_path)
    np.testing.assert_array_equal(series.pixels, images[np.argsort(height)])
    np.testing.assert_allclose(np.diff(series.positions), spacing, atol=1e-4)
    np.testing.assert_allclose(series.spacing[0], spacing, atol=1e-4)
    assert series.warnings == [] and series.dropped == []


GEOMETRY = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("count", [2, 5])
def test_of_two_groups_of_one_size_the_one_with_an_orientation_is_the_volume(
    count, turned, tmp_path
):
    """The file names, numbers and UIDs of either group may come first."""
    for k in range(count):
        position = {"ImagePositionPatient": [0, 0, 2.0 * k]}
        for oriented in (True, False):
            first = oriented != turned
            data = dataset(volume(seed=oriented)[k], **position, **(GEOMETRY if oriented else {}))
            data.InstanceNumber = k + 1 + 50 * first
            data.SOPInstanceUID = f"1.2.3.{int(first)}.{k}"
            save(data, tmp_path / f"{int(first)}{k}.dcm")
    series = read_series(tmp_path)
    np.testing.assert_array_equal(series.pixels, volume(seed=True)[:count])
    assert series.plane == "axial"
    assert len(series.dropped) == count


@pytest.mark.parametrize("placed_side", [6, 12])
def test_of_two_groups_of_one_size_the_one_with_positions_is_the_volume(placed_side, tmp_path):
    """Two image sizes, of which either comes first when they are sorted."""
    for k in range(4):
        for side in (6, 12):
            position = {"ImagePositionPatient": [0, 0, 2.0 * k]} if side == placed_side else {}
            data = dataset(volume((4, side, side), side)[k], **position, **GEOMETRY)
            data.InstanceNumber, data.SOPInstanceUID = k + 1, f"1.2.3.{side}.{k}"
            save(data, tmp_path / f"{side}-{k}.dcm")
    series = read_series(tmp_path)
    np.testing.assert_array_equal(series.pixels, volume((4, placed_side, placed_side), placed_side))
    np.testing.assert_allclose(series.positions, [0, 2, 4, 6])
