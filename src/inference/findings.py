"""Where stage 1 sees aneurysms: peaks of its heatmaps, merged over neighbouring slices into findings with their place in the original series."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import max_pool2d

from src.dicom import Series
from src.labels import LOCATIONS, PRESENT
from src.orientation import stored_point
from src.sampling.slices import DEFAULT_SPACING, crop_margin, original_point

PEAKS = 3  # of one slice that are looked at
REACH = 12.0  # mm within which peaks are one finding
LEAST = 0.15  # probability of a finding


@dataclass
class Finding:
    """One suspected aneurysm. x, y: pixels of the stored image, centres are integers; patient: mm, to the left, back and head, or None."""

    label: str  # most probable location on its slice
    probability: (
        float  # that there is an aneurysm on the slice, times that it is here, both by stage 1
    )
    slice: int  # 0-based, in order along the normal
    sop_uid: str
    frame: int  # 0-based stored frame, -1 for single-frame files
    x: float
    y: float
    position: float | None  # mm along the normal
    patient: tuple[float, float, float] | None


@dataclass
class SlicePeaks:
    """Peaks of the heat on the slices that were encoded. All arrays (k,)."""

    token: np.ndarray  # which of the encoded slices
    x: np.ndarray  # pixels of the crop
    y: np.ndarray
    score: np.ndarray  # probability of an aneurysm on the slice, times the heat at the peak


def peaks_of(heat: torch.Tensor, present: np.ndarray, crop: int) -> SlicePeaks:
    """The highest local maxima of each map. heat: (T, h, w) in 0..1; present: (T,) probabilities; crop: pixels, side of what the maps cover."""
    padded = max_pool2d(heat[:, None], 3, stride=1, padding=1)[:, 0]
    tops = torch.where(heat == padded, heat, -1.0).flatten(1)  # (T, h * w)
    values, places = (
        part.numpy() for part in tops.topk(min(PEAKS, tops.shape[1]), dim=1)
    )  # (T, k)
    maps, width = heat.numpy(), heat.shape[2]
    token, rank = np.nonzero(values > 0)
    row, column = places[token, rank] // width, places[token, rank] % width
    x = (column + refinement(maps, token, row, column, axis=2) + 0.5) * crop / width - 0.5
    y = (row + refinement(maps, token, row, column, axis=1) + 0.5) * crop / heat.shape[1] - 0.5
    return SlicePeaks(token, x, y, present[token] * values[token, rank])


def refinement(
    maps: np.ndarray, token: np.ndarray, row: np.ndarray, column: np.ndarray, axis: int
) -> np.ndarray:
    """Where between the pixels a maximum lies: the vertex of the parabola through the logarithms of it and its two neighbours (exact for a
    Gaussian); (k,) in -0.5..0.5, 0 at the edge of the map."""
    length = maps.shape[axis]
    place = column if axis == 2 else row
    three = []
    for shift in (-1, 0, 1):
        there = np.clip(place + shift, 0, length - 1)
        three.append(
            np.log(
                np.maximum(
                    maps[token, row, there] if axis == 2 else maps[token, there, column], 1e-12
                )
            )
        )
    before, here, after = three
    curvature = before - 2 * here + after
    inside = (place > 0) & (place < length - 1) & (curvature < 0)
    return np.where(
        inside, np.clip((before - after) / np.where(inside, 2 * curvature, -1), -0.5, 0.5), 0.0
    )


def merge(peaks: SlicePeaks, places: np.ndarray, least: float) -> list[tuple[int, np.ndarray]]:
    """Findings of at least that probability, the highest first: (index of the highest peak, indices of all within REACH of it). places: (k, 3) mm."""
    free = np.ones(len(peaks.score), bool)
    found = []
    for best in np.argsort(-peaks.score, kind="stable"):
        if free[best] and peaks.score[best] >= least:
            near = free & (np.linalg.norm(places - places[best], axis=1) <= REACH)
            found.append((int(best), np.flatnonzero(near)))
            free &= ~near
    return found


def places_mm(
    peaks: SlicePeaks, positions: np.ndarray, pixel_mm: tuple[float, float]
) -> np.ndarray:
    """(k, 3) mm: across, down, along the normal. positions: (T,) mm of the encoded slices; pixel_mm: a prepared pixel across and down."""
    return np.stack([peaks.x * pixel_mm[0], peaks.y * pixel_mm[1], positions[peaks.token]], axis=1)


def prepared_pixel_mm(
    height: int,
    width: int,
    row_spacing: float | None,
    column_spacing: float | None,
    orientation: str,
    size: int,
) -> tuple[float, float]:
    """mm that a pixel of the prepared image (size, size) spans across and down, from those of the stored image (height, width)."""
    down, across = (
        height * (row_spacing or DEFAULT_SPACING[1]) / size,
        width * (column_spacing or DEFAULT_SPACING[2]) / size,
    )
    return (down, across) if "T" in orientation else (across, down)


def find(
    series: Series,
    tokens: np.ndarray,
    slices: np.ndarray,
    heat: torch.Tensor,
    size: int,
    crop: int,
    least: float = LEAST,
) -> list[Finding]:
    """All findings of a series, most probable first.

    tokens: (T,) slices that were encoded; slices: (T, 14) their probabilities; heat: (T, h, w) in 0..1; size, crop: pixels of the prepared
    images and of what the network saw of them; least: probability of a finding.
    """
    _, height, width = series.shape
    pixel_mm = prepared_pixel_mm(height, width, *series.spacing[1:], series.orientation, size)
    positions = (
        tokens * (series.spacing[0] or DEFAULT_SPACING[0])
        if series.positions is None
        else series.positions[tokens]
    )
    peaks = peaks_of(heat, slices[:, PRESENT], crop)
    margin = crop_margin(size, crop)
    found = []
    for best, _ in merge(peaks, places_mm(peaks, positions, pixel_mm), least):
        token = peaks.token[best]
        tall, wide = (
            (width, height) if "T" in series.orientation else (height, width)
        )  # of the canonical image
        x, y = (
            original_point(peaks.x[best] + margin, wide, size),
            original_point(peaks.y[best] + margin, tall, size),
        )
        x, y = stored_point(x, y, series.orientation, height, width)
        index = int(tokens[token])
        label = LOCATIONS[int(slices[token, :PRESENT].argmax())]
        position = None if series.positions is None else float(series.positions[index])
        facts = (
            index,
            series.sop_uids[index],
            int(series.frames[index]),
            float(x),
            float(y),
            position,
            series.patient_point(index, x, y),
        )
        found.append(Finding(label, float(peaks.score[best]), *facts))
    return found
