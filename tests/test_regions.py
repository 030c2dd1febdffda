"""Where aneurysms of each location lie in the head, and what that says of a finding's name."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from src.artifacts.tables import read_fold, read_folds, read_spots
from src.dicom import open_series
from src.inference.findings import stored_place
from src.labels import LOCATIONS, MIRROR
from src.orientation import canonical_shape, stored_point
from src.sampling import regions
from src.sampling.regions import Stack, from_centre, learn, names_there, places_of
from src.sampling.view import extent_mm, view_of
from tests.conftest import CROP, IMAGE_SIZE
from tests.dicom_files import AXES, places, stored_as, volume, write_slices

LEFT_MCA, RIGHT_MCA, TIP = (
    LOCATIONS.index(name)
    for name in ("Left Middle Cerebral Artery", "Right Middle Cerebral Artery", "Basilar Tip")
)
ORDER = list(MIRROR[: len(LOCATIONS)])


def table_of(values, labels, is_left=True):
    return regions._table(np.array(values, float), np.array(labels), is_left)


@pytest.mark.parametrize("code", ["", "X", "TY"])
@pytest.mark.parametrize("plane", AXES)
def test_places_are_those_of_the_patient(plane, code, tmp_path):
    """In mm to the left, back and head, against the positions in the DICOM files."""
    axes = AXES[plane]
    images, points, orientation, spacing = stored_as(volume(), axes, places(axes, 7), code)
    series = open_series(write_slices(tmp_path, images, points, orientation, spacing))
    assert series.plane == plane
    extent = extent_mm(series.shape[1:], series.spacing[1:], series.orientation)
    view = view_of(extent, IMAGE_SIZE, CROP, 4.0, (0.4, 0.7))
    slices, seen = [1, 4], np.array([[3.0, 9.5], [30, 20]])
    stack = Stack(40, series.spacing[0])  # its middle is 16.5 slices behind that of the 7
    found = from_centre(plane, view, seen, np.array(slices) + 16.5, stack)
    thin = from_centre(plane, view, seen, np.array(slices), Stack(7, series.spacing[0]))
    assert thin.keys() == found.keys() - ({"left"} if plane == "sagittal" else set())
    assert len(found) == {"axial": 2, "coronal": 2, "sagittal": 3}[plane]
    middle = stored_place(series, (CROP - 1) / 2, (CROP - 1) / 2, view)
    centre = np.array(series.patient_point(3, *middle))
    for number, slice_ in enumerate(slices):
        at = series.patient_point(slice_, *stored_place(series, *seen[number], view)) - centre
        for axis, values in found.items():
            component = ("left", "back", "head").index(axis.split()[-1])
            assert values[number] == pytest.approx(at[component]), axis


def test_a_table_is_what_one_localizer_after_another_says():
    """Sequential conjugate updates of a normal's mean and variance, as the batch."""
    values, labels = [20.0, 31.0, 26.0, -24.0], [LEFT_MCA] * 3 + [RIGHT_MCA]
    both = np.array(values + [-value for value in values])
    weight, mean, freedom, squares = 0.5, 0.0, 2.0, 2.0 * both.var()
    for value in (20.0, 31.0, 26.0, 24.0):  # the right one is mirrored
        squares += weight / (weight + 1) * (value - mean) ** 2
        mean = (weight * mean + value) / (weight + 1)
        weight, freedom = weight + 1, freedom + 1
    scale = np.sqrt(squares / freedom * (weight + 1) / weight)
    found = table_of(values, labels)
    np.testing.assert_allclose(found[LEFT_MCA], [mean, scale, freedom])
    np.testing.assert_allclose(found[RIGHT_MCA], [-mean, scale, freedom])
    # Nobody has seen the tip: it may be anywhere.
    np.testing.assert_allclose(found[TIP], [0, both.std() * np.sqrt(3), 2])
    # At the midline both copies are of the same location: half a localizer each.
    middle = table_of([*values, 1.0, -3.0, 4.0], [*labels, TIP, TIP, TIP])[TIP]
    assert middle[0] == 0 and middle[2] == 2 + 3
    variance = np.var([*both, 1, -1, -3, 3, 4, -4])
    np.testing.assert_allclose(middle[1] ** 2, (2 * variance + 26) / 5 * 4.5 / 3.5)


def test_the_density_is_that_of_scipy():
    values = np.array([[-1e6], [-30.0], [0.5], [22.0]])
    mean, scale, freedom = np.array([[20.0, 9, 3], [-5, 0.5, 2], [0, 40, 500]]).T
    expected = stats.t.logpdf(values, freedom, mean, scale)
    np.testing.assert_allclose(regions.log_density(values, mean, scale, freedom), expected)


