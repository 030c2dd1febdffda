"""Slices of one folder -> one volume in order.

The largest consistent group is kept, without repeats, and sorted along the slice normal.
"""

from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import numpy as np

from src.dicom.header import Slice
from src.orientation import normal_of

SAME_GEOMETRY = 1e-3  # of direction cosines, and of pixel spacings in mm
SAME_POSITION = 0.01  # mm
GAP = 1.5  # times the median distance of neighbours


@dataclass
class Stack:
    """Slices in order, and what was left out."""

    slices: list[Slice]
    positions: np.ndarray | None = None  # (n,) mm along the normal, ascending
    left_out: list[tuple[Slice, str]] = field(default_factory=list)  # slice, reason
    warnings: list[str] = field(default_factory=list)


class Placed(NamedTuple):
    """A slice and its place in the volume."""

    slice_: Slice
    index: int  # of its position among the distinct positions
    place: float  # mm along the normal


def build_stack(slices: list[Slice]) -> Stack:
    """Return the one volume among `slices` (at least one). The order of `slices` is irrelevant."""
    chosen, left_out = largest_group(slices)
    stack = Stack(chosen, left_out=left_out)
    _remove_copies(stack)
    _sort(stack)
    return stack


def largest_group(slices: list[Slice]) -> tuple[list[Slice], list[tuple[Slice, str]]]:
    """Return the largest group of slices that fit together, and the others with a reason each."""
    groups: list[list[Slice]] = []
    for slice_ in sorted(slices, key=_content):
        for group in groups:
            if not difference(group[0], slice_):
                group.append(slice_)
                break
        else:
            groups.append([slice_])

    def rank(group: list[Slice]) -> tuple[int, bool, bool]:
        return len(group), group[0].orientation is not None, group[0].position is not None

    chosen = max(groups, key=rank)
    left_out = []
    for group in groups:
        if group is not chosen:
            left_out += [(slice_, difference(chosen[0], slice_)) for slice_ in group]
    return chosen, left_out


def difference(a: Slice, b: Slice) -> str:
    """Return why two slices cannot belong to one volume, "" if they can."""
    if (a.file.series_uid, a.file.modality) != (b.file.series_uid, b.file.modality):
        return "other_series"
    if (a.file.rows, a.file.columns) != (b.file.rows, b.file.columns):
        return "other_size"
    one_unknown = (a.orientation is None) != (b.orientation is None)
    if one_unknown or _differ(a.orientation, b.orientation):
        return "other_orientation"
    return "other_spacing" if _differ(a.pixel_spacing, b.pixel_spacing) else ""


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
    return kind, geometry, slice_.scan, slice_.number, file.sop_uid, str(file.path)


def _differ(a: tuple[float, ...] | None, b: tuple[float, ...] | None) -> bool:
    if a is None or b is None:
        return False
    return max(abs(x - y) for x, y in zip(a, b, strict=True)) > SAME_GEOMETRY


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
    """Sort by position; if positions are missing or all the same, by the acquisition's numbers."""
    slices = stack.slices
    placed = [slice_ for slice_ in slices if slice_.position is not None]
    if len(placed) <= len(slices) / 2:
        _sort_by_number(stack, "no positions")
        return
    places, notes = _along_normal(placed)
    if len(placed) > 1 and np.ptp(places) <= SAME_POSITION:
        _sort_by_number(stack, "all positions are the same")
        return
    stack.left_out += [(slice_, "no_position") for slice_ in slices if slice_.position is None]
    stack.warnings += notes
    _sort_by_position(stack, placed, places)


def _sort_by_number(stack: Stack, note: str) -> None:
    """Sort by instance number, then SOP UID, then stored frame."""
    slices = stack.slices
    numbers = {(slice_.instance, slice_.frame) for slice_ in slices}
    order = "instance number and stored frame" if len(numbers) == len(slices) else "SOP UID"
    if len(slices) > 1:
        stack.warnings.append(f"{note}: ordered by {order}")
    slices.sort(key=lambda slice_: slice_.number)


def _along_normal(slices: list[Slice]) -> tuple[np.ndarray, list[str]]:
    """Return places (n,) in mm along the normal, and a warning if it had to be guessed.

    With no orientation, or a wrong one, take the patient's axis on which positions spread most.
    """
    points = np.array([slice_.position for slice_ in slices])  # (n, 3)
    note = "no orientation"
    if slices[0].orientation is not None:
        along = points @ normal_of(slices[0].orientation)
        if len(slices) == 1 or np.ptp(along) > SAME_POSITION:
            return along, []
        note = "the positions do not spread along the slice normal"
    axis = int(np.ptp(points, axis=0).argmax())
    return points[:, axis], [f"{note}: ordered along the patient's {'xyz'[axis]} axis"]


def _sort_by_position(stack: Stack, slices: list[Slice], places: np.ndarray) -> None:
    """Keep one slice at each position, all of one pass if there is a complete one."""
    entries = _placed(slices, places)
    by_time = sorted(entries, key=lambda entry: (entry.slice_.scan, entry.slice_.number))
    counts = Counter(entry.index for entry in entries)
    repeated = sum(count > 1 for count in counts.values())
    several_passes = repeated > len(counts) / 2
    complete = _first_complete_pass(by_time, len(counts)) if several_passes else {}
    first_at_each = {entry.index: entry for entry in reversed(by_time)}
    chosen = complete or first_at_each
    repeats = [entry.slice_ for entry in by_time if entry is not chosen[entry.index]]
    if repeats:
        reason = "other_pass" if several_passes else "duplicate"
        stack.left_out += [(slice_, reason) for slice_ in repeats]
        taken = "complete pass" if complete else "at each position"
        note = f"{len(repeats)} slices repeat a position"
        stack.warnings.append(f"{note}: the first {taken} is taken")
    kept = [chosen[index] for index in range(len(counts))]
    stack.slices = [entry.slice_ for entry in kept]
    stack.positions = np.array([entry.place for entry in kept])


def _placed(slices: list[Slice], places: np.ndarray) -> list[Placed]:
    """Return the slices by ascending place; places closer than SAME_POSITION share an index."""
    entries = []
    index = 0
    for k in np.argsort(places, kind="stable").tolist():
        if entries and places[k] - entries[-1].place > SAME_POSITION:
            index += 1
        entries.append(Placed(slices[k], index, places[k]))
    return entries


def _first_complete_pass(by_time: list[Placed], count: int) -> dict[int, Placed]:
    """Return {index: entry} of the first run that has each of `count` positions once, else {}.

    A run is consecutive in time, and of one time point, acquisition and echo.
    """
    for _, entries in groupby(by_time, key=lambda entry: entry.slice_.scan):
        run = {}
        for entry in entries:
            if entry.index in run:
                run = {}
            run[entry.index] = entry
            if len(run) == count:
                return run
    return {}
