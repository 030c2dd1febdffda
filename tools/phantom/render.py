"""Pictures of one synthetic head: vessels and tissue of a phantom on a grid of voxels, with the contrast of CTA, MRA, MRI T2 or MRI T1post.

What depends on chance takes a generator, and no draw depends on the aneurysms: the same head with and without one differs near it only.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from src.labels import MODALITIES
from tools.phantom.anatomy import Anatomy, Aneurysm, Tube
from tools.phantom.tissue import HeadCoordinates, paint_tissue

CTA, MRA, T2, T1POST = MODALITIES
SLAB = 2**19  # voxels that are painted at once
FINE = 1.3  # mm: thicker slices are averaged from thinner ones

# Intensity of each tissue. CT in HU; MR in units where the brightest vessel is about 400.
TISSUE = {
    CTA: dict(air=-1000, muscle=55, fat=-90, bone=1100, marrow=450, fluid=8, white=28, grey=38, eye=10, mucosa=50, pituitary=110, cavernous=95, pineal=60),
    MRA: dict(air=6, muscle=70, fat=110, bone=12, marrow=70, fluid=45, white=95, grey=105, eye=40, mucosa=95, pituitary=120, cavernous=90, pineal=100),
    T2: dict(air=5, muscle=80, fat=230, bone=14, marrow=140, fluid=400, white=140, grey=185, eye=420, mucosa=330, pituitary=190, cavernous=170, pineal=190),
    T1POST: dict(air=6, muscle=115, fat=250, bone=16, marrow=170, fluid=45, white=150, grey=120, eye=45, mucosa=260, pituitary=240, cavernous=180, pineal=220),
}  # fmt: skip
ARTERY = {
    CTA: (300, 460),
    MRA: (330, 420),
    T2: (12, 30),
    T1POST: (330, 420),
}  # intensity of the lumen, range over scans
VEIN = {
    CTA: (0.35, 0.8),
    MRA: (0.28, 0.4),
    T2: (0.8, 2.0),
    T1POST: (0.85, 1.0),
}  # as a share of the artery's
CALCIUM = {CTA: 850, MRA: 20, T2: 20, T1POST: 20}
NOISE = {
    CTA: (8, 18),
    MRA: (7, 14),
    T2: (7, 14),
    T1POST: (7, 14),
}  # standard deviation, range over scans


@dataclass(frozen=True)
class Grid:
    """Voxel centres of a volume (n, h, w): patient = origin + k * spacing[0] * axes[0] + i * spacing[1] * axes[1] + j * spacing[2] * axes[2], in mm."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]  # between slices, rows, columns
    origin: np.ndarray  # (3,) centre of voxel (0, 0, 0)
    axes: np.ndarray  # (3, 3) unit vectors: slice normal, down the rows, along the columns

    def to_index(self, points: np.ndarray) -> np.ndarray:
        """Patient points (P, 3) mm -> (P, 3) fractional (slice, row, column)."""
        return (points - self.origin) @ self.axes.T / self.spacing

    def to_patient(self, index: np.ndarray) -> np.ndarray:
        """(P, 3) fractional (slice, row, column) -> patient points (P, 3) mm."""
        return self.origin + (index * self.spacing) @ self.axes


@dataclass(frozen=True)
class Pose:
    """Where the head lies in the scanner: patient = rotation @ head + shift."""

    rotation: np.ndarray  # (3, 3)
    shift: np.ndarray  # (3,) mm

    def to_patient(self, points: np.ndarray) -> np.ndarray:
        return points @ self.rotation.T + self.shift

    def to_head(self, points: np.ndarray) -> np.ndarray:
        return (points - self.shift) @ self.rotation


