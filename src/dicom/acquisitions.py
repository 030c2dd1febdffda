"""Slices of one geometry -> those of one acquisition and one reconstruction.

A series can hold several: time points, echoes, energies, diffusion weightings, reconstructions.
One group is chosen for all positions, never one for each position. Groups that share no places,
such as the slabs of one long scan, are one volume.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from src.dicom.groups import (
    COVERED,
    EVEN,
    FEW,
    Group,
    Placed,
    in_doubt,
    join,
    plausible,
    positions,
    repeated,
)
from src.dicom.header import Slice
from src.dicom.traits import ACQUISITION, FIRST_WORDS, PASS, TRAITS, Trait, Value, label

SAME_NUMBER = 0.01  # settings that differ by less, relatively, are the same


@dataclass
class Choice:
    """The slices of one acquisition by position, and what was left out."""

    kept: Group
    left_out: list[tuple[Slice, str]] = field(default_factory=list)  # slice, reason
    notes: list[str] = field(default_factory=list)

    @property
    def slices(self) -> list[Slice]:
        return [entry.slice_ for entry in self.kept]

    @property
    def places(self) -> np.ndarray:
        return np.array([entry.place for entry in self.kept])


def one_acquisition(slices: list[Slice], indices: np.ndarray, places: np.ndarray) -> Choice:
    """Return slices of one acquisition, one at each position.

    indices: (n,) ascending, equal for slices at one position
    places: (n,) mm along the normal
    """
    entries = map(Placed, slices, indices.tolist(), places.tolist())
    return _resolve(list(entries), TRAITS)


def _resolve(group: Group, traits: tuple[Trait, ...]) -> Choice:
    """Split the group by the first trait that tells acquisitions in it apart, and so on."""
    doubted = in_doubt(group)
    for k, trait in enumerate(traits):
        parts = _split(group, trait) if doubted or trait.strict else []
        if len(parts) > 1:
            choices = [_resolve(part, traits[k + 1 :]) for part in parts]
            return _best(group, trait, parts, choices)
    return _first_of_repeats(group)


def _best(group: Group, trait: Trait, parts: list[Group], choices: list[Choice]) -> Choice:
    """Return the choice with most positions, the first of those, with a note on the others."""
    sizes = [len(choice.kept) for choice in choices]
    best = sizes.index(max(sizes))
    if trait.first_wins and sizes[0] >= COVERED * max(sizes):
        best = 0
    choice = choices[best]
    reason = trait.reason
    if reason == PASS and len(choice.kept) <= COVERED * positions(group):
        reason = ACQUISITION  # they lie between each other
    others = [entry for k, part in enumerate(parts) if k != best for entry in part]
    choice.left_out += [(entry.slice_, reason) for entry in others]
    values = {trait.value(entry.slice_) for entry in parts[best]}
    taken = label(trait, values.pop()) if len(values) == 1 else ""
    taken = taken or ("the first is" if best == 0 else "the one with most slices is")
    note = f"{len(parts)} {trait.what}: {taken} taken, {len(others)} slices left out"
    choice.notes.insert(0, note)
    return choice


def _first_of_repeats(group: Group) -> Choice:
    """Return the first slice in time at each position."""
    if positions(group) == len(group):
        return Choice(sorted(group, key=lambda entry: entry.index))
    in_time = [trait for trait in TRAITS if trait.in_time]

    def order(entry: Placed) -> tuple:
        values = [trait.value(entry.slice_) for trait in in_time]
        return [(value is None, value or 0) for value in values], entry.slice_.number

    by_time = sorted(group, key=order)
    first = {entry.index: entry for entry in reversed(by_time)}
    repeats = [entry.slice_ for entry in by_time if entry is not first[entry.index]]
    passes = repeated(group) > len(first) / 2
    note = f"{len(repeats)} slices repeat a position: the first at each position is taken"
    doubt = ", but nothing tells acquisitions apart: they may be mixed" if passes else ""
    return Choice(
        [first[index] for index in sorted(first)],
        [(slice_, PASS if passes else "duplicate") for slice_ in repeats],
        [note + doubt],
    )


def _split(group: Group, trait: Trait) -> list[Group]:
    """Return the acquisitions that a trait tells apart, first things first, or one or none."""
    values = [trait.value(entry.slice_) for entry in group]
    values = values if trait.in_time else _same_numbers(values)
    known = set(values) - {None}
    if trait.strict:
        return _equal(group, values) if len(known) > 1 else []
    if not known or len(set(values)) == 1:
        return []
    most = max(Counter(entry.index for entry in group).values())
    if trait.weak and most > 1 and repeated(group) <= positions(group) / 2:
        return []
    equal = _equal(group, values)
    # Times can differ from slice to slice: then their order tells, and not that they are equal.
    candidates = [equal]
    if trait.in_time and len(equal) > 1.5 * most + 1:
        candidates = [_passes(group, values)]
        if np.median([len(part) for part in equal]) >= FEW:
            candidates.append(equal)
    for parts in candidates:
        joined = join(parts)
        if len(joined) > 1 and plausible(joined, most):
            return joined
    return []


def _same_numbers(values: list[Value]) -> list[Value]:
    """Return values in which numbers that differ by next to nothing are equal."""
    numbers = sorted({value for value in values if isinstance(value, float)})
    same = {}
    for value, before in zip(numbers, [-np.inf, *numbers], strict=False):
        is_same = value - before <= SAME_NUMBER * abs(value)
        same[value] = same[before] if is_same else value
    return [same.get(value, value) for value in values]


def _equal(group: Group, values: list[Value]) -> list[Group]:
    """Return groups of equal values, ascending; words come in the order of acquisition."""
    parts: dict[Value, Group] = {}
    for entry, value in zip(group, values, strict=True):
        parts.setdefault(value, []).append(entry)

    words = any(isinstance(value, str) for value in parts)

    def order(value: Value) -> tuple:
        first = min(entry.slice_.number for entry in parts[value])
        if words:
            return value not in FIRST_WORDS, first
        return (value is None, first) if value is None else (False, value, first)

    return [parts[value] for value in sorted(parts, key=order)]


def _passes(group: Group, values: list[Value]) -> list[Group]:
    """Return the passes over the positions, by values that run with time; [] if they do not tell.

    If some slices are missing, each pass must go up or down, or take every second slice, or each
    position must have all its repeats before the next.
    """
    pairs = Counter(zip([entry.index for entry in group], values, strict=True))
    if None in values or sum(count > 1 for count in pairs.values()) > (1 - EVEN) * len(pairs):
        return []
    at = dict(zip(map(id, group), values, strict=True))
    by_time = sorted(group, key=lambda entry: (at[id(entry)], entry.index))
    steps = np.diff([entry.index for entry in by_time])
    counts = set(Counter(entry.index for entry in group).values())
    whole = len(counts) == 1 and counts != {1}
    if whole or np.count_nonzero(steps == 0) * 2 >= len(group) - positions(group) > 0:
        return _repeats_in_order(by_time, [at[id(entry)] for entry in by_time])
    runs = [[by_time[0]]]
    direction = 0
    for entry, step in zip(by_time[1:], np.sign(steps).tolist(), strict=True):
        if step == 0 or step == -direction:
            runs.append([])
            direction = 0
        else:
            direction = step
        runs[-1].append(entry)
    return runs


def _repeats_in_order(by_time: Group, values: list[float]) -> list[Group]:
    """Return the first repeats of all positions, the second ones, and so on.

    Where some are missing, the values of neighbouring positions say which ones are there.
    """
    at_position: dict[int, list[tuple[Placed, float]]] = {}
    for entry, value in zip(by_time, values, strict=True):
        at_position.setdefault(entry.index, []).append((entry, value))
    usual = Counter(map(len, at_position.values())).most_common(1)[0][0]
    whole = [at_position[index] for index in sorted(at_position)]
    whole = [repeats for repeats in whole if len(repeats) == usual]
    places = [repeats[0][0].place for repeats in whole]
    times = np.array([[value for _, value in repeats] for repeats in whole])  # (position, repeat)
    parts: list[Group] = [[] for _ in range(usual)]
    for repeats in at_position.values():
        for k, (entry, value) in enumerate(repeats):
            if len(repeats) != usual:
                expected = [np.interp(entry.place, places, column) for column in times.T]
                k = int(np.argmin(np.abs(np.array(expected) - value)))
            parts[k].append(entry)
    return parts
