"""How one synthetic head is scanned: modality, plane, field of view, order and storage, drawn without any knowledge of the labels."""

from dataclasses import dataclass

import numpy as np

from src.labels import MODALITIES
from tools.phantom.anatomy import REACH, Anatomy
from tools.phantom.render import CTA, MRA, T2, Grid, Pose

# Shares of the challenge's 4,348 series.
MODALITY_SHARE = np.array([1808, 1252, 983, 305]) / 4348
MULTI_FRAME_SHARE = {MRA: 157 / 1252, T2: 165 / 983}
PLANE_SHARE = {"axial": 0.965, "coronal": 0.02, "sagittal": 0.015}
# Unit vectors: slice normal, down the rows, along the columns.
PLANE_AXES = {
    "axial": ((0, 0, 1), (0, 1, 0), (1, 0, 0)),
    "coronal": ((0, 1, 0), (0, 0, -1), (1, 0, 0)),
    "sagittal": ((-1, 0, 0), (0, 0, -1), (0, 1, 0)),
}
MATRIX_FACTORS = (
    (1, 0.875),
    (0.875, 1),
    (1.125, 1.125),
    (1.25, 1.25),
    (1.25, 1),
    (0.875, 0.875),
)  # rows, columns: a quarter of the series
SQUARE_SHARE, OBLIQUE_SHARE, HU_SHARE, SLOPE_SHARE = 0.75, 0.25, 0.25, 0.12
OFF_CENTRE = 8.0  # mm, at most


@dataclass(frozen=True)
class Scan:
    """One acquisition of one head. `order`: (n,) the grid's slice that is stored at each place (InstanceNumber - 1, or frame)."""

    modality: str
    grid: Grid
    pose: Pose
    multi_frame: bool
    order: np.ndarray
    thickness: float  # mm
    signed: bool
    bits: int
    gain: float  # rescaled units per rendered unit
    slope: float
    intercept: float


def draw_scan(rng: np.random.Generator, anatomy: Anatomy, matrix: int, slices: int) -> Scan:
    """The scan of a head: `matrix` columns and rows and `slices` slices give the usual size, from which a share of the series departs."""
    modality = MODALITIES[rng.choice(len(MODALITIES), p=MODALITY_SHARE)]
    plane = rng.choice(list(PLANE_SHARE), p=list(PLANE_SHARE.values()))
    multi_frame = bool(rng.random() < MULTI_FRAME_SHARE.get(modality, 0.0))
    pose = Pose(
        _rotation(np.clip(rng.normal(0, (4, 2.5, 3)), -7, 7)),
        np.array([rng.normal(0, 2), rng.normal(0, 20), rng.uniform(-200, 200)]),
    )
    grid = _draw_grid(rng, anatomy, pose, plane, matrix, slices)
    is_ct, order = modality == CTA, _draw_order(rng, grid.shape[0], multi_frame)
    hu, has_slope, bits = (
        rng.random() < HU_SHARE,
        rng.random() < SLOPE_SHARE,
        int(rng.choice([12, 16])),
    )
    gain, slope = np.exp(rng.uniform(np.log(0.7), np.log(6))), round(rng.uniform(0.5, 4), 5)
    thickness = round(grid.spacing[0] * rng.choice([0.8, 1.0, 1.0, 1.25]), 4)
    if is_ct:
        return Scan(
            modality,
            grid,
            pose,
            False,
            order,
            thickness,
            bool(hu),
            16 if hu else bits,
            1.0,
            1.0,
            0.0 if hu else -1024.0,
        )
    return Scan(
        modality,
        grid,
        pose,
        multi_frame,
        order,
        thickness,
        False,
        bits,
        gain,
        slope if has_slope else 1.0,
        0.0,
    )


def to_stored(image: np.ndarray, scan: Scan) -> np.ndarray:
    """Rendered intensities (n, h, w) -> stored integers (n, h, w), int16 or uint16, in the order of storage."""
    values = image[scan.order] * scan.gain
    if scan.modality == CTA:
        values = np.clip(values, -1024, 3071)
    stored = np.rint((values - scan.intercept) / scan.slope)
    low, high = (-32768, 32767) if scan.signed else (0, 2**scan.bits - 1)
    return np.clip(stored, low, high).astype(np.int16 if scan.signed else np.uint16)


def _draw_grid(
    rng: np.random.Generator, anatomy: Anatomy, pose: Pose, plane: str, matrix: int, slices: int
) -> Grid:
    """A grid that holds every place where an aneurysm may grow, whether one does or not, with random slack."""
    tilt = rng.normal(0, (6, 0.7, 0.7)) * (rng.random() < OBLIQUE_SHARE)
    axes = np.array(PLANE_AXES[plane], float) @ _rotation(np.clip(tilt, -14, 14)).T
    factors = (
        (1, 1) if rng.random() < SQUARE_SHARE else MATRIX_FACTORS[rng.integers(len(MATRIX_FACTORS))]
    )
    shape = np.array(
        [
            round(slices * rng.uniform(0.85, 1.15)),
            round(matrix * factors[0]),
            round(matrix * factors[1]),
        ]
    )

    pixel = (
        field_of_view(matrix)
        / matrix
        * rng.uniform(0.96, 1.06)
        * max(factors) ** -rng.uniform(0, 1)
    )
    gap = coverage(slices) * rng.uniform(0.97, 1.08) / shape[0]
    sites = (
        pose.to_patient(np.array([site.point for site in anatomy.sites])) @ axes.T
    )  # (sites, 3) mm along the axes
    low, high = sites.min(0) - REACH - 2, sites.max(0) + REACH + 2
    gap, pixel = max(gap, (high - low)[0] / shape[0]), max(pixel, *((high - low)[1:] / shape[1:]))
    spacing = tuple(round(float(s), 4) for s in (gap, pixel, pixel))

    slack = np.clip((shape * spacing - (high - low)) / 2, 0, OFF_CENTRE)
    centre = (low + high) / 2 + np.clip(rng.normal(0, 3.5, 3), -slack, slack)
    origin = (centre - (shape - 1) * spacing / 2) @ axes
    return Grid(tuple(int(size) for size in shape), spacing, origin, axes)


def field_of_view(matrix: int) -> float:
    """mm in the plane: 115 for a matrix of 96 or less, 230, a whole head, for 512."""
    return float(np.interp(matrix, [96, 512], [115, 230]))


def coverage(slices: int) -> float:
    """mm across the slices: 72 for 28 slices or fewer, 170 for 200."""
    return float(np.interp(slices, [28, 200], [72, 170]))


def _draw_order(rng: np.random.Generator, n: int, multi_frame: bool) -> np.ndarray:
    """Most series are stored along the normal; a third against it; some multi-frame files hold the even slices, then the odd ones."""
    upwards, kind = np.arange(n), rng.random()
    if multi_frame and kind < 0.2:
        return np.concatenate([upwards[::2], upwards[1::2]])
    return upwards[::-1].copy() if kind < 0.5 else upwards


def _rotation(degrees: np.ndarray) -> np.ndarray:
    """Rotation (3, 3) by angles about x (nod), then y (lean), then z (turn)."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    nod = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    lean = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    turn = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return turn @ lean @ nod