def render_head(
    rng: np.random.Generator,
    anatomy: Anatomy,
    aneurysms: list[Aneurysm],
    grid: Grid,
    pose: Pose,
    modality: str,
) -> np.ndarray:
    """The picture, float32 (n, h, w): HU for CTA, arbitrary units for MR. `rng` draws contrast, folds, bias field and noise."""
    look = np.random.default_rng(rng.integers(2**63))
    values = {
        tissue: value * (1 + 0.06 * look.normal()) for tissue, value in TISSUE[modality].items()
    }
    values["air"] = TISSUE[modality]["air"]
    lumen = look.uniform(*ARTERY[modality])
    vein = lumen * look.uniform(*VEIN[modality])
    noise = look.uniform(*NOISE[modality])
    blur = look.uniform(0.35, 0.55)

    warps = [SmoothNoise(rng, grid, 22.0, 1.2) for _ in range(3)]
    folds, grain = SmoothNoise(rng, grid, 6.0), SmoothNoise(rng, grid, 4.0)
    size = 1 + 0.04 * rng.uniform(-1, 1, 3)
    image = np.empty(grid.shape, np.float32)
    for slab in _slabs(grid):
        at = head_coordinates(grid, pose, slab, warps, size)
        image[slab] = paint_tissue(at, values, folds.slab(slab), grain.slab(slab))
    image += draw_tubes(anatomy.veins, grid, pose) * (vein - image)
    image += draw_tubes(
        anatomy.arteries + tuple(t for a in aneurysms for t in a.tubes), grid, pose
    ) * (lumen - image)
    image += draw_tubes(_spheres(anatomy.calcifications), grid, pose) * (CALCIUM[modality] - image)
    for plane in image:
        cv2.GaussianBlur(plane, (0, 0), blur, dst=plane, borderType=cv2.BORDER_REPLICATE)
    _acquire(rng, image, grid, modality, noise)
    return image


def draw_tubes(tubes: tuple[Tube, ...], grid: Grid, pose: Pose) -> np.ndarray:
    """Share of each voxel inside any of the tubes, 0..1, float32 (n, h, w)."""
    fold = max(1, round(grid.spacing[0] / FINE))  # thin slices in a slice
    n, h, w = grid.shape
    spacing = np.array([grid.spacing[0] / fold, grid.spacing[1], grid.spacing[2]])
    share = np.zeros((n * fold, h, w), np.float32)
    start = np.array(
        [(fold - 1) / 2 * -spacing[0], 0, 0]
    )  # mm along the axes, of the first thin slice
    for tube in tubes:
        points = (
            grid.to_index(pose.to_patient(tube.points)) * grid.spacing - start
        )  # (P, 3) mm along the axes
        reach = np.maximum(tube.radii[:-1], tube.radii[1:])[:, None] + spacing[2]
        low = np.ceil((np.minimum(points[:-1], points[1:]) - reach) / spacing).astype(int)
        high = np.floor((np.maximum(points[:-1], points[1:]) + reach) / spacing).astype(int) + 1
        low, high = np.maximum(low, 0), np.minimum(high, share.shape)  # (P - 1, 3) index boxes
        for k in np.flatnonzero((low < high).all(1)):
            box = tuple(slice(*ends) for ends in zip(low[k], high[k], strict=True))
            _draw_cone(
                share[box],
                (points[k : k + 2] - low[k] * spacing).astype(np.float32),
                tube.radii[k : k + 2].astype(np.float32),
                spacing,
            )
    return share if fold == 1 else share.reshape(n, fold, h, w).mean(1)


class SmoothNoise:
    """Smooth noise over a grid, of about unit variance times `size`; neighbouring hills lie about 2 * `scale` mm apart."""

    def __init__(self, rng: np.random.Generator, grid: Grid, scale: float, size: float = 1.0):
        coarse = [
            int(count * s / scale) + 3 for count, s in zip(grid.shape, grid.spacing, strict=True)
        ]
        self.knots = rng.standard_normal(coarse, dtype=np.float32) * np.float32(1.6 * size)
        self.shape = grid.shape

    def slab(self, slices: slice) -> np.ndarray:
        """The noise of some slices, float32 (slices, h, w)."""
        n, h, w = self.shape
        at = np.linspace(0, len(self.knots) - 1.001, n)[slices].astype(np.float32)
        low = at.astype(int)
        knots = self.knots[low[0] : low[-1] + 2]
        planes = np.stack(
            [cv2.resize(plane, (w, h), interpolation=cv2.INTER_CUBIC) for plane in knots]
        )  # (knots, h, w)
        share, low = (at - low)[:, None, None], low - low[0]
        return planes[low] + share * (planes[low + 1] - planes[low])


