"""Augmentation: the draws of one sample, made where the sample is loaded, and one batched pass that applies them on any device.

All geometry of a sample is one mapping from the pixels of the crop to those of the image, so that every image is interpolated once.
Pixel centres are integers; points follow the same mapping exactly.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from src.sampling.slices import centre_crop


@dataclass(frozen=True)
class Augmentation:
    """How strong each piece is, and how often it happens."""

    mirror: float = 0.5  # probability, where the image's x axis is the patient's left-right axis
    affine: float = 0.5  # probability of shift, scale and rotation together
    shift: float = 0.06  # of the image's side, either way
    scale: float = 0.10  # either way
    rotate: float = 5.0  # degrees, either way
    quarter_turns: bool = False  # by a random multiple of 90 degrees
    spoil: float = 0.5  # probability of one of grid dropout, coarse dropout, grid distortion
    grid_ratio: float = 0.4  # of a cell's side that grid dropout hides
    grid_cells: int = 10  # of grid dropout along a side
    coarse_holes: tuple[int, int] = (10, 25)  # of coarse dropout
    coarse_side: tuple[float, float] = (0.10, 0.20)  # of the crop's side
    distortion: float = 0.3  # change of a cell's width in grid distortion, either way
    distortion_cells: int = 5  # along a side
    drift: float = 0.01  # added to all intensities of a sample, either way


@dataclass
class Draw:
    """What was drawn for one sample of an image of `size` pixels and a crop of `crop`."""

    matrix: np.ndarray  # (2, 3) float32: distorted crop pixels -> image pixels
    columns: np.ndarray  # (crop,) float32: where each column of the crop lies after distortion
    rows: np.ndarray  # (crop,) float32
    hole_columns: np.ndarray  # (coarse_holes[1], crop) bool: columns that each hole covers
    hole_rows: np.ndarray  # (coarse_holes[1], crop) bool
    drift: np.float32
    mirrored: bool

    def tensors(self) -> dict[str, np.ndarray]:
        """What `warp` needs, ready to be collated."""
        return {
            name: getattr(self, name)
            for name in ("matrix", "columns", "rows", "hole_columns", "hole_rows", "drift")
        }

    def move(self, points: np.ndarray) -> np.ndarray:
        """Points (K, 2) x, y of the image -> of the crop, float32; NaN where there is none."""
        if np.isnan(points).all():
            return points
        undistorted = (points - self.matrix[:, 2]) @ np.linalg.inv(self.matrix[:, :2]).T
        return np.stack(
            [_invert(self.columns, undistorted[:, 0]), _invert(self.rows, undistorted[:, 1])],
            axis=1,
        ).astype(np.float32)


def draw(
    settings: Augmentation, generator: np.random.Generator, size: int, crop: int, mirrorable: bool
) -> Draw:
    """All draws of one sample. `mirrorable` tells that left and right lie along the image's x axis."""
    mirrored = bool(mirrorable and generator.random() < settings.mirror)
    to_crop = _draw_affine(settings, generator, size, crop, mirrored)
    columns = rows = np.arange(crop, dtype=np.float32)
    hole_columns, hole_rows = np.zeros((2, settings.coarse_holes[1], crop), bool)
    if generator.random() < settings.spoil:
        kind = generator.integers(3)
        if kind == 0:
            hole_columns[0], hole_rows[0] = (
                _draw_grid(settings, generator, crop),
                _draw_grid(settings, generator, crop),
            )
        elif kind == 1:
            hole_columns, hole_rows = _draw_holes(settings, generator, crop)
        else:
            columns, rows = (
                _draw_distortion(settings, generator, crop),
                _draw_distortion(settings, generator, crop),
            )
    drift = np.float32(generator.uniform(-settings.drift, settings.drift))
    return Draw(
        np.linalg.inv(to_crop)[:2].astype(np.float32),
        columns,
        rows,
        hole_columns,
        hole_rows,
        drift,
        mirrored,
    )