def test_a_mirrored_head_has_mirrored_names():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 13, 200)
    tables = {
        "left": table_of(generator.normal(size=200) * 20, labels).tolist(),
        "axial back": table_of(generator.normal(size=200) * 9, labels, is_left=False).tolist(),
    }
    at = {"left": np.array([-30.0, -4, 11]), "axial back": np.array([3.0, -8, 40])}
    given = generator.random((3, 13))
    found = names_there(tables, at, given)
    mirrored = names_there(tables, at | {"left": -at["left"]}, given[:, ORDER])
    np.testing.assert_allclose(mirrored[:, ORDER], found, rtol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_a_place_on_the_left_is_not_called_right_and_features_decide_the_rest():
    generator = np.random.default_rng(1)
    labels = np.repeat([LEFT_MCA, RIGHT_MCA, TIP], 20)
    values = generator.normal(size=60) * 4 + np.repeat([25.0, -25, 0], 20)
    tables = {"left": table_of(values, labels).tolist()}
    features = np.full((3, 13), 0.01)
    features[:, RIGHT_MCA], features[2, TIP] = 0.6, 0.3
    found = names_there(tables, {"left": np.array([25.0, -24, 2])}, features)
    assert found.argmax(axis=1).tolist() == [LEFT_MCA, RIGHT_MCA, TIP]
    far = names_there(tables, {"left": np.array([1e4])}, features[:1])
    assert np.isfinite(far).all()
    unknown = names_there(tables, {"coronal head": np.array([25.0])}, features[:1])
    np.testing.assert_allclose(unknown, features[:1] / features[:1].sum())


def test_a_fold_is_named_without_its_own_localizers(tiny):
    """What is changed of the held-out series changes nothing."""
    series, inside = read_fold(tiny, 0)
    outside, spots = series[series.fold != 0], read_spots(tiny)
    found = learn(outside, spots, IMAGE_SIZE, CROP, 60.0)
    assert {"left", "axial back"} <= found.keys()
    assert all(np.shape(table) == (13, 3) for table in found.values())
    assert found["left"][LEFT_MCA][0] > 0 > found["left"][RIGHT_MCA][0]
    spoilt = spots.copy()
    spoilt.loc[spots.SeriesInstanceUID.isin(inside.SeriesInstanceUID), "x_512"] = 0.0
    assert learn(outside, spoilt, IMAGE_SIZE, CROP, 60.0) == found
    assert learn(series, spoilt, IMAGE_SIZE, CROP, 60.0) != learn(
        series, spots, IMAGE_SIZE, CROP, 60.0
    )


def test_too_few_localizers_teach_nothing(tiny):
    series, _ = read_fold(tiny, 0)
    spots = read_spots(tiny)
    few = spots[spots.class_id < 13].head(regions.FEWEST - 1)
    assert learn(series, few, IMAGE_SIZE, CROP, 60.0) == {}
    assert learn(series, pd.DataFrame(columns=spots.columns), IMAGE_SIZE, CROP, 0.0) == {}
    assert (
        from_centre("unknown", view_of(np.ones(2), 4, 4), np.zeros((1, 2)), [0], Stack(1, 1)) == {}
    )


def test_learned_places_are_those_of_the_patient(tiny):
    """Localizers in DICOM's mm from an off-centre head, along the axis of the image nearest."""
    series, spots = read_folds(tiny), read_spots(tiny)
    series["head_x"], series["head_y"] = 0.4, 0.55
    for _, spot in spots[spots.class_id < 13].iterrows():
        one = series[series.SeriesInstanceUID == spot.SeriesInstanceUID]
        found = places_of(one, spots[spots.index == spot.name], IMAGE_SIZE, CROP, 30.0)
        opened = open_series(tiny.series(spot.SeriesInstanceUID))
        code, (height, width) = opened.orientation, opened.shape[1:]
        down, across = canonical_shape(height, width, code)
        head = stored_point(0.4 * across - 0.5, 0.55 * down - 0.5, code, height, width)
        at, centre = (np.array(opened.patient_point(spot.f, *p)) for p in ((spot.x, spot.y), head))
        orientation = np.array(opened.slices[0].orientation).reshape(2, 3)
        for axis in found.keys() - ({"left"} if opened.plane == "sagittal" else set()):
            component = ("left", "back", "head").index(axis.split()[-1])
            nearest = orientation[np.abs(orientation[:, component]).argmax()]
            expected = (at - centre) @ nearest * np.sign(nearest[component])
            (values, labels) = found[axis]
            assert values == pytest.approx([expected], abs=1e-3) and labels == [spot.class_id]


def test_no_place_without_a_head_and_none_that_is_far_out(tiny):
    series, _ = read_fold(tiny, 0)
    spots = read_spots(tiny)
    known = learn(series, spots, IMAGE_SIZE, CROP, 60.0)
    assert learn(series.assign(head_x=np.nan), spots, IMAGE_SIZE, CROP, 60.0) == {}
    spots.loc[spots.index[spots.class_id < 13][0], "x_512"] = 1e6
    far = learn(series, spots, IMAGE_SIZE, CROP, 60.0)
    assert np.abs(np.array(far["left"]) - known["left"]).max() < 20