def head_coordinates(
    grid: Grid, pose: Pose, slices: slice, warps: list[SmoothNoise], size: np.ndarray
) -> HeadCoordinates:
    """Head coordinates of each voxel of some slices, scaled by `size` (3,) and warped by a few mm so that no head is made of perfect ellipsoids."""
    k, i, j = np.ogrid[slices, : grid.shape[1], : grid.shape[2]]
    steps = (
        pose.rotation.T @ (grid.axes * np.array(grid.spacing)[:, None]).T
    )  # (3, 3): head mm per slice, row, column
    start = pose.to_head(grid.origin)
    coordinates = []
    for axis, warp in enumerate(warps):
        plane = ((start[axis] + k * steps[axis, 0]) + i * steps[axis, 1]).astype(np.float32)
        place = plane + (j * steps[axis, 2]).astype(np.float32)
        place += warp.slab(slices)
        place *= np.float32(size[axis])
        coordinates.append(place)
    return HeadCoordinates(
        np.abs(coordinates[0]), coordinates[1], coordinates[2], edge=float(grid.spacing[2])
    )


def _slabs(grid: Grid) -> list[slice]:
    """The slices, a few at a time: memory stays bounded whatever the size of the volume."""
    n, h, w = grid.shape
    step = max(1, SLAB // (h * w))
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def _spheres(spots: np.ndarray) -> tuple[Tube, ...]:
    return tuple(
        Tube("spot", np.stack([spot[:3], spot[:3]]), np.full(2, spot[3])) for spot in spots
    )


def _draw_cone(
    region: np.ndarray, points: np.ndarray, radii: np.ndarray, spacing: np.ndarray
) -> None:
    """Join a cone with round ends to `region`, the shares of a box of voxels. `points` (2, 3): mm from the box's first voxel; `radii` (2,)."""
    z, y, x = (
        np.arange(size, dtype=np.float32) * np.float32(s) - a
        for size, s, a in zip(region.shape, spacing, points[0], strict=True)
    )
    z, y = z[:, None, None], y[:, None]
    dz, dy, dx = d = points[1] - points[0]
    along = (z * dz + y * dy) + x * dx
    along *= 1 / max(d @ d, np.float32(1e-6))
    np.maximum(along, 0, out=along)
    np.minimum(along, 1, out=along)
    distance = np.square(z - along * dz)
    distance += np.square(y - along * dy)
    distance += np.square(x - along * dx)
    np.sqrt(distance, out=distance)
    along *= radii[1] - radii[0]
    along += radii[0]  # radius here
    along -= distance
    along *= np.float32(1 / spacing[2])
    along += np.float32(0.5)
    thin = min(
        1.0, 2 * float(radii.max() / spacing[2])
    )  # what is thinner than a voxel fills only a part of it
    np.minimum(along, 1, out=along)
    along *= np.float32(thin)
    np.maximum(region, along, out=region)


def _acquire(
    rng: np.random.Generator, image: np.ndarray, grid: Grid, modality: str, noise: float
) -> None:
    """Noise of the scanner, added in place: Gaussian in CT; bias field and Rician noise in MR."""
    bias = SmoothNoise(rng, grid, 45.0, 0.05)
    for slab in _slabs(grid):
        part = image[slab]
        first = rng.standard_normal(part.shape, dtype=np.float32) * np.float32(noise)
        if modality == CTA:
            part += first
        else:
            part *= 1 + bias.slab(slab)
            second = rng.standard_normal(part.shape, dtype=np.float32) * np.float32(noise)
            np.hypot(part + first, second, out=part)
