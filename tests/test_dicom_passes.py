"""Passes over the positions of a group, by hand-made times."""

import numpy as np
import pytest

from src.dicom.groups import Placed
from src.dicom.passes import _can_be_compared, _times_at, passes
from tests.slices_in_memory import a_slice


def split(table: dict[tuple[int, int], float | None], spacing: float = 2.0) -> list[list]:
    """Return the (pass, position) of each part.

    table: (pass, position) -> time, in stored order
    """
    entries, names = [], {}
    for number, index in table:
        entry = Placed(a_slice(index * spacing), index, index * spacing)
        names[id(entry)] = (number, index)
        entries.append(entry)
    parts = passes(entries, list(table.values()))
    return [sorted(names[id(entry)] for entry in part) for part in parts]


def table(time, passes_: int, positions: int, missing=()) -> dict[tuple[int, int], float]:
    found = {}
    for index in reversed(range(positions)):
        for number in reversed(range(passes_)):
            if (number, index) not in missing:
                found[number, index] = time(number, index)
    return found


def whole(passes_: int, positions: int, missing=()) -> list[list]:
    """Return the passes as they were made."""
    parts = []
    for number in range(passes_):
        names = [(number, index) for index in range(positions)]
        parts.append([name for name in names if name not in missing])
    return parts


CLOCKS = {
    "one after the other": lambda number, index: 100.0 * number + index,
    "at once": lambda number, index: 100.0 * number + 0.01 * index,
    "position by position": lambda number, index: number + 100.0 * index,
    "downwards": lambda number, index: 100.0 * number - 3.0 * index**1.5,
    "of the heart": lambda number, index: 40.0 * number + 3.0 * (index % 3),
}


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("count", [2, 4])
def test_repeats_in_time_are_the_passes(clock, count):
    assert split(table(CLOCKS[clock], count, 6)) == whole(count, 6)


@pytest.mark.parametrize("clock", ["at once", "position by position", "downwards", "of the heart"])
@pytest.mark.parametrize("missing", [(0, 2), (1, 3), (2, 1), (0, 0), (2, 0), (1, 5), (2, 5)])
def test_where_a_repeat_is_missing_its_neighbours_tell_the_pass(clock, missing):
    """Inside, and at both ends, where times go on as they ran."""
    found = split(table(CLOCKS[clock], 3, 6, {missing}))
    assert found == whole(3, 6, {missing})


@pytest.mark.parametrize("missing", [(0, 2), (1, 3)])
def test_passes_without_a_pause_are_runs_where_some_are_missing(missing):
    """Times of a position say nothing then, as one pass ends just before the next begins."""
    times = table(lambda number, index: 6.0 * number + index, 3, 6, {missing})
    assert split(times) == whole(3, 6, {missing})


def test_runs_that_go_to_and_fro():
    def to_and_fro(number: int, index: int) -> float:
        return 5.0 * number + (index if number % 2 == 0 else 4 - index)

    missing = {(1, 2), (2, 1)}
    assert split(table(to_and_fro, 3, 5, missing)) == whole(3, 5, missing)


def test_one_slice_a_position_is_cut_where_it_turns():
    """Every second slice up, then the others: by the turn."""
    times = {(0, 0): 0.0, (0, 2): 1.0, (0, 4): 2.0, (1, 1): 3.0, (1, 3): 4.0}
    assert split(times) == [[(0, 0), (0, 2), (0, 4)], [(1, 1), (1, 3)]]
    down = {(0, 4): 0.0, (0, 2): 1.0, (0, 0): 2.0, (1, 3): 3.0, (1, 1): 4.0}
    assert split(down) == [[(0, 0), (0, 2), (0, 4)], [(1, 1), (1, 3)]]


def test_missing_times_tell_nothing():
    times = table(CLOCKS["at once"], 2, 5)
    assert split(times | {(1, 2): None}) == []


@pytest.mark.parametrize(("same", "told"), [(0, True), (1, True), (3, False), (6, False)])
def test_times_that_are_the_same_at_one_position_tell_nothing(same, told):
    """A few are an accident: fewer than one in five."""
    times = table(CLOCKS["at once"], 2, 6)
    for index in range(same):
        times[1, index] = times[0, index]
    assert bool(split(times)) is told


@pytest.mark.parametrize(
    ("step", "compared"),
    [(0.1, True), (0.59, True), (0.6, False), (1.0, False), (1.5, False), (1.51, True)],
)
def test_a_pass_as_long_as_the_interval_cannot_be_compared(step, compared):
    """The first and the last of three positions are `step` intervals apart."""
    times = np.array([[0.0, 10, 20], [5 * step, 10 + 5 * step, 20 + 5 * step]])
    times = np.vstack([times, [10 * step, 10 + 10 * step, 20 + 10 * step]])
    assert bool(_can_be_compared(times)) is compared


def test_times_between_and_beyond_positions():
    places = np.array([2.0, 4.0, 6.0])
    times = np.array([[1.0, 11.0], [2.0, 12.5], [3.0, 13.0]])
    np.testing.assert_allclose(_times_at(3.0, places, times), [1.5, 11.75])
    np.testing.assert_allclose(_times_at(2.0, places, times), [1.0, 11.0])
    np.testing.assert_allclose(_times_at(6.0, places, times), [3.0, 13.0])
    straight = np.array([[1.0, 11.0], [2.0, 12.0], [3.0, 13.0]])
    np.testing.assert_allclose(_times_at(0.0, places, straight), [0.0, 10.0], atol=1e-9)
    np.testing.assert_allclose(_times_at(8.0, places, straight), [4.0, 14.0])
    np.testing.assert_allclose(_times_at(9.0, places[:1], straight[:1]), [1.0, 11.0])


def test_passes_without_a_pause_that_are_whole_are_the_repeats():
    """Every second slice, then the others, in each pass."""
    rank = [0, 3, 1, 4, 2, 5]
    times = table(lambda number, index: 6.0 * number + rank[index], 3, 6)
    assert split(times) == whole(3, 6)
