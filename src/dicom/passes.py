"""Passes over the positions of a group, by times that can differ from slice to slice."""

from collections import Counter
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from src.dicom.groups import EVEN, Group, Placed

ALIKE, SLOW = 0.6, 1.5  # duration of a pass, in intervals between two repeats at a position


class Timed(NamedTuple):
    """A slice, and when it was acquired."""

    time: float
    index: int  # of its position
    entry: Placed


def passes(group: Group, times: list[float | None]) -> list[Group]:
    """Return the passes in time; [] if times are missing or often the same at one position."""
    pairs = Counter(zip(times, [entry.index for entry in group], strict=True))
    same = sum(count > 1 for count in pairs.values())
    if None in times or same > (1 - EVEN) * len(pairs):
        return []
    in_time = [Timed(time, entry.index, entry) for time, entry in zip(times, group, strict=True)]
    in_time.sort(key=lambda timed: timed[:2])
    at_position: dict[int, list[Timed]] = {}
    for timed in in_time:
        at_position.setdefault(timed.index, []).append(timed)
    usual = Counter(map(len, at_position.values())).most_common(1)[0][0]
    whole = [at_position[k] for k in sorted(at_position) if len(at_position[k]) == usual]
    if usual > 1 and (len(whole) == len(at_position) or _can_be_compared(_table(whole))):
        return _repeats_in_order(at_position, whole)
    return _runs(in_time)


def _table(whole: list[list[Timed]]) -> np.ndarray:
    """Return the times (position, repeat) of positions with all their repeats."""
    return np.array([[timed.time for timed in repeats] for repeats in whole])


def _can_be_compared(times: np.ndarray) -> bool:
    """Return whether a slice's time says its pass, by the times (position, repeat) of others.

    It does if each position has its own clock, as that of the heart, or all its repeats before the
    next position. It does not where a pass ends just before the next begins.
    """
    duration = np.median(np.ptp(times, axis=0))
    interval = np.median(np.diff(times, axis=1))
    return not ALIKE * interval <= duration <= SLOW * interval


def _repeats_in_order(at_position: dict[int, list[Timed]], whole: list[list[Timed]]) -> list[Group]:
    """Return the first repeats of all positions, the second ones, and so on.

    Where some are missing, the times at neighbouring positions say which ones are there.
    """
    times = _table(whole)
    places = np.array([repeats[0].entry.place for repeats in whole])
    parts: list[Group] = [[] for _ in times[0]]
    for repeats in at_position.values():
        for k, timed in enumerate(repeats):
            if len(repeats) != len(parts):
                expected = _times_at(timed.entry.place, places, times)
                k = int(np.argmin(np.abs(expected - timed.time)))
            parts[k].append(timed.entry)
    return parts


def _times_at(place: float, places: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the times (r,) of the repeats at a place, by times (k, r) at ascending places (k,)."""
    if len(places) < 2 or places[0] <= place <= places[-1]:
        return np.array([np.interp(place, places, column) for column in times.T])
    return np.polyval(np.polyfit(places - place, times, 1), 0)


def _runs(in_time: list[Timed]) -> list[Group]:
    """Return the runs in which positions only ascend, or only descend."""
    runs = [[in_time[0].entry]]
    direction = 0
    for before, timed in pairwise(in_time):
        step = np.sign(timed.index - before.index)
        if step == 0 or step == -direction:
            runs.append([])
            direction = 0
        else:
            direction = step
        runs[-1].append(timed.entry)
    return runs