def _draw_affine(
    settings: Augmentation, generator: np.random.Generator, size: int, crop: int, mirrored: bool
) -> np.ndarray:
    """Image pixels -> crop pixels, (3, 3): mirror, scale and rotation about the centre, shift, crop, quarter turn."""
    scale, angle, shift = 1.0, 0.0, np.zeros(2)
    if generator.random() < settings.affine:
        scale = 1 + generator.uniform(-settings.scale, settings.scale)
        angle = np.deg2rad(generator.uniform(-settings.rotate, settings.rotate))
        shift = generator.uniform(-settings.shift, settings.shift, size=2) * size
    corner = generator.integers(0, size - crop + 1, size=2)
    turns = generator.integers(4) if settings.quarter_turns else 0

    centre, crop_centre = (size - 1) / 2, (crop - 1) / 2
    flip = np.diag([-1.0 if mirrored else 1.0, 1.0])
    about_centre = scale * _rotation(angle) @ flip
    turn = np.round(_rotation(turns * np.pi / 2))
    linear = turn @ about_centre
    moved = centre - about_centre @ [centre, centre] + shift - corner
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = turn @ (moved - crop_centre) + crop_centre
    return matrix


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _draw_grid(settings: Augmentation, generator: np.random.Generator, crop: int) -> np.ndarray:
    """Which pixels along one side grid dropout hides: (crop,) bool."""
    cell = crop / settings.grid_cells
    return (np.arange(crop) + generator.uniform(0, cell)) % cell < settings.grid_ratio * cell


def _draw_holes(
    settings: Augmentation, generator: np.random.Generator, crop: int
) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows that each hole of coarse dropout covers: two (most holes, crop) bool, empty for holes not drawn."""
    low, high = settings.coarse_holes
    count = generator.integers(low, high + 1)
    sides = generator.uniform(*settings.coarse_side, size=(2, high, 1)) * crop
    starts = generator.uniform(size=(2, high, 1)) * (crop - sides)
    pixels = np.arange(crop)
    covered = (
        (pixels >= starts) & (pixels < starts + sides) & (np.arange(high) < count)[None, :, None]
    )
    return covered[0], covered[1]


def _draw_distortion(
    settings: Augmentation, generator: np.random.Generator, crop: int
) -> np.ndarray:
    """Where each pixel along one side lies after the cells were widened or narrowed: (crop,) float32, increasing, ends fixed."""
    widths = 1 + generator.uniform(
        -settings.distortion, settings.distortion, size=settings.distortion_cells
    )
    knots = np.concatenate([[0.0], np.cumsum(widths)]) / widths.sum() * (crop - 1)
    even = np.linspace(0, crop - 1, len(knots))
    return np.interp(np.arange(crop), even, knots).astype(np.float32)


def _invert(increasing: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Positions at which `increasing` takes the values; beyond its ends it goes on with slope 1."""
    last = len(increasing) - 1
    inside = np.interp(values, increasing, np.arange(len(increasing)))
    return inside + np.minimum(values - increasing[0], 0) + np.maximum(values - increasing[last], 0)


def warp(images: Tensor, draws: dict[str, Tensor]) -> Tensor:
    """Apply the draws of a batch: (B, 3, S, S) float32 -> (B, 3, crop, crop).

    Beyond the image and in the holes lies its background, the least intensity of the sample.
    """
    size = images.shape[-1]
    matrix, columns, rows = draws["matrix"], draws["columns"], draws["rows"]
    grid = (
        matrix[:, None, None, :, 0] * columns[:, None, :, None]
        + matrix[:, None, None, :, 1] * rows[:, :, None, None]
    )
    grid = ((grid + matrix[:, None, None, :, 2]) * 2 + 1) / size - 1  # (B, crop, crop, 2)

    background = images.amin(dim=(1, 2, 3), keepdim=True)
    crops = grid_sample(
        images - background, grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    holes = (
        torch.einsum("bhr,bhc->brc", draws["hole_rows"].float(), draws["hole_columns"].float()) > 0
    )
    return crops.masked_fill(holes[:, None], 0.0) + background + draws["drift"][:, None, None, None]


def crops(batch: dict[str, Tensor], crop: int) -> Tensor:
    """The network's input from a batch of samples: warped where it was drawn for, else the centre crop; (B, 3, crop, crop) float32."""
    images = batch["images"].float()
    return warp(images, batch) if "matrix" in batch else centre_crop(images, crop)
