"""Which group of a folder is the volume, and its order, by hand-made slices."""

import numpy as np
import pydicom
import pytest

from src.dicom import open_series
from src.dicom.errors import DicomError
from src.dicom.order import build_stack, gap_warning
from tests.dicom_files import save, volume, write_axial
from tests.slices_in_memory import a_slice


def test_gaps_in_words():
    places = np.array([0.0, 1, 2, 3.5, 5.1, 6.1, 9.1])
    assert gap_warning(places, 1.0) == ["2 gaps of up to 3.00 mm, the median distance is 1.00 mm"]
    assert gap_warning(np.array([0.0, 1, 2.5]), 1.0) == []
    assert gap_warning(np.array([0.0, 1, 2.6]), 1.0) != []
    assert gap_warning(np.array([0.0, 9.0]), 1.0) == [] and gap_warning(None, None) == []


def stacked(slices) -> list[tuple[int, ...]]:
    return [slice_.instance for slice_ in build_stack(slices).slices]


def test_slices_at_equal_places_have_no_positions():
    alone = build_stack([a_slice(3.0, instance=1)])
    assert alone.positions.tolist() == [3.0] and alone.warnings == []
    close = build_stack([a_slice(0.008 * (k == 1), instance=k) for k in (2, 1, 3)])
    assert close.positions is None and [s.instance for s in close.slices] == [1, 2, 3]
    apart = build_stack([a_slice(0.02 * k, instance=k) for k in (2, 1, 3)])
    np.testing.assert_allclose(apart.positions, [0.02, 0.04, 0.06])


@pytest.mark.parametrize(("placed", "known"), [(3, False), (4, True)])
def test_positions_of_most_slices_are_enough(placed, known):
    slices = [a_slice(k if k < placed else None, instance=9 - k) for k in range(6)]
    stack = build_stack(slices)
    assert (stack.positions is not None) is known
    lost = [slice_.instance for slice_, reason in stack.left_out if reason == "no_position"]
    assert sorted(lost) == ([4, 5] if known else [])


def located(locations: list, instances: list):
    slices = []
    for k, (location, instance) in enumerate(zip(locations, instances, strict=True)):
        tags = {} if location is None else {"SliceLocation": str(location)}
        slices.append(a_slice(tags=tags, instance=instance, uid=f"1.{k}"))
    return build_stack(slices)


def test_without_positions_a_location_of_its_own_orders_each_slice():
    stack = located([3.0, 1.0, 2.0], [1, 2, 3])
    assert [slice_.instance for slice_ in stack.slices] == [2, 3, 1]
    assert stack.warnings == ["no positions: ordered by SliceLocation"]
    by_number = "no positions: ordered by instance number and stored frame"
    for locations in ([3.0, 1.0, None], [3.0, 1.0, 1.0]):
        stack = located(locations, [1, 2, 3])
        assert [slice_.instance for slice_ in stack.slices] == [1, 2, 3]
        assert stack.warnings == [by_number]
    assert located([None, None], [1, 1]).warnings == ["no positions: ordered by SOP UID"]
    assert located([1.0], [1]).warnings == []


def test_the_axis_on_which_positions_spread_most():
    points = [(0.0, 5.0 * k, 2.0 * k) for k in (2, 0, 1)]
    slices = []
    for k, point in zip((2, 0, 1), points, strict=True):
        slices.append(a_slice(position=point, orientation=None, instance=k, uid=f"1.{k}"))
    stack = build_stack(slices)
    assert stack.positions.tolist() == [0.0, 5.0, 10.0]
    assert stack.warnings == ["no orientation: ordered along the patient's y axis"]


@pytest.mark.parametrize(("component", "same"), [(0.0049, True), (0.006, False)])
def test_directions_near_each_other_are_one_group(component, same):
    """A chain of near ones is one group; its normal is that of their mean."""
    slices = [a_slice(k, instance=k) for k in range(5)]
    leaning = (1.0, 0.0, component, 0.0, 1.0, 0.0)
    further = (1.0, 0.0, 2 * component, 0.0, 1.0, 0.0)
    slices += [a_slice(5.0, instance=5, orientation=leaning)]
    slices += [a_slice(6.0, instance=6, orientation=further)]
    stack = build_stack(slices)
    assert len(stack.slices) == (7 if same else 5)
    assert {reason for _, reason in stack.left_out} == (set() if same else {"other_orientation"})
    if same:
        normal = np.cross([1, 0, 3 * component / 7], [0, 1, 0])
        height = normal[2] / np.linalg.norm(normal)
        np.testing.assert_allclose(stack.positions, height * np.arange(7), rtol=1e-12)


