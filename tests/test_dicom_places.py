"""Groups of slices by places and traits, by hand-made slices: one acquisition, or several."""

import numpy as np
import pytest

from src.dicom import groups
from src.dicom.acquisitions import _same_numbers, one_acquisition
from src.dicom.groups import in_doubt, join, plausible
from tests.slices_in_memory import a_slice, group


@pytest.mark.parametrize(
    ("places", "thickness", "doubted"),
    [
        ([0, 1, 2, 3, 4], None, False),
        ([0, 1, 2, 3, 4], 1.6, False),  # overlap of 0.375 is usual
        ([0, 1, 2, 3, 4], 1.7, True),
        ([0, 3, 6, 9, 12], 5.0, False),  # 0.6 of the thickness and no less
        ([0, 0.4, 0.8], 5.0, False),  # too few to know
        ([0, 0.4, 0.8, 1.2], 5.0, True),
        ([0, 1, 2, 3, 4, 4.4], None, True),  # one is too near
        ([0, 2, 4, 6, 8, 9], None, True),  # half the distance: the grid of another scan
        ([0, 2, 4, 6, 8, 9.1], None, False),  # more than half
        ([0, 1, 2, 4, 5, 8, 9], None, True),  # uneven
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 20], None, False),  # one gap
    ],
)
def test_when_one_group_may_be_several_acquisitions(places, thickness, doubted):
    tags = {} if thickness is None else {"SliceThickness": str(thickness)}
    assert bool(in_doubt(group(places, tags))) is doubted


def test_positions_that_repeat_are_a_doubt():
    assert in_doubt(group([0, 1, 1], index=[0, 1, 1]))


@pytest.mark.parametrize(
    ("places", "even"),
    [
        ([0, 5, 6], True),  # too few to know
        ([0, 5, 6, 12], False),
        ([0, 1, 2, 3, 4, 20], True),  # 4 of 5 distances
        ([0, 1, 2, 3, 20], False),  # 3 of 4
        ([0, 1, 2.06, 3.12], True),  # within 5 % and 0.01 mm
        ([0, 1, 2, 3.07], False),
        ([0, 0.1, 0.2, 0.314], True),
        ([0, 0.1, 0.2, 0.319], False),
    ],
)
def test_an_acquisition_has_even_distances(places, even):
    """The largest part decides where no position repeats."""
    assert bool(plausible([group(places), group([99, 107])], 1)) is even
    assert bool(plausible([group([99, 107]), group(places)], 1)) is even


@pytest.mark.parametrize(("once", "plausible_"), [(8, True), (7, False)])
def test_most_positions_of_a_part_have_as_many_slices(once, plausible_):
    """Eight of ten are enough, over all parts; a part with two slices everywhere is whole, too."""
    twice = [*range(5), *range(5)]
    whole = group(twice, index=twice)
    index = [*range(10), *range(10 - once)]
    assert plausible([group(index, index=index)], 2) is plausible_
    assert plausible([whole, whole], 2)
    # 5 of 5 and 5 of 7: 10 of 12; with 4 of 7, 9 of 12
    for odd, expected in ((2, True), (3, False)):
        index = [*range(7), *range(odd)]
        assert plausible([whole, group(index, index=index)], 2) is expected


def shifted(shift: float, first: int = 6, second: int = 6, **tags) -> bool:
    """Return whether slices between those of a group of 1 mm are another acquisition."""
    a = group(list(np.arange(first)), tags)
    b = group(list(np.arange(second) + shift), tags, index=range(100, 100 + second))
    return len(join([a, b], by_setting=True)) == 2


@pytest.mark.parametrize(
    ("shift", "apart"), [(0.3, True), (0.5, True), (5.7, False), (6.0, False), (-6.5, False)]
)
def test_slices_between_those_of_a_group_are_another_acquisition(shift, apart):
    """Unless they go on where it ends."""
    assert shifted(shift) is apart


@pytest.mark.parametrize(("shift", "apart"), [(3.3, True), (2.3, True), (3.8, False)])
def test_half_of_the_slices_of_the_smaller_group_are_enough(shift, apart):
    assert shifted(shift) is apart


def test_interleaved_slices_are_one_stack():
    """Every second slice: by the thickness, half of the distance is as far as one stack is."""
    thin = {"SliceThickness": "1"}
    for tags, count in ((thin, 1), ({}, 2)):
        even, odd = group([0, 2, 4, 6], tags), group([1, 3, 5, 7], tags, [10, 11, 12, 13])
        assert len(join([even, odd], by_setting=False)) == count


