"""The head without vessels, as soft-edged shapes in the head frame.

Proportions are those of an adult head in any anatomy atlas, rounded. Everything is symmetric in
|x|; a slow random warp of the coordinates (tools/phantom/render.py) breaks the symmetry.
"""

from dataclasses import dataclass
from functools import cache, cached_property

import cv2
import numpy as np

# Height of the inner skull base (mm) over |x| (columns) and y (rows): cribriform plate, sella,
# middle fossa, clivus, petrous ridge, foramen magnum.
FLOOR_X = (0, 8, 16, 30, 50, 75)
FLOOR_Y = (-85, -50, -30, -18, -12, -4, 1, 5, 10, 16, 24, 34, 60, 100)
FLOOR_Z = (
    (5, 8, 10, 14, 15, 15), (-4, 0, 4, 8, 8, 5), (-2, -1, 2, 4, 0, -5), (-3, -5, -6, -4, -14, -15),
        (-8, -11, -13, -18, -22, -18),
    (-9, -11, -15, -20, -24, -18), (-3, -6, -12, -20, -24, -18), (-15, -16, -14, -18, -22, -18),
        (-23, -23, -17, -12, -14, -14),
    (-33, -33, -28, -14, -10, -10), (-60, -55, -40, -26, -12, -10), (-70, -62, -48, -42, -30, -20),
        (-46, -46, -46, -44, -38, -25),
    (-20, -20, -20, -20, -20, -20),
)  # fmt: skip
FLOOR_STEP = 0.25  # mm of the height map made from it

# Shapes below the skull base, painted in this order: tissue, centre (|x|, y, z), half-axes (mm).
BASE_SHAPES = (
    ("bone", (0, 3, -26), (12, 8, 16)), ("marrow", (0, 3, -26), (9, 5, 12)),
    ("bone", (20, 9, -22), (9, 7, 7)), ("bone", (33, 16, -20), (11, 9, 9)), ("bone", (47, 25, -24),
    (12, 15, 16)),
    ("air cells", (49, 29, -28), (8, 11, 12)), ("air", (58, 16, -22), (10, 3, 3)),
    ("bone", (20, -22, -8), (18, 5, 6)), ("bone", (4.5, -14, -18), (7.5, 14, 11)), ("air",
    (4.5, -14, -19), (5, 11, 8)),
    ("bone", (8, -40, -12), (9, 20, 13)), ("air cells", (7, -40, -12), (7.5, 18, 11)),
    ("air", (5, -40, -36), (3.5, 26, 13)), ("air", (0, -2, -46), (9, 9, 12)), ("mucosa",
    (9, -38, -38), (3.5, 20, 8)),
    ("bone", (27, -46, -36), (15, 17, 16)), ("air", (27, -46, -36), (13, 15, 14)),
    ("fat", (28, -44, -9), (16, 26, 15)), ("muscle", (28, -32, -8), (9, 14, 9)), ("fat",
    (28, -34, -8), (7, 16, 7)),
    ("muscle", (19, -30, -7), (3, 14, 2)), ("eye", (30, -58, -9), (12, 12, 12)),
)  # fmt: skip
# Lobes of the brain: their union, minus sulci, is brain.
LOBES = (
    ((33, 14, 42), (33, 82, 38)), ((40, 2, -6), (21, 36, 16)), ((12, -40, 16), (12, 26, 12)),
    ((26, 62, 18), (26, 30, 24)),
    ((0, 8, 27), (22, 20, 14)), ((22, 47, -22), (27, 25, 20)), ((0, 45, -16), (13, 22, 17)),
    ((0, 17.5, 6), (15, 8, 10)), ((0, 21, -10), (15, 10.5, 12)), ((0, 27, -33), (8, 8, 18)),
)  # fmt: skip
# Shapes inside the brain's cavity, painted in this order.
INNER_SHAPES = (
    ("white", (0, 17.5, 6), (13, 7, 10)), ("white", (0, 21, -10), (14, 9.5, 12)), ("white",
    (0, 27, -33), (7.5, 7.5, 18)),
    ("white", (0, 0, 38), (12, 30, 5)), ("grey", (12, -8, 31), (4.5, 15, 7)), ("grey", (24, 0, 22),
    (5, 14, 8)), ("grey", (9, 15, 27), (8, 12, 8)),
    ("fluid", (6, -10, 34), (4, 17, 5)), ("fluid", (11, 22, 37), (5, 20, 5)), ("fluid",
    (24, 42, 26), (6, 12, 9)), ("fluid", (0, 10, 23), (2, 11, 8)),
    ("fluid", (0, 34, -11), (6, 4.5, 8)), ("fluid", (0, -6, 7), (16, 13, 7)), ("fluid",
    (35, -5, 12), (9, 8, 4)), ("fluid", (40, 7, 22), (4, 15, 10)),
    ("fluid", (0, 6, 3), (9, 4.5, 7)), ("white", (0, -9, 6), (7, 3, 1.8)), ("white", (6, -13, 4),
    (2, 5, 1.6)), ("white", (0, -2, 1), (1.2, 1.2, 6)),
    ("pituitary", (0, -5, -6), (6.5, 5.5, 3.5)), ("cavernous", (11, -6, -8), (6.5, 12, 7)),
    ("pineal", (0, 36, 21), (3, 4, 3)),
)  # fmt: skip


