"""Findings: peaks of stage 1's heatmaps, merged over slices, with their place in the series."""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch.nn.functional import max_pool2d

from src.dicom import Series
from src.labels import LOCATIONS
from src.orientation import canonical_shape, stored_point
from src.sampling.slices import original_point, spacing_or_default
from src.sampling.view import View


@dataclass(frozen=True)
class FindingRules:
    """What counts as a finding."""

    threshold: float  # lowest probability of a finding
    peaks: int  # highest local maxima of a slice that are looked at
    reach: float  # mm within which peaks are one finding


@dataclass
class Finding:
    """One suspected aneurysm."""

    label: str  # most probable location of an aneurysm at this place
    probability: float  # of an aneurysm on the slice, times the heat here; both by stage 1
    slice: int  # 0-based, in order along the normal
    sop_uid: str
    frame: int  # 0-based stored frame, -1 for single-frame files
    x: float  # column of the stored image, pixels; centres are integers
    y: float  # row of the stored image
    position: float | None  # mm along the normal
    patient: tuple[float, float, float] | None  # mm to the left, to the back, to the head


@dataclass
class SlicePeaks:
    """Peaks of the heat on the slices that were encoded. All arrays (k,)."""

    token: np.ndarray  # index of the encoded slice
    x: np.ndarray  # pixels of the crop
    y: np.ndarray
    score: np.ndarray  # probability of an aneurysm on the slice, times the heat at the peak

    def take(self, indices: list[int] | np.ndarray) -> "SlicePeaks":
        return SlicePeaks(*(getattr(self, field.name)[indices] for field in fields(self)))


def peaks_of(heat: torch.Tensor, present: np.ndarray, crop: int, count: int) -> SlicePeaks:
    """Return the `count` highest local maxima of each map.

    heat: (T, h, w) in 0..1.
    present: (T,) probabilities of an aneurysm.
    crop: pixels, side of what the maps cover.
    """
    around = max_pool2d(heat[:, None], 3, stride=1, padding=1)[:, 0]  # (T, h, w)
    maxima = torch.where(heat == around, heat, -1.0).flatten(1)  # (T, h * w)
    top = maxima.topk(min(count, maxima.shape[1]), dim=1)
    values, places = top.values.numpy(), top.indices.numpy()  # (T, k)
    maps = heat.numpy()
    height, width = maps.shape[1:]
    token, rank = np.nonzero(values > 0)
    row, column = places[token, rank] // width, places[token, rank] % width
    along_row = np.stack([_heat_at(maps, token, row, column + shift) for shift in (-1, 0, 1)])
    along_column = np.stack([_heat_at(maps, token, row + shift, column) for shift in (-1, 0, 1)])
    x = column + refinement(along_row, (column > 0) & (column < width - 1))
    y = row + refinement(along_column, (row > 0) & (row < height - 1))
    score = present[token] * values[token, rank]
    return SlicePeaks(token, (x + 0.5) * crop / width - 0.5, (y + 0.5) * crop / height - 0.5, score)


def _heat_at(
    maps: np.ndarray, token: np.ndarray, row: np.ndarray, column: np.ndarray
) -> np.ndarray:
    """Return the heat (k,) at places; the edge is repeated beyond the maps (T, h, w)."""
    height, width = maps.shape[1:]
    return maps[token, np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]


def refinement(three: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return where between the pixels a maximum lies: (k,) in -0.5..0.5.

    It is the vertex of the parabola through the logarithms of the maximum and its two
    neighbours, which is exact for a Gaussian; 0 at the edge of the map.

    three: (3, k) heat before, at and after the maximum.
    inside: (k,) whether it has both neighbours.
    """
    before, here, after = np.log(np.maximum(three, 1e-12))
    curvature = before - 2 * here + after
    usable = inside & (curvature < 0)
    vertex = (before - after) / np.where(usable, 2 * curvature, -1)
    return np.where(usable, np.clip(vertex, -0.5, 0.5), 0.0)


def merge(peaks: SlicePeaks, places: np.ndarray, rules: FindingRules) -> list[int]:
    """Return the indices of the peaks that are findings, the most probable first.

    Of peaks within reach of one another only the highest is one. places: (k, 3) mm.
    """
    free = np.ones(len(peaks.score), bool)
    found = []
    for best in np.argsort(-peaks.score, kind="stable"):
        if free[best] and peaks.score[best] >= rules.threshold:
            found.append(int(best))
            free &= np.linalg.norm(places - places[best], axis=1) > rules.reach
    return found


def places_mm(peaks: SlicePeaks, positions: np.ndarray, pixel_mm: np.ndarray) -> np.ndarray:
    """Return where the peaks lie: (k, 3) mm across, down and along the normal.

    positions: (T,) mm of the encoded slices.
    pixel_mm: (2,) mm that a pixel of the crop spans across and down.
    """
    across, down = pixel_mm
    return np.stack([peaks.x * across, peaks.y * down, positions[peaks.token]], axis=1)


def find(
    series: Series,
    tokens: np.ndarray,
    present: np.ndarray,
    heat: torch.Tensor,
    view: View,
    rules: FindingRules,
) -> SlicePeaks:
    """Return the peaks that are the findings of a series, the most probable first.

    A view may be wider than the image: what is beyond its edge is no finding.

    tokens: (T,) numbers of the slices that were encoded.
    present: (T,) their probabilities of an aneurysm.
    heat: (T, h, w) in 0..1.
    view: what the network saw of the prepared images.
    """
    between, _, _ = spacing_or_default(series.spacing)
    positions = tokens * between if series.positions is None else series.positions[tokens]
    peaks = peaks_of(heat, present, view.crop, rules.peaks)
    places = view.to_image(np.stack([peaks.x, peaks.y], axis=1))
    peaks = peaks.take(((places >= -0.5) & (places <= view.size - 0.5)).all(axis=1))
    return peaks.take(merge(peaks, places_mm(peaks, positions, view.pixel_mm), rules))


def findings_at(
    series: Series, tokens: np.ndarray, peaks: SlicePeaks, locations: np.ndarray, view: View
) -> list[Finding]:
    """Return the findings at peaks, with their place in the stored images and in the patient.

    locations: (k, 13) probabilities at the peaks.
    """
    found = []
    for index, token in enumerate(peaks.token):
        x, y = stored_place(series, peaks.x[index], peaks.y[index], view)
        number = int(tokens[token])
        found.append(
            Finding(
                label=LOCATIONS[int(locations[index].argmax())],
                probability=float(peaks.score[index]),
                slice=number,
                sop_uid=series.sop_uids[number],
                frame=int(series.frames[number]),
                x=float(x),
                y=float(y),
                position=None if series.positions is None else float(series.positions[number]),
                patient=series.patient_point(number, x, y),
            )
        )
    return found


def stored_place(series: Series, x: float, y: float, view: View) -> tuple[float, float]:
    """Return the column and row of the stored image of a point in pixels of the crop."""
    _, height, width = series.shape
    tall, wide = canonical_shape(height, width, series.orientation)
    prepared_x, prepared_y = view.to_image(np.array([x, y]))
    canonical_x = original_point(prepared_x, wide, view.size)
    canonical_y = original_point(prepared_y, tall, view.size)
    return stored_point(canonical_x, canonical_y, series.orientation, height, width)
