"""Slices of one folder -> one volume in order.

The largest group of one geometry is kept, of this one acquisition and reconstruction, and its
slices are sorted along their normal.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from src.dicom.acquisitions import one_acquisition
from src.dicom.errors import require
from src.dicom.header import Slice
from src.dicom.kinds import DOUBTFUL, FEWEST, NAMES, STACK, is_derived, kind_of, true_slices
from src.orientation import normal_of

SAME_DIRECTION = 5e-3  # of direction cosines, between neighbours of one group
SAME_SPACING = 1e-3  # mm, of pixel spacings
SAME_POSITION = 0.01  # mm
GAP = 1.5  # times the median distance of neighbours
REASONS = ("other_series", "other_series", "other_size", "other_orientation", "other_spacing")


@dataclass
class Stack:
    """Slices in order, and what was left out."""

    slices: list[Slice]
    positions: np.ndarray | None = None  # (n,) mm along the normal, ascending
    left_out: list[tuple[Slice, str]] = field(default_factory=list)  # slice, reason
    warnings: list[str] = field(default_factory=list)


def build_stack(slices: list[Slice]) -> Stack:
    """Return the one volume among `slices` (at least one). The order of `slices` is irrelevant.

    Raise DicomError if all are images of a kind that is no volume.
    """
    kept, left_out, warnings = true_slices(sorted(slices, key=_content))
    chosen, others = largest_group(kept)
    kind = kind_of(chosen[0])
    if kind in DOUBTFUL:
        # Some writers call all slices of a volume so; real ones are few or turn.
        one_stack = len(chosen) >= STACK and not others
        require(one_stack, kind, f"all images are {NAMES[kind]}, no volume")
    stack = Stack(chosen, left_out=left_out + others, warnings=warnings)
    _remove_copies(stack)
    _sort(stack)
    return stack


def largest_group(slices: list[Slice]) -> tuple[list[Slice], list[tuple[Slice, str]]]:
    """Return the largest group of slices of one geometry, and the others with a reason each.

    Originals count before slices that were derived from them.
    """
    groups: dict[tuple, list[Slice]] = {}
    for slice_, key in zip(slices, _geometries(slices), strict=True):
        groups.setdefault(key, []).append(slice_)
    originals = Counter()
    for key, group in groups.items():
        originals[key] = sum(not is_derived(slice_) for slice_ in group)
    if originals.total() < FEWEST * len(slices):
        originals.clear()

    def rank(key: tuple) -> tuple[int, int, bool, bool]:
        first = groups[key][0]
        return (
            originals[key],
            len(groups[key]),
            first.orientation is not None,
            first.position is not None,
        )

    best = max(groups, key=rank)
    left_out = []
    for key, group in groups.items():
        if key != best:
            differs = next(k for k in range(len(key)) if key[k] != best[k])
            left_out += [(slice_, REASONS[differs]) for slice_ in group]
    return groups[best], left_out


def gap_warning(positions: np.ndarray | None, median: float | None) -> list[str]:
    """Return one sentence if slices are missing, else an empty list.

    median: mm between neighbours before any slice was lost
    """
    if positions is None or len(positions) < 3:
        return []
    distances = np.diff(positions)
    gaps = distances[distances > GAP * median]
    found = f"{len(gaps)} gaps of up to {gaps.max(initial=0):.2f} mm"
    return [f"{found}, the median distance is {median:.2f} mm"] if len(gaps) else []


def _content(slice_: Slice) -> tuple:
    """Sort slices by what they hold. Names come last, to tell exact copies apart."""
    file = slice_.file
    kind = (file.series_uid, file.modality, file.rows, file.columns)
    geometry = (slice_.orientation or (), slice_.pixel_spacing or (), slice_.position or ())
    return kind, geometry, slice_.number, file.sop_uid, str(file.path)


def _geometries(slices: list[Slice]) -> list[tuple]:
    """Return what slices of one volume share: series, modality, size, direction, pixel spacing.

    Directions and spacings are numbers of a group; each member is near another one.
    """
    directions = _near(slices, "orientation", SAME_DIRECTION)
    spacings = _near(slices, "pixel_spacing", SAME_SPACING)
    counts = Counter(spacings[slice_.pixel_spacing] for slice_ in slices)
    counts[-1] = 0  # A missing spacing is no other spacing.
    usual = max(counts, key=counts.get)
    keys = []
    for slice_ in slices:
        file = slice_.file
        spacing = usual if slice_.pixel_spacing is None else spacings[slice_.pixel_spacing]
        size = (file.rows, file.columns)
        direction = directions[slice_.orientation]
        keys.append((file.series_uid, file.modality, size, direction, spacing))
    return keys


def _near(slices: list[Slice], name: str, tolerance: float) -> dict[tuple | None, int]:
    """Return the number of the group of each value that slices have; None is a group, too.

    A value joins a group if one member is so near that no component differs by more.
    """
    known = Counter(getattr(slice_, name) for slice_ in slices)
    known.pop(None, None)
    groups: dict[tuple | None, int] = {None: -1}
    values = np.array(list(known))  # (u, k)
    left = np.ones(len(known), bool)
    for first in range(len(known)):
        found = [first] if left[first] else []
        left[first] = False
        while found:
            at = found.pop()
            groups[tuple(values[at].tolist())] = first
            near = left & (np.abs(values - values[at]).max(axis=1) <= tolerance)
            left &= ~near
            found += np.flatnonzero(near).tolist()
    return groups


def _remove_copies(stack: Stack) -> None:
    """Keep one of the slices with the same SOP UID, frame and place: they are the same image.

    The UID alone does not decide: some anonymisers give all files the same one.
    """
    distinct = {}
    for slice_ in stack.slices:
        uid = slice_.file.sop_uid or slice_.file.path
        key = (uid, slice_.frame, slice_.position, slice_.instance)
        if distinct.setdefault(key, slice_) is not slice_:
            stack.left_out.append((slice_, "duplicate"))
    stack.slices = list(distinct.values())


def _sort(stack: Stack) -> None:
    """Sort by position; if positions are missing or all the same, by what else gives an order."""
    slices = stack.slices
    placed = [slice_ for slice_ in slices if slice_.position is not None]
    if len(placed) <= len(slices) / 2:
        _sort_without_positions(stack, "no positions")
        return
    places, notes = _along_normal(placed)
    if len(placed) > 1 and np.ptp(places) <= SAME_POSITION:
        _sort_without_positions(stack, "all positions are the same")
        return
    stack.left_out += [(slice_, "no_position") for slice_ in slices if slice_.position is None]
    stack.warnings += notes
    stack.positions = _keep_one(stack, placed, places)


def _sort_without_positions(stack: Stack, note: str) -> None:
    """Sort by SliceLocation if it tells all slices apart, else by instance number or SOP UID."""
    slices = stack.slices
    locations = {slice_.location for slice_ in slices}
    numbers = {(slice_.instance, slice_.frame) for slice_ in slices}
    if len(locations) == len(slices) and None not in locations:
        order = "SliceLocation"
        slices.sort(key=lambda slice_: slice_.location)
    else:
        order = "instance number and stored frame" if len(numbers) == len(slices) else "SOP UID"
        slices.sort(key=lambda slice_: slice_.number)
    if len(slices) > 1:
        stack.warnings.append(f"{note}: ordered by {order}")


def _along_normal(slices: list[Slice]) -> tuple[np.ndarray, list[str]]:
    """Return places (n,) in mm along the normal, and a warning if it had to be guessed.

    With no orientation, or a wrong one, take the patient's axis on which positions spread most.
    """
    points = np.array([slice_.position for slice_ in slices])  # (n, 3)
    note = "no orientation"
    if slices[0].orientation is not None:
        along = points @ normal_of(_mean_orientation(slices))
        if len(slices) == 1 or np.ptp(along) > SAME_POSITION:
            return along, []
        note = "the positions do not spread along the slice normal"
    axis = int(np.ptp(points, axis=0).argmax())
    return points[:, axis], [f"{note}: ordered along the patient's {'xyz'[axis]} axis"]


def _mean_orientation(slices: list[Slice]) -> tuple[float, ...]:
    """Return the one direction of all slices, or the mean if they vary a little."""
    distinct = {slice_.orientation for slice_ in slices}
    if len(distinct) == 1:
        return slices[0].orientation
    return tuple(np.mean([slice_.orientation for slice_ in slices], axis=0).tolist())


def _keep_one(stack: Stack, slices: list[Slice], places: np.ndarray) -> np.ndarray:
    """Keep the slices of one acquisition by ascending place; return their places (n,)."""
    order = np.argsort(places, kind="stable")
    ascending = places[order]
    steps = np.diff(ascending, prepend=ascending[0]) > SAME_POSITION
    choice = one_acquisition([slices[k] for k in order], np.cumsum(steps), ascending)
    stack.slices = choice.slices
    stack.left_out += choice.left_out
    stack.warnings += choice.notes
    return choice.places