SKIN, JAW = ((0, 8, 10), (80, 104, 100)), ((0, 0, -60), (64, 84, 80))  # centre, half-axes
SULCUS, CORTEX = 7.0, 3.2  # mm: depth of the sulci, thickness of the cortex


@dataclass(frozen=True)
class HeadCoordinates:
    """Warped head coordinates (mm) of each voxel, float32 (N, H, W); x is |x|."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    edge: float  # mm, width of a soft edge

    @cached_property
    def ranges(self) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        """Return lowest and highest x, y and z at each index of each array axis."""
        found = []
        for others in ((1, 2), (0, 2), (0, 1)):
            axes = (self.x, self.y, self.z)
            found.append([(values.min(others), values.max(others)) for values in axes])
        return found

    def box(self, centre, axes) -> tuple[slice, slice, slice] | None:
        """Return the smallest index box around an ellipsoid (both sides); None if it is outside."""
        slices = []
        for bounds in self.ranges:
            near = [
                (low <= c + r + self.edge) & (high >= c - r - self.edge)
                for (low, high), c, r in zip(bounds, centre, axes, strict=True)
            ]
            shown = np.flatnonzero(near[0] & near[1] & near[2])
            if len(shown) == 0:
                return None
            slices.append(slice(shown[0], shown[-1] + 1))
        return tuple(slices)

    def crop(self, box: tuple[slice, ...]) -> "HeadCoordinates":
        return HeadCoordinates(self.x[box], self.y[box], self.z[box], self.edge)


def paint_tissue(
    at: HeadCoordinates, values: dict[str, float], folds: np.ndarray, grain: np.ndarray
) -> np.ndarray:
    """Return the intensity of the vessel-free head, float32 (N, H, W).

    values: intensity of each tissue
    folds, grain: smooth noise of unit variance (N, H, W)
    """
    image = np.full(at.x.shape, values["air"], np.float32)
    floor = at.z - _floor_height(at.x, at.y)  # mm above the inner skull base
    skull = depth_in(at, (0, 12, 18), (72, 92, 82))
    cavity = soft(np.minimum(skull - 6, floor), at.edge)
    _paint_outside(image, at, values, skull, floor, grain)
    paint_shapes(image, at, values, BASE_SHAPES, 1 - cavity, grain)
    brain = _paint_brain(at, values, np.minimum(skull - 8, floor - 1.5), folds)
    image += cavity * (brain - image)
    return image


def _paint_outside(image, at: HeadCoordinates, values: dict, skull, floor, grain) -> None:
    """Paint skin, fat and muscle, then the skull with its marrow to just below the skull base."""
    head, neck = depth_in(at, *SKIN), depth_in(at, *JAW)
    flesh = np.maximum(head, neck)
    blend(image, soft(flesh, at.edge), values["muscle"])
    blend(image, soft(2.5 - np.abs(flesh - 4.5), at.edge), values["fat"])
    streaks = 0.6 * soft(grain - 0.9, 1.0) * soft(-floor - 8, at.edge)
    blend(image, streaks, values["fat"])
    shell = np.minimum(skull, floor + 5)
    blend(image, soft(shell, at.edge), values["bone"])
    blend(image, soft(np.minimum(1.8 - np.abs(skull - 3), floor), at.edge), values["marrow"])


def paint_shapes(image, at: HeadCoordinates, values: dict, shapes, mask, grain=None) -> None:
    """Paint ellipsoids in their order, where `mask` (N, H, W) lets them; None: everywhere."""
    for tissue, centre, axes in shapes:
        box = at.box(centre, axes)
        if box is None:
            continue
        part = at.crop(box)
        alpha = soft(depth_in(part, centre, axes), at.edge)
        if mask is not None:
            alpha *= mask[box]
        if tissue == "air cells":
            septa = soft(grain[box] - 0.2, 0.5)
            value = values["air"] + (values["bone"] - values["air"]) * septa
        else:
            value = values[tissue]
        blend(image[box], alpha, value)


def _paint_brain(at: HeadCoordinates, values: dict, limit, folds) -> np.ndarray:
    """Return grey and white matter in fluid, (N, H, W).

    limit: mm inside the space that the brain may fill (N, H, W)
    """
    depth = np.full_like(limit, -50.0)
    for centre, axes in LOBES:
        box = at.box(centre, axes)
        if box is not None:
            part = at.crop(box)
            np.maximum(depth[box], depth_in(part, centre, axes), out=depth[box])
    depth = np.minimum(depth, limit)
    image = np.full_like(limit, values["fluid"])
    # Sulci are where the noise changes its sign.
    to_sulcus = np.minimum(depth + folds, 7 * np.abs(folds) + np.maximum(depth - SULCUS, 0))  # mm
    blend(image, soft(to_sulcus - 0.4, at.edge), values["grey"])
    blend(image, soft(to_sulcus - CORTEX, at.edge), values["white"])
    paint_shapes(image, at, values, INNER_SHAPES, None, folds)
    return image


def depth_in(at: HeadCoordinates, centre, axes) -> np.ndarray:
    """Return about how deep (mm) each voxel is inside an ellipsoid; negative outside."""
    square = ((at.x - centre[0]) * (1 / axes[0])) ** 2
    square += ((at.y - centre[1]) * (1 / axes[1])) ** 2
    square += ((at.z - centre[2]) * (1 / axes[2])) ** 2
    np.sqrt(square, out=square)
    square -= 1
    square *= -min(axes)
    return square


def soft(depth: np.ndarray, edge: float) -> np.ndarray:
    """Return the fraction of each voxel that is inside, 0..1, from its depth in mm."""
    fraction = depth * (1 / edge)
    fraction += 0.5
    return np.clip(fraction, 0, 1, out=fraction)


def blend(image: np.ndarray, alpha: np.ndarray, value) -> None:
    image += alpha * (value - image)


def _floor_height(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the height of the inner skull base (mm, head frame) at each voxel's (|x|, y)."""
    table = _floor_table()
    rows = np.clip((y - FLOOR_Y[0]) * (1 / FLOOR_STEP), 0, table.shape[0] - 1).astype(np.int32)
    columns = np.clip(x * (1 / FLOOR_STEP), 0, table.shape[1] - 1).astype(np.int32)
    return table[rows, columns]


@cache
def _floor_table() -> np.ndarray:
    """Return FLOOR_Z in steps of FLOOR_STEP mm, smoothed, float32 (Y, X)."""
    xs = np.arange(FLOOR_X[0], FLOOR_X[-1], FLOOR_STEP)
    ys = np.arange(FLOOR_Y[0], FLOOR_Y[-1], FLOOR_STEP)
    rows = np.array([np.interp(xs, FLOOR_X, row) for row in FLOOR_Z])  # (table rows, X)
    table = np.array([np.interp(ys, FLOOR_Y, column) for column in rows.T]).T  # (Y, X)
    table, sigma = table.astype(np.float32), 1.5 / FLOOR_STEP
    return cv2.GaussianBlur(table, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