@pytest.mark.parametrize(
    ("shared", "size", "apart"), [(2, 4, True), (1, 4, False), (3, 5, True), (2, 5, False)]
)
def test_half_of_the_positions_shared_is_the_same_place(shared, size, apart):
    a = group(list(range(10)))
    start = 10 - shared
    b = group(list(range(start, start + size)), index=range(start, start + size))
    assert len(join([a, b], by_setting=False)) == (2 if apart else 1)
    assert len(join([b, a], by_setting=False)) == (2 if apart else 1)


@pytest.mark.parametrize(
    ("place", "many", "by_setting", "apart"),
    [
        ([4.3], 10, True, True),
        ([4.3], 9, True, False),
        ([4.3], 30, False, False),
        ([4.3, 5.3], 20, True, True),
        ([4.3, 5.3], 19, True, False),
        ([-0.6], 30, True, False),
        ([-0.4], 30, True, True),
        ([29.4], 30, True, True),
        ([29.6], 30, True, False),
        ([4.5], 30, True, False),  # half the distance is no nearer
    ],
)
def test_few_images_among_many_slices(place, many, by_setting, apart):
    """They are of another kind if a setting differs and there are ten times as many slices."""
    images = group(place, index=range(50, 50 + len(place)))
    stack = group(list(range(many)))
    assert len(join([stack, images], by_setting)) == (2 if apart else 1)
    assert len(join([images, stack], by_setting)) == (2 if apart else 1)


def test_three_slices_have_a_distance_of_their_own():
    """They are compared like any part, and not as few images."""
    stack = group(list(range(8)))
    three = group([2.3, 3.3, 4.3], index=[50, 51, 52])
    assert len(join([stack, three], by_setting=False)) == 2


@pytest.mark.parametrize(
    ("changes", "tags", "distance"),
    [
        ({}, {}, 2.0),
        ({"slice_spacing": 1.5}, {}, 1.5),
        ({"slice_spacing": 3.0}, {}, 2.0),
        ({"slice_spacing": 3.0}, {"SliceThickness": "1"}, 1.0),
    ],
)
def test_the_distance_of_slices_is_the_least_that_is_known(changes, tags, distance):
    assert groups._distance(group([0, 2, 4, 9], tags, **changes)) == distance
    if changes or tags:
        single = [value for value in (changes.get("slice_spacing"), 1.0 if tags else None) if value]
        assert groups._distance(group([0], tags, **changes)) == min(single)


def test_numbers_that_differ_by_next_to_nothing_are_equal():
    """By 0.3 %; a chain of such numbers is one."""
    assert _same_numbers([100.0, 100.2, 100.6]) == [100.0, 100.0, 100.6]
    assert _same_numbers([100.4, 100.2, 100.0]) == [100.0] * 3
    assert _same_numbers([-100.0, -99.8, 0.0, 5.0]) == [-100.0, -100.0, 0.0, 5.0]
    assert _same_numbers(["B", None, (1,), 2.0]) == ["B", None, (1,), 2.0]


def choose(entries: list[tuple[float, dict]], **changes):
    """Return the choice among slices of (place, tags), in any order."""
    entries = sorted(entries, key=lambda entry: entry[0])
    places = np.array([float(place) for place, _ in entries])
    slices = []
    for k, (place, tags) in enumerate(entries):
        slices.append(a_slice(place, tags=tags, instance=tags.get("instance", k), **changes))
    steps = np.diff(places, prepend=places[0]) > 0.01
    return one_acquisition(slices, np.cumsum(steps), places)


def reasons(choice) -> set[str]:
    return {reason for _, reason in choice.left_out}


def test_a_trait_that_most_slices_lack_is_a_group_of_its_own():
    """Slices that do not say come last."""
    with_tag = [(k, {"EchoTime": "5"}) for k in range(6)]
    choice = choose([(k, {}) for k in range(6)] + with_tag)
    assert [slice_.tags for slice_ in choice.slices] == [{"EchoTime": "5"}] * 6
    assert choice.notes == ["2 echo times: 5 ms is taken, 6 slices left out"]


def test_the_one_with_most_slices_by_name_where_no_value_may_be_shown():
    first = [(k, {"ConvolutionKernel": "A", "instance": k}) for k in range(5)]
    more = [(k, {"ConvolutionKernel": "B", "instance": 50 + k}) for k in range(7)]
    choice = choose(first + more)
    note = "2 reconstruction kernels: the one with most slices is taken, 5 slices left out"
    assert choice.notes == [note] and reasons(choice) == {"other_reconstruction"}
    assert choose(first + more[:5]).notes[0].startswith("2 reconstruction kernels: the first is")


