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
from src.dicom.passes import passes
from src.dicom.traits import ACQUISITION, FIRST_WORDS, PASS, TRAITS, Trait, Value, label

DAY = 24 * 3600.0  # s
SAME_NUMBER = 0.003  # settings that differ by less, relatively, are the same


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
        reason = ACQUISITION  # their positions are between those of the others
    others = [entry for k, part in enumerate(parts) if k != best for entry in part]
    choice.left_out += [(entry.slice_, reason) for entry in others]
    values = {trait.value(entry.slice_) for entry in parts[best]}
    other_values = {trait.value(entry.slice_) for entry in others}
    taken = label(trait, next(iter(values))) if len(values) == 1 else ""
    taken = taken or ("the first is" if best == 0 else "the one with most slices is")
    note = f"{len(parts)} {trait.what}: {taken} taken, {len(others)} slices left out"
    if len(parts) == 2 and other_values <= values:  # a part was joined up to where it overlaps
        note = f"{trait.what} overlap: {len(others)} slices between those of another left out"
    choice.notes.insert(0, note)
    return choice


def _time(entry: Placed) -> tuple:
    """Sort slices by all that runs with time."""
    values = [trait.value(entry.slice_) for trait in TRAITS if trait.in_time]
    return [(value is None, value or 0) for value in values], entry.slice_.number


def _first_of_repeats(group: Group) -> Choice:
    """Return the first slice in time at each position."""
    if positions(group) == len(group):
        return Choice(sorted(group, key=lambda entry: entry.index))
    by_time = sorted(group, key=_time)
    first = {entry.index: entry for entry in reversed(by_time)}
    repeats = [entry.slice_ for entry in by_time if entry is not first[entry.index]]
    several = repeated(group) > len(first) / 2
    note = f"{len(repeats)} slices repeat a position: the first at each position is taken"
    doubt = ", but nothing tells acquisitions apart: they may be mixed" if several else ""
    return Choice(
        [first[index] for index in sorted(first)],
        [(slice_, PASS if several else "duplicate") for slice_ in repeats],
        [note + doubt],
    )


def _split(group: Group, trait: Trait) -> list[Group]:
    """Return the acquisitions that a trait tells apart, first things first, or one or none."""
    values = [trait.value(entry.slice_) for entry in group]
    if trait.of_day:
        values = _past_midnight(values)
    elif not trait.in_time:
        values = _same_numbers(values)
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
        candidates = [passes(group, values)]
        if np.median([len(part) for part in equal]) >= FEW:
            candidates.append(equal)
    for parts in candidates:
        joined = join(parts, by_setting=not trait.in_time)
        if len(joined) > 1 and plausible(joined, most):
            return joined
    return []


def _past_midnight(values: list[Value]) -> list[Value]:
    """Return times in seconds, those after midnight later than those before it."""
    known = [value for value in values if value is not None]
    dated = max(known, default=0) > DAY
    if dated or not known or max(known) - min(known) <= DAY / 2:
        return values
    noon = min(known) + DAY / 2
    return [value + DAY if value is not None and value < noon else value for value in values]


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
        if words:
            return value not in FIRST_WORDS, min(map(_time, parts[value]))
        return (False, value) if value is not None else (True,)

    return [parts[value] for value in sorted(parts, key=order)]
