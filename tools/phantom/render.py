"""Pictures of a synthetic head: vessels and tissue on a grid, with the contrast of a modality.

What is random takes a generator, and no draw depends on the aneurysms: the same head with and
without one differs near it only.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from src.labels import MODALITIES
from tools.phantom.anatomy import Anatomy, Aneurysm, Tube
from tools.phantom.body import Body, paint_body
from tools.phantom.tissue import HeadCoordinates, paint_tissue

CTA, MRA, T2, T1POST = MODALITIES
SLAB = 2**19  # voxels that are painted at once
FINE = 1.3  # mm: thicker slices are averaged from thinner ones

# Intensity of each tissue. CT in HU; MR in units where the brightest vessel is about 400.
# fmt: off
TISSUE = {
    CTA: dict(
        air=-1000, muscle=55, fat=-90, bone=1100, marrow=450, fluid=8, white=28, grey=38, eye=10,
        mucosa=50, pituitary=110, cavernous=95, pineal=60,
    ),
    MRA: dict(
        air=6, muscle=70, fat=110, bone=12, marrow=70, fluid=45, white=95, grey=105, eye=40,
        mucosa=95, pituitary=120, cavernous=90, pineal=100,
    ),
    T2: dict(
        air=5, muscle=80, fat=230, bone=14, marrow=140, fluid=400, white=140, grey=185, eye=420,
        mucosa=330, pituitary=190, cavernous=170, pineal=190,
    ),
    T1POST: dict(
        air=6, muscle=115, fat=250, bone=16, marrow=170, fluid=45, white=150, grey=120, eye=45,
        mucosa=260, pituitary=240, cavernous=180, pineal=220,
    ),
}
# Intensity of the lumen, range over scans; of veins as a fraction of the arteries'.
ARTERY = {CTA: (300, 460), MRA: (330, 420), T2: (12, 30), T1POST: (330, 420)}
VEIN = {CTA: (0.35, 0.8), MRA: (0.28, 0.4), T2: (0.8, 2.0), T1POST: (0.85, 1.0)}
CALCIUM = {CTA: 850, MRA: 20, T2: 20, T1POST: 20}
# Standard deviation of the noise, range over scans.
NOISE = {CTA: (8, 18), MRA: (7, 14), T2: (7, 14), T1POST: (7, 14)}
# fmt: on


@dataclass(frozen=True)
class Grid:
    """Voxel centres of a volume (n, h, w): patient = origin + (index * spacing) @ axes, in mm."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]  # between slices, rows, columns
    origin: np.ndarray  # (3,) centre of voxel (0, 0, 0)
    axes: np.ndarray  # (3, 3) unit vectors: slice normal, down the rows, along the columns

    def to_index(self, points: np.ndarray) -> np.ndarray:
        """Return fractional (slice, row, column) (P, 3) of patient points (P, 3) mm."""
        return (points - self.origin) @ self.axes.T / self.spacing

    def to_patient(self, index: np.ndarray) -> np.ndarray:
        """Return patient points (P, 3) mm of fractional (slice, row, column) (P, 3)."""
        return self.origin + (index * self.spacing) @ self.axes


@dataclass(frozen=True)
class Pose:
    """Place of the head in the scanner: patient = rotation @ head + shift."""

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
    body: Body | None = None,
) -> np.ndarray:
    """Return the picture, float32 (n, h, w): HU for CTA, arbitrary units for MR.

    body: neck, shoulders and head holder, where the field shows more than the head.

    rng draws contrast, folds, bias field and noise.
    """
    look = np.random.default_rng(rng.integers(2**63))
    values = {}
    for tissue, value in TISSUE[modality].items():
        values[tissue] = value * (1 + 0.06 * look.normal())
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
        if body is not None:
            paint_body(image[slab], at, values, body, modality == CTA)
    arteries, veins = anatomy.arteries, anatomy.veins
    if body is not None:
        arteries, veins = arteries + body.arteries, veins + body.veins
    for aneurysm in aneurysms:
        arteries += aneurysm.tubes
    image += draw_tubes(veins, grid, pose) * (vein - image)
    image += draw_tubes(arteries, grid, pose) * (lumen - image)
    image += draw_tubes(_spheres(anatomy.calcifications), grid, pose) * (CALCIUM[modality] - image)
    for plane in image:
        cv2.GaussianBlur(plane, (0, 0), blur, dst=plane, borderType=cv2.BORDER_REPLICATE)
    _acquire(rng, image, grid, modality, noise)
    return image


