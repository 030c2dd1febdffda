"""Lesions of a mask: each connected component becomes a point, a radius and a volume."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from tools.nifti.errors import require
from tools.nifti.grid import Grid

NEIGHBOURS = np.ones((3, 3, 3))  # 26: voxels that share a corner belong together
MOST = 50  # lesions of a scan; more are no aneurysms


@dataclass(frozen=True)
class Lesion:
    """Where an aneurysm is, in voxels of the turned grid (voxel centres are integers)."""

    x: float  # column
    y: float  # row
    slice: int
    radius_mm: float | None
    volume_mm3: float | None
    moved: bool = False  # its centroid is outside of it: x, y, slice are its nearest voxel


def lesions_of(
    mask: np.ndarray, grid: Grid, offset: tuple[int, int, int], name: str
) -> list[Lesion]:
    """Return the lesions of a mask (columns, rows, slices), uint16: of each value its components.

    offset: voxel of the grid where the mask begins
    """
    found: list[Lesion] = []
    marked = ndimage.find_objects((mask > 0).view(np.uint8))  # one box around all lesions
    for box in marked:
        begin = np.array([along.start for along in box]) + offset
        for value in np.unique(mask[box][mask[box] > 0]):
            parts, count = ndimage.label(mask[box] == value, NEIGHBOURS)
            few = len(found) + count <= MOST
            require(few, "not_a_mask", f"{name} has over {MOST} parts: it is no mask of lesions")
            for part in range(1, count + 1):
                found.append(_lesion(np.argwhere(parts == part) + begin, grid))
    return found


def _lesion(voxels: np.ndarray, grid: Grid) -> Lesion:
    """Return the lesion of some voxels (n, 3).

    The radius is the largest distance from its point to a voxel's centre, and half a voxel.
    """
    centroid = voxels.mean(axis=0)
    away = np.linalg.norm((voxels - centroid) * grid.spacing, axis=1)  # (n,) mm
    moved = not (voxels == np.rint(centroid)).all(axis=1).any()
    point = voxels[away.argmin()] if moved else centroid
    farthest = np.linalg.norm((voxels - point) * grid.spacing, axis=1).max()
    volume = float(grid.spacing.prod())  # mm3 of a voxel
    radius = float(farthest) + volume ** (1 / 3) / 2
    x, y, z = point.tolist()
    return Lesion(x, y, round(z), radius, len(voxels) * volume, moved)


def lesion_at(voxel: tuple[float, float, float], radius_mm: float | None, grid: Grid) -> Lesion:
    """Return the lesion at a voxel i, j, k of the file. Raise NiftiError if it is outside."""
    point = grid.turned_point(voxel)
    inside = bool((point >= -0.5).all() and (point <= np.array(grid.shape) - 0.5).all())
    listed = ", ".join(f"{index:g}" for index in voxel)
    advice = "voxels are counted from 0"
    require(inside, "outside", f"the point at voxel {listed} is outside of the image: {advice}")
    x, y, z = point.tolist()
    return Lesion(x, y, min(max(round(z), 0), grid.shape[2] - 1), radius_mm, None)
