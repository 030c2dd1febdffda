"""How a synthetic head is scanned: modality, plane, field of view, order and storage.

All of it is drawn without any knowledge of the labels.
"""

from dataclasses import dataclass

import numpy as np

from src.labels import MODALITIES
from tools.phantom.anatomy import REACH, Anatomy
from tools.phantom.render import CTA, MRA, T2, Grid, Pose
from tools.phantom.whole_grid import draw_whole_grid

# Fractions of the challenge's 4,348 series.
MODALITY_FRACTIONS = np.array([1808, 1252, 983, 305]) / 4348
MULTI_FRAME_FRACTION = {MRA: 157 / 1252, T2: 165 / 983}
PLANE_FRACTIONS = {"axial": 0.965, "coronal": 0.02, "sagittal": 0.015}
# Unit vectors: slice normal, down the rows, along the columns.
PLANE_AXES = {
    "axial": ((0, 0, 1), (0, 1, 0), (1, 0, 0)),
    "coronal": ((0, 1, 0), (0, 0, -1), (1, 0, 0)),
    "sagittal": ((-1, 0, 0), (0, 0, -1), (0, 1, 0)),
}
# Rows and columns of a quarter of the series, times the usual matrix.
MATRIX_FACTORS = (
    (1, 7 / 8),
    (7 / 8, 1),
    (9 / 8, 9 / 8),
    (5 / 4, 5 / 4),
    (5 / 4, 1),
    (7 / 8, 7 / 8),
)
SQUARE_FRACTION, OBLIQUE_FRACTION, HU_FRACTION, SLOPE_FRACTION = 0.75, 0.25, 0.25, 0.12
OFF_CENTRE = 8.0  # mm, at most


@dataclass(frozen=True)
class Scan:
    """One acquisition of one head."""

    modality: str
    grid: Grid
    pose: Pose
    multi_frame: bool
    order: np.ndarray  # (n,) grid slice stored at each place (InstanceNumber - 1, or frame)
    thickness: float  # mm
    signed: bool
    bits: int
    gain: float  # rescaled units per rendered unit
    slope: float
    intercept: float


def draw_scan(
    rng: np.random.Generator, anatomy: Anatomy, matrix: int, slices: int, whole: bool = False
) -> Scan:
    """Return a scan of a head; some depart from the usual `matrix` (pixels) and `slices`.

    whole: the field of a whole head, its slices as the modality has them.
    """
    modality = MODALITIES[rng.choice(len(MODALITIES), p=MODALITY_FRACTIONS)]
    plane = rng.choice(list(PLANE_FRACTIONS), p=list(PLANE_FRACTIONS.values()))
    multi_frame = bool(rng.random() < MULTI_FRAME_FRACTION.get(modality, 0.0))
    rotation = _rotation(np.clip(rng.normal(0, (4, 2.5, 3)), -7, 7))
    shift = np.array([rng.normal(0, 2), rng.normal(0, 20), rng.uniform(-200, 200)])
    pose = Pose(rotation, shift)
    axes = _draw_axes(rng, plane)
    if whole:
        grid = draw_whole_grid(rng, anatomy, pose, modality, axes, matrix)
    else:
        grid = _draw_grid(rng, anatomy, pose, axes, matrix, slices)
    order = _draw_order(rng, grid.shape[0], multi_frame)
    # Every value is drawn for every modality, used or not: the streams stay the same.
    in_hu = bool(rng.random() < HU_FRACTION)
    has_slope = rng.random() < SLOPE_FRACTION
    bits = int(rng.choice([12, 16]))
    gain = np.exp(rng.uniform(np.log(0.7), np.log(6)))
    slope = round(rng.uniform(0.5, 4), 5)
    thickness = round(grid.spacing[0] * rng.choice([0.8, 1.0, 1.0, 1.25]), 4)
    if modality == CTA:
        signed, bits, intercept = (True, 16, 0.0) if in_hu else (False, bits, -1024.0)
        gain = slope = 1.0
    else:
        signed, intercept = False, 0.0
        slope = slope if has_slope else 1.0
    return Scan(
        modality,
        grid,
        pose,
        multi_frame=multi_frame,
        order=order,
        thickness=thickness,
        signed=signed,
        bits=bits,
        gain=gain,
        slope=slope,
        intercept=intercept,
    )