def draw_tubes(tubes: tuple[Tube, ...], grid: Grid, pose: Pose) -> np.ndarray:
    """Return the fraction of each voxel inside any of the tubes, 0..1, float32 (n, h, w)."""
    fold = max(1, round(grid.spacing[0] / FINE))  # thin slices in a slice
    n, h, w = grid.shape
    spacing = np.array([grid.spacing[0] / fold, grid.spacing[1], grid.spacing[2]])
    inside = np.zeros((n * fold, h, w), np.float32)
    start = np.array([(fold - 1) / 2 * -spacing[0], 0, 0])  # mm along the axes, first thin slice
    for tube in tubes:
        points = grid.to_index(pose.to_patient(tube.points))
        points = points * grid.spacing - start  # (P, 3) mm along the axes
        reach = np.maximum(tube.radii[:-1], tube.radii[1:])[:, None] + spacing[2]
        low = np.ceil((np.minimum(points[:-1], points[1:]) - reach) / spacing).astype(int)
        high = np.floor((np.maximum(points[:-1], points[1:]) + reach) / spacing).astype(int) + 1
        low, high = np.maximum(low, 0), np.minimum(high, inside.shape)  # (P - 1, 3) index boxes
        for k in np.flatnonzero((low < high).all(1)):
            box = tuple(slice(*ends) for ends in zip(low[k], high[k], strict=True))
            ends = (points[k : k + 2] - low[k] * spacing).astype(np.float32)
            _draw_cone(inside[box], ends, tube.radii[k : k + 2].astype(np.float32), spacing)
    return inside if fold == 1 else inside.reshape(n, fold, h, w).mean(1)


class SmoothNoise:
    """Smooth noise over a grid, of about unit variance times `size`.

    Neighbouring hills are about 2 * `scale` mm apart.
    """

    def __init__(self, rng: np.random.Generator, grid: Grid, scale: float, size: float = 1.0):
        sizes = zip(grid.shape, grid.spacing, strict=True)
        coarse = [int(count * spacing / scale) + 3 for count, spacing in sizes]
        self.knots = rng.standard_normal(coarse, dtype=np.float32) * np.float32(1.6 * size)
        self.shape = grid.shape

    def slab(self, slices: slice) -> np.ndarray:
        """Return the noise of some slices, float32 (slices, h, w)."""
        n, h, w = self.shape
        at = np.linspace(0, len(self.knots) - 1.001, n)[slices].astype(np.float32)
        low = at.astype(int)
        knots = self.knots[low[0] : low[-1] + 2]
        planes = [cv2.resize(plane, (w, h), interpolation=cv2.INTER_CUBIC) for plane in knots]
        planes = np.stack(planes)  # (knots, h, w)
        weight, low = (at - low)[:, None, None], low - low[0]
        return planes[low] + weight * (planes[low + 1] - planes[low])


def head_coordinates(
    grid: Grid, pose: Pose, slices: slice, warps: list[SmoothNoise], size: np.ndarray
) -> HeadCoordinates:
    """Return the head coordinates of each voxel of some slices, scaled by `size` (3,).

    They are warped by a few mm, because no head is made of perfect ellipsoids.
    """
    k, i, j = np.ogrid[slices, : grid.shape[1], : grid.shape[2]]
    # (3, 3): head mm per slice, row, column
    steps = pose.rotation.T @ (grid.axes * np.array(grid.spacing)[:, None]).T
    start = pose.to_head(grid.origin)
    coordinates = []
    for axis, warp in enumerate(warps):
        plane = ((start[axis] + k * steps[axis, 0]) + i * steps[axis, 1]).astype(np.float32)
        place = plane + (j * steps[axis, 2]).astype(np.float32)
        place += warp.slab(slices)
        place *= np.float32(size[axis])
        coordinates.append(place)
    x, y, z = coordinates
    return HeadCoordinates(np.abs(x), y, z, edge=float(grid.spacing[2]))


def _slabs(grid: Grid) -> list[slice]:
    """Return the slices, a few at a time, which bounds the memory for volumes of any size."""
    n, h, w = grid.shape
    step = max(1, SLAB // (h * w))
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def _spheres(spots: np.ndarray) -> tuple[Tube, ...]:
    """Return balls (K, 4) of x, y, z, radius as tubes without length."""
    return tuple(Tube("spot", np.tile(spot[:3], (2, 1)), np.full(2, spot[3])) for spot in spots)


def _draw_cone(region: np.ndarray, points: np.ndarray, radii: np.ndarray, spacing) -> None:
    """Join a cone with round ends to the fractions of a box of voxels.

    points: (2, 3) mm from the box's first voxel
    radii: (2,) mm
    """
    z, y, x = np.ogrid[: region.shape[0], : region.shape[1], : region.shape[2]]
    z = z.astype(np.float32) * np.float32(spacing[0]) - points[0, 0]
    y = y.astype(np.float32) * np.float32(spacing[1]) - points[0, 1]
    x = x.astype(np.float32) * np.float32(spacing[2]) - points[0, 2]
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
    thin = min(1.0, 2 * float(radii.max() / spacing[2]))  # thinner than a voxel: fills a part
    np.minimum(along, 1, out=along)
    along *= np.float32(thin)
    np.maximum(region, along, out=region)


def _acquire(rng, image: np.ndarray, grid: Grid, modality: str, noise: float) -> None:
    """Add the scanner's noise in place: Gaussian in CT; bias field and Rician noise in MR."""
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
