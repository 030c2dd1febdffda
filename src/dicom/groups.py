"""Groups of slices by their places: do they show the same part of the body, are they one stack?"""

from collections import Counter
from typing import NamedTuple

import numpy as np

from src.dicom.header import Slice

CLOSE = 0.75  # times the distance of slices: those of one acquisition are not so near
TOO_CLOSE = 0.5  # the same for single slices
COVERED = 0.5  # fraction of a group's slices near those of another: both show the same place
EVEN = 0.8  # fraction of distances, or of positions, that are as most of them
JITTER = (0.05, 0.01)  # by which even distances differ: fraction of the median, and mm
FEW = 3  # slices; fewer have no distance of their own


class Placed(NamedTuple):
    """A slice and its place in the volume."""

    slice_: Slice
    index: int  # of its position among the distinct positions
    place: float  # mm along the normal


Group = list[Placed]


def join(parts: list[Group], by_setting: bool) -> list[Group]:
    """Join parts that are at other places: slabs, or every second slice, of one acquisition.

    by_setting: the parts differ in a setting of the scanner, and not just in time

    Where two of them overlap, slices of the later one that are between those of the earlier one
    are a group of their own, the last.
    """
    places = _places([entry for part in parts for entry in part])
    usual = float(np.median(np.diff(places))) if len(places) > 1 else 0.0
    joined: list[Group] = []
    crossing: Group = []
    for part in parts:
        for group in joined:
            if not _same_places(part, group, by_setting):
                between = _between(part, group, usual)
                crossing += [entry for entry in part if entry.index in between]
                group += [entry for entry in part if entry.index not in between]
                break
        else:
            joined.append(list(part))
    return [*joined, crossing] if crossing else joined


def _same_places(a: Group, b: Group, by_setting: bool) -> bool:
    """Return whether most of the smaller group's slices are where the other one has slices."""
    few, many = sorted((a, b), key=positions)
    indices = {entry.index for entry in few}
    shared = indices.intersection(entry.index for entry in many)
    if len(shared) >= COVERED * len(indices):
        return True
    single = len(indices) < FEW
    # A few images of another kind among many slices, such as those that time the contrast.
    if single and not (by_setting and positions(many) >= 10 * len(indices)):
        return False
    distance = _distance(many) if single else min(_distance(few), _distance(many))
    near = _nearest(few, many) < (TOO_CLOSE if single else CLOSE) * distance
    return bool(near.mean() >= COVERED)


def _between(part: Group, group: Group, usual: float) -> set[int]:
    """Return the indices of the part's positions that are close to others of the group.

    There are none if they are few: neighbours at the border of two slabs can be close.

    usual: mm between neighbours in the whole volume
    """
    if min(positions(part), positions(group)) < FEW:
        return set()
    indices = np.unique([entry.index for entry in part])  # as ascending as the places
    nearest = _nearest(part, group)
    close = nearest < CLOSE * min(_distance(part), _distance(group), usual)
    others = {entry.index for entry in group}
    found = set(indices[close].tolist()) - others
    return found if len(found) >= FEW else set()


def _nearest(few: Group, many: Group) -> np.ndarray:
    """Return mm from each ascending place of `few` to the nearest of `many` (two or more)."""
    places, others = _places(few), _places(many)
    after = np.searchsorted(others, places).clip(1, len(others) - 1)
    return np.minimum(np.abs(others[after - 1] - places), np.abs(others[after] - places))


def plausible(parts: list[Group], most: int) -> bool:
    """Return whether parts are acquisitions and no accident of a value that varies at random.

    most: slices at one position of the whole group
    """
    largest = max(parts, key=positions)
    if most == 1:
        whole = [entry for part in parts for entry in part]
        return _is_even(_places(largest)) and _uneven(_places(largest)) <= _uneven(_places(whole))
    even = total = 0
    for part in parts:
        counts = Counter(Counter(entry.index for entry in part).values())
        even += counts.most_common(1)[0][1]
        total += counts.total()
    return even >= EVEN * total


def in_doubt(group: Group) -> bool:
    """Return whether the group can hold several acquisitions by its positions."""
    places = _places(group)
    if len(places) < len(group):
        return True
    thickness = group[0].slice_.thickness or 0
    if len(places) <= FEW:
        return False
    distances = np.diff(places)
    median = np.median(distances)
    overlap = median < 0.6 * thickness or distances.min() < TOO_CLOSE * median + JITTER[1]
    return overlap or not _is_even(places)


def _is_even(places: np.ndarray) -> bool:
    """Return whether most distances of ascending places are alike."""
    return len(places) <= FEW or 1 - _uneven(places) / (len(places) - 1) >= EVEN


def _uneven(places: np.ndarray) -> int:
    """Return how many distances of ascending places are not as most of them."""
    distances = np.diff(places)
    if not len(distances):
        return 0
    median = np.median(distances)
    return np.count_nonzero(np.abs(distances - median) > JITTER[0] * median + JITTER[1])


def _distance(group: Group) -> float:
    """Return mm between slices of one acquisition, by places and header, whichever is less."""
    places, first = _places(group), group[0].slice_
    known = [first.slice_spacing, first.thickness]
    if len(places) > 1:
        known.append(float(np.median(np.diff(places))))
    return min(value for value in known if value)


def _places(group: Group) -> np.ndarray:
    """Return the ascending distinct places (k,) in mm."""
    places = {entry.index: entry.place for entry in group}
    return np.array(sorted(places.values()))


def positions(group: Group) -> int:
    return len({entry.index for entry in group})


def repeated(group: Group) -> int:
    """Return the number of positions that have several slices."""
    return sum(count > 1 for count in Counter(entry.index for entry in group).values())