def to_stored(image: np.ndarray, scan: Scan) -> np.ndarray:
    """Return rendered intensities (n, h, w) as int16 or uint16, in the order of storage."""
    values = image[scan.order] * scan.gain
    if scan.modality == CTA:
        values = np.clip(values, -1024, 3071)
    stored = np.rint((values - scan.intercept) / scan.slope)
    low, high = (-32768, 32767) if scan.signed else (0, 2**scan.bits - 1)
    return np.clip(stored, low, high).astype(np.int16 if scan.signed else np.uint16)


def _draw_axes(rng: np.random.Generator, plane: str) -> np.ndarray:
    """Return the unit vectors (3, 3) of a plane, tilted in some series."""
    tilt = rng.normal(0, (6, 0.7, 0.7)) * (rng.random() < OBLIQUE_FRACTION)
    return np.array(PLANE_AXES[plane], float) @ _rotation(np.clip(tilt, -14, 14)).T


def _draw_grid(
    rng, anatomy: Anatomy, pose: Pose, axes: np.ndarray, matrix: int, slices: int
) -> Grid:
    """Return a grid around every place where an aneurysm may grow, with random slack."""
    rows, columns = 1, 1
    if rng.random() >= SQUARE_FRACTION:
        rows, columns = MATRIX_FACTORS[rng.integers(len(MATRIX_FACTORS))]
    n = round(slices * rng.uniform(0.85, 1.15))
    shape = np.array([n, round(matrix * rows), round(matrix * columns)])

    zoom = rng.uniform(0.96, 1.06) * max(rows, columns) ** -rng.uniform(0, 1)
    pixel = field_of_view(matrix) / matrix * zoom
    gap = coverage(slices) * rng.uniform(0.97, 1.08) / shape[0]
    sites = np.array([site.point for site in anatomy.sites])
    sites = pose.to_patient(sites) @ axes.T  # (sites, 3) mm along the axes
    low, high = sites.min(0) - REACH - 2, sites.max(0) + REACH + 2
    gap, pixel = max(gap, (high - low)[0] / shape[0]), max(pixel, *((high - low)[1:] / shape[1:]))
    spacing = tuple(round(float(s), 4) for s in (gap, pixel, pixel))

    slack = np.clip((shape * spacing - (high - low)) / 2, 0, OFF_CENTRE)
    centre = (low + high) / 2 + np.clip(rng.normal(0, 3.5, 3), -slack, slack)
    origin = (centre - (shape - 1) * spacing / 2) @ axes
    return Grid(tuple(int(size) for size in shape), spacing, origin, axes)


def field_of_view(matrix: int) -> float:
    """Return mm in the plane: 115 for a matrix of 96 or less, 230, a whole head, for 512."""
    return float(np.interp(matrix, [96, 512], [115, 230]))


def coverage(slices: int) -> float:
    """Return mm across the slices: 72 for 28 slices or fewer, 170 for 200."""
    return float(np.interp(slices, [28, 200], [72, 170]))


def _draw_order(rng: np.random.Generator, n: int, multi_frame: bool) -> np.ndarray:
    """Return the order of storage: along the normal, or against it in a third of the series.

    Some multi-frame files hold the even slices, then the odd ones.
    """
    upwards, kind = np.arange(n), rng.random()
    if multi_frame and kind < 0.2:
        return np.concatenate([upwards[::2], upwards[1::2]])
    return upwards[::-1].copy() if kind < 0.5 else upwards


def _rotation(degrees: np.ndarray) -> np.ndarray:
    """Return the rotation (3, 3) by angles about x (nod), then y (lean), then z (turn)."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    nod = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    lean = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    turn = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return turn @ lean @ nod