@pytest.mark.parametrize(("originals", "taken"), [(4, "original"), (3, "derived")])
def test_originals_are_taken_if_they_are_half_as_many(originals, taken):
    entries = [(k, {"ImageType": "ORIGINAL\\PRIMARY"}) for k in range(originals)]
    entries += [(k, {"ImageType": "DERIVED\\SECONDARY"}) for k in range(8)]
    choice = choose(entries)
    assert f"the {taken} is taken" in choice.notes[0]
    assert len(choice.kept) == (originals if taken == "original" else 8)


@pytest.mark.parametrize(
    ("count", "reason"), [(2, "duplicate"), (3, "duplicate"), (4, "other_pass")]
)
def test_repeats_at_most_positions_may_be_mixed(count, reason):
    entries = [(k, {"AcquisitionNumber": "1", "instance": k}) for k in range(6)]
    entries += [(k, {"AcquisitionNumber": "1", "instance": k}) for k in range(count)]
    choice = choose(entries)
    assert reasons(choice) == {reason} and len(choice.kept) == 6
    assert ("may be mixed" in choice.notes[0]) is (reason == "other_pass")


def test_the_first_in_time_is_kept_of_repeats():
    """Times count before instance numbers, and slices without a time come last."""
    entries = [(k, {"AcquisitionTime": f"1200{k:02d}", "instance": k}) for k in range(1, 9)]
    entries.append((3, {"AcquisitionTime": "120003", "instance": 99}))
    entries.append((5, {"AcquisitionTime": "110000", "instance": 99}))
    entries.append((7, {"instance": 0}))
    choice = choose(entries)
    kept = [(entry.place, entry.slice_.instance) for entry in choice.kept]
    assert kept == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 99), (6, 6), (7, 7), (8, 8)]
    assert choice.places.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    left_out = {(slice_.position[2], slice_.instance) for slice_, _ in choice.left_out}
    assert left_out == {(3, 99), (5, 5), (7, 0)}


def test_strict_traits_tear_apart_what_looks_like_one_stack():
    entries = [(k, {"DiffusionBValue": "0" if k < 5 else "1000"}) for k in range(8)]
    choice = choose(entries)
    assert [entry.place for entry in choice.kept] == [0, 1, 2, 3, 4]
    assert choice.notes == ["2 b-values: 0 s/mm2 is taken, 3 slices left out"]
    # A slice that does not say is no other weighting.
    assert len(choose([(0, {})] + [(k, {"DiffusionBValue": "0"}) for k in range(1, 8)]).kept) == 8


def test_the_reason_of_those_between_the_others_and_of_those_at_their_places():
    between = [(k + 0.4, {"EchoTime": "9"}) for k in range(6)]
    assert reasons(choose([(k, {"EchoTime": "5"}) for k in range(6)] + between)) == {
        "other_acquisition"
    }
    shared = [(k, {"EchoTime": "9"}) for k in range(5)] + [(5.4, {"EchoTime": "9"})]
    assert reasons(choose([(k, {"EchoTime": "5"}) for k in range(6)] + shared)) == {"other_pass"}


@pytest.mark.parametrize("size", [3, 4])
def test_acquisitions_that_are_made_in_blocks(size):
    """Two regions in turn: six numbers in time, whose blocks of a region are one stack."""
    entries = []
    for number in range(8):
        region = (number % 2) * size
        for k in range(size):
            place = region + (size - 1 - k if number % 3 else k)
            tags = {"AcquisitionNumber": str(number), "instance": place * 10 + number // 2}
            entries.append((place, tags))
    choice = choose(entries)
    numbers = {slice_.tags["AcquisitionNumber"] for slice_ in choice.slices}
    assert numbers == {"0", "1"} and len(choice.slices) == 2 * size
    assert choice.notes[0].startswith("4 acquisitions by acquisition number")


def test_three_of_four_positions_are_not_most():
    index = [0, 1, 2, 3, 3]
    assert not plausible([group(index, index=index)], 2)


def test_passes_by_instance_number_where_no_position_repeats():
    first = [(k, {"instance": k}) for k in range(8)]
    choice = choose(first + [(k + 0.4, {"instance": 50 + k}) for k in range(8)])
    assert [entry.place for entry in choice.kept] == [*range(8)]
    assert choice.notes[0].startswith("2 passes by instance number")


def test_groups_in_any_order_come_by_place():
    placed = group([3, 1, 2, 0], index=[3, 1, 2, 0])
    slices = [entry.slice_ for entry in placed]
    choice = one_acquisition(slices, np.array([3, 1, 2, 0]), np.array([3.0, 1, 2, 0]))
    assert choice.places.tolist() == [0, 1, 2, 3]