@pytest.mark.parametrize(("spacing", "same"), [(1.0009, True), (1.0015, False), (None, True)])
def test_spacings_near_each_other_are_one_group(spacing, same):
    """A slice that says none is of the usual one."""
    slices = [a_slice(k, instance=k) for k in range(5)]
    pair = None if spacing is None else (1.0, spacing)
    stack = build_stack([*slices, a_slice(5.0, instance=5, pixel_spacing=pair)])
    assert len(stack.slices) == (6 if same else 5)


@pytest.mark.parametrize(
    ("originals", "derived", "taken"), [(5, 45, "ORIGINAL"), (4, 45, "DERIVED")]
)
def test_few_originals_do_not_count_before_many_derived_slices(originals, derived, taken):
    slices = []
    for k in range(originals):
        slices.append(a_slice(k, instance=k, tags={"ImageType": "ORIGINAL"}, rows=8))
    for k in range(derived):
        slices.append(a_slice(k, instance=k, tags={"ImageType": "DERIVED"}))
    stack = build_stack(slices)
    assert {slice_.tags["ImageType"] for slice_ in stack.slices} == {taken}
    assert {reason for _, reason in stack.left_out} == {"other_size"}


@pytest.mark.parametrize(
    ("count", "other", "refused"), [(9, False, True), (10, False, False), (10, True, True)]
)
def test_ten_parallel_localizers_and_no_other_image_are_a_volume(count, other, refused):
    tags = {"ImageType": "ORIGINAL\\PRIMARY\\LOCALIZER"}
    slices = [a_slice(k, instance=k, tags=tags) for k in range(count)]
    if other:
        slices.append(a_slice(0, instance=99, tags=tags, orientation=(0.0, 1, 0, 0, 0, -1)))
    if refused:
        with pytest.raises(DicomError, match="all images are localizers") as caught:
            build_stack(slices)
        assert caught.value.reason == "localizer"
    else:
        assert stacked(slices) == list(range(count))


def test_the_same_uid_and_place_is_a_copy_and_another_frame_is_none():
    slices = [a_slice(k, instance=k, uid=f"1.{k}") for k in range(4)]
    frames = [a_slice(k, instance=1, uid="1.9", frame=k) for k in range(4)]
    assert len(build_stack(frames).slices) == 4
    stack = build_stack([*slices, a_slice(2, instance=2, uid="1.2")])
    assert len(stack.slices) == 4 and [reason for _, reason in stack.left_out] == ["duplicate"]


def test_the_spacing_of_a_series_is_that_of_the_slices_that_say_it(tmp_path):
    """Its first slice does not."""
    write_axial(tmp_path, volume())
    data = pydicom.dcmread(tmp_path / "000.dcm")
    del data.PixelSpacing
    save(data, tmp_path / "000.dcm")
    series = open_series(tmp_path)
    assert len(series.slices) == 7 and series.spacing == (2.5, 0.75, 0.5)
    assert series.warnings == [] and series.dropped == []


def test_slices_within_a_hundredth_of_a_mm_are_at_one_position():
    stack = build_stack([a_slice(k, instance=k) for k in (0.0, 0.01, 1, 2, 3)])
    assert stack.positions.tolist() == [0, 1, 2, 3]
    assert [reason for _, reason in stack.left_out] == ["duplicate"]
    assert len(build_stack([a_slice(k, instance=k) for k in (0.0, 0.011, 1, 2, 3)]).slices) == 5


@pytest.mark.parametrize("lacking", ["orientation", "position"])
def test_of_two_groups_of_one_size_the_one_that_has_more_tags(lacking):
    for rows in (3, 5):
        whole = [a_slice(k, instance=k, uid=f"1.{k}") for k in range(4)]
        poor = [
            a_slice(k, instance=k, uid=f"2.{k}", rows=rows, **{lacking: None}) for k in range(4)
        ]
        stack = build_stack(whole + poor)
        assert [slice_.file.rows for slice_ in stack.slices] == [4] * 4


def test_two_slices():
    """One says no spacing; at one place, they have no order of positions."""
    two = [a_slice(0, instance=1, pixel_spacing=None), a_slice(1, instance=2)]
    assert len(build_stack(two).slices) == 2
    assert build_stack([a_slice(0, instance=k) for k in (1, 2)]).positions is None


@pytest.mark.parametrize("place", [0, None])
def test_copies_leave_before_the_order_is_made(place):
    """Also where no position tells them apart."""
    stack = build_stack([a_slice(place, instance=1, uid="1.5") for _ in range(2)])
    assert len(stack.slices) == 1 and stack.warnings == []
    repeats = build_stack([a_slice(k, instance=k, uid=f"1.{k}") for k in (0, 1, 2, 0.0)])
    assert len(repeats.slices) == 3 and len(repeats.left_out) == 1
    again = a_slice(1, instance=9, uid="1.9")
    notes = build_stack([*[a_slice(k, instance=k) for k in range(4)], again]).warnings
    assert notes == ["1 slices repeat a position: the first at each position is taken"]
