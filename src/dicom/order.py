"""Slices of one folder -> one volume in order: the largest consistent group, without repeats, along the slice normal."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from src.dicom.header import Slice
from src.orientation import normal_of

SAME_GEOMETRY = 1e-3  # of direction cosines, and of pixel spacings in mm
SAME_POSITION = 0.01  # mm
GAP = 1.5  # times the median distance of neighbours


@dataclass
class Stack:
    """Slices in order. positions: mm along the normal, ascending, or None. left_out: (slice, reason)."""

    slices: list[Slice]
    positions: np.ndarray | None = None
    left_out: list[tuple[Slice, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def build_stack(slices: list[Slice]) -> Stack:
    """The one volume among `slices` (at least one); the result does not depend on their order."""
    chosen, left_out = largest_group(slices)
    distinct, copies = _without_copies(chosen)
    stack = Stack(distinct, left_out=left_out + [(piece, "duplicate") for piece in copies])
    _sort(stack)
    return stack


def largest_group(slices: list[Slice]) -> tuple[list[Slice], list[tuple[Slice, str]]]:
    """The most slices with one series UID, size, orientation and pixel spacing; the others with the reason for leaving them out."""
    groups: list[list[Slice]] = []
    for piece in sorted(slices, key=_content):
        group = next((group for group in groups if not difference(group[0], piece)), None)
        if group is None:
            groups.append(group := [])
        group.append(piece)
    chosen = max(
        groups,
        key=lambda group: (
            len(group),
            group[0].orientation is not None,
            group[0].position is not None,
        ),
    )
    return chosen, [
        (piece, difference(chosen[0], piece))
        for group in groups
        if group is not chosen
        for piece in group
    ]


def difference(one: Slice, other: Slice) -> str:
    """Why two slices cannot belong to one volume; empty where they can."""
    if (one.file.series_uid, one.file.modality) != (other.file.series_uid, other.file.modality):
        return "other_series"
    if (one.file.rows, one.file.columns) != (other.file.rows, other.file.columns):
        return "other_size"
    if (one.orientation is None) != (other.orientation is None) or _apart(
        one.orientation, other.orientation
    ):
        return "other_orientation"
    return "other_spacing" if _apart(one.pixel_spacing, other.pixel_spacing) else ""


def gap_warning(positions: np.ndarray | None, median: float | None) -> list[str]:
    """One sentence where slices are missing or irregular, else nothing. median: mm between neighbours before any was lost."""
    distances = np.diff(positions) if positions is not None else np.empty(0)
    if len(distances) < 2:
        return []
    gaps = distances[distances > GAP * median]
    return (
        [f"{len(gaps)} gaps of up to {gaps.max():.2f} mm, the median distance is {median:.2f} mm"]
        if len(gaps)
        else []
    )


def _content(piece: Slice) -> tuple:
    """Sorts slices by what they hold; names come last, to tell exact copies apart."""
    file = piece.file
    geometry = (piece.orientation or (), piece.pixel_spacing or (), piece.position or ())
    return (
        file.series_uid,
        file.modality,
        file.rows,
        file.columns,
        *geometry,
        piece.acquired,
        file.sop_uid,
        str(file.path),
    )


def _apart(one: tuple[float, ...] | None, other: tuple[float, ...] | None) -> bool:
    return (
        one is not None
        and other is not None
        and max(abs(a - b) for a, b in zip(one, other, strict=True)) > SAME_GEOMETRY
    )


def _without_copies(slices: list[Slice]) -> tuple[list[Slice], list[Slice]]:
    """(slices, copies of them): what has the same SOP UID, frame and place is the same image. (Some anonymisers give all files one SOP UID.)"""
    distinct, copies = {}, []
    for piece in slices:
        key = (piece.file.sop_uid or piece.file.path, piece.frame, piece.position, piece.instance)
        if distinct.setdefault(key, piece) is not piece:
            copies.append(piece)
    return list(distinct.values()), copies


def _sort(stack: Stack) -> None:
    """By position; where positions are missing or all the same, by instance number, SOP UID and stored frame."""
    placed = [piece for piece in stack.slices if piece.position is not None]
    if len(placed) > len(stack.slices) / 2:
        places, note = _along_normal(placed)
        if len(placed) == 1 or np.ptp(places) > SAME_POSITION:
            stack.left_out += [
                (piece, "no_position") for piece in stack.slices if piece.position is None
            ]
            stack.warnings += note
            return _sort_by_position(stack, placed, places)
        note = "all positions are the same"
    else:
        note = "no positions"
    by_instance = len({(piece.instance, piece.frame) for piece in stack.slices}) == len(
        stack.slices
    )
    if len(stack.slices) > 1:
        stack.warnings.append(
            f"{note}: ordered by {'instance number and stored frame' if by_instance else 'SOP UID'}"
        )
    stack.slices.sort(key=lambda piece: piece.acquired[3:])


def _along_normal(slices: list[Slice]) -> tuple[np.ndarray, list[str]]:
    """Places in mm along the normal; without an orientation, or with a wrong one, along the axis on which they spread most."""
    points = np.array([piece.position for piece in slices])
    note = "no orientation"
    if slices[0].orientation is not None:
        along = points @ normal_of(slices[0].orientation)
        if len(slices) == 1 or np.ptp(along) > SAME_POSITION:
            return along, []
        note = "the positions do not spread along the slice normal"
    axis = int(np.ptp(points, axis=0).argmax())
    return points[:, axis], [f"{note}: ordered along the patient's {'xyz'[axis]} axis"]


def _sort_by_position(stack: Stack, slices: list[Slice], places: np.ndarray) -> None:
    order = np.argsort(places, kind="stable")
    places = places[order]
    index = np.concatenate(
        [[0], np.cumsum(np.diff(places) > SAME_POSITION)]
    )  # of the distinct position each slice has
    by_time = sorted(
        ((slices[i], int(k), place) for i, k, place in zip(order, index, places, strict=True)),
        key=lambda entry: entry[0].acquired,
    )
    counts = Counter(index.tolist())
    many = sum(count > 1 for count in counts.values()) > len(counts) / 2
    complete = _first_complete_pass(by_time, len(counts)) if many else {}
    chosen = complete or {
        entry[1]: entry for entry in reversed(by_time)
    }  # else the first at each position
    kept = [chosen[k] for k in range(len(counts))]
    taken = {id(piece) for piece, _, _ in kept}
    repeats = [piece for piece, _, _ in by_time if id(piece) not in taken]
    if repeats:
        stack.left_out += [(piece, "other_pass" if many else "duplicate") for piece in repeats]
        stack.warnings.append(
            f"{len(repeats)} slices repeat a position: the first {'complete pass' if complete else 'at each position'} is taken"
        )
    stack.slices = [piece for piece, _, _ in kept]
    stack.positions = np.array([place for _, _, place in kept])


def _first_complete_pass(
    by_time: list[tuple[Slice, int, float]], count: int
) -> dict[int, tuple[Slice, int, float]]:
    """{index of a position: entry}: of slices in acquisition order the first run that has each of `count` positions once, all of one time
    point, acquisition and echo; empty where there is none."""
    for _, entries in groupby(by_time, key=lambda entry: entry[0].acquired[:3]):
        run = {}
        for entry in entries:
            if entry[1] in run:
                run = {}
            run[entry[1]] = entry
            if len(run) == count:
                return run
    return {}
