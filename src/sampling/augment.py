"""Augmentation of stage 1: drawn where a sample is loaded, applied to a batch on any device.

All geometry of a sample, the view included, is one mapping from the pixels of the crop to those of
the image, so that every image is interpolated once. Pixel centres are integers; points follow the
same mapping.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from src.sampling.resample import above_background, seen
from src.sampling.slices import centre_crop
from src.sampling.view import View

TRIES = 20  # to find places for holes beside the aneurysms, before they are left out


@dataclass(frozen=True)
class Augmentation:
    """Strengths and probabilities; the Config of train_stage1.py gives meanings and values."""

    mirror: float
    affine: float
    shift: float
    scale: float
    rotate: float
    occlude: float
    grid_ratio: float
    grid_cells: int
    holes: tuple[int, int]
    hole_size: tuple[float, float]
    distortion: float
    distortion_cells: int
    brightness: float
    quarter_turns: bool  # rotate by a random multiple of 90 degrees


@dataclass
class Draw:
    """What was drawn for one sample, and what `warp` reads of it; H: most holes."""

    matrix: np.ndarray  # (2, 3) float32: distorted crop pixels -> image pixels
    columns: np.ndarray  # (crop,) float32: where each column of the crop is after distortion
    rows: np.ndarray  # (crop,) float32
    hole_columns: np.ndarray  # (H, crop) bool: columns that each hole covers
    hole_rows: np.ndarray  # (H, crop) bool
    brightness: np.float32  # added to all intensities
    mirrored: bool

    def move(self, points: np.ndarray) -> np.ndarray:
        """Return where points (K, 2), x and y in the image, are in the crop; NaN stays NaN."""
        if np.isnan(points).all():
            return points
        undistorted = (points - self.matrix[:, 2]) @ np.linalg.inv(self.matrix[:, :2]).T  # (K, 2)
        x = _invert(self.columns, undistorted[:, 0])
        y = _invert(self.rows, undistorted[:, 1])
        return np.stack([x, y], axis=1).astype(np.float32)


def draw(
    settings: Augmentation,
    generator: Generator,
    size: int,
    crop: int,
    mirrorable: bool,
    view: View | None = None,
    *,
    points: np.ndarray | None = None,
    margin: float = 0.0,
) -> Draw:
    """Draw the augmentation of one sample.

    size, crop: sides of image and crop in pixels.
    view: in mm; what is drawn moves its virtual image.
    points: (K, 2) x, y of aneurysms in the image or NaN, which no hole covers.
    margin: pixels around them that stay free as well.
    """
    mirrored = bool(mirrorable and generator.random() < settings.mirror)
    to_crop = _draw_affine(settings, generator, size, crop, mirrored)
    columns = rows = np.arange(crop, dtype=np.float32)
    hole_columns, hole_rows = np.zeros((2, settings.holes[1], crop), bool)
    kind = None
    if generator.random() < settings.occlude:
        kind = generator.integers(3)
        if kind == 0:
            hole_columns[0] = _draw_grid(settings, generator, crop)
            hole_rows[0] = _draw_grid(settings, generator, crop)
        elif kind == 1:
            hole_columns, hole_rows = _draw_holes(settings, generator, crop)
        else:
            columns = _draw_distortion(settings, generator, crop)
            rows = _draw_distortion(settings, generator, crop)
    brightness = np.float32(generator.uniform(-settings.brightness, settings.brightness))
    matrix = np.linalg.inv(to_crop)[:2]
    if view is not None and view.in_mm:
        matrix = view.onto_image(matrix)
    matrix = matrix.astype(np.float32)
    drawn = Draw(matrix, columns, rows, hole_columns, hole_rows, brightness, mirrored)
    if points is not None and kind in (0, 1):
        uncover(settings, generator, drawn, drawn.move(points), margin, grid=kind == 0)
    return drawn


def _draw_affine(
    settings: Augmentation, generator: Generator, size: int, crop: int, mirrored: bool
) -> np.ndarray:
    """Draw image pixels -> crop pixels, (3, 3): mirror, scale, rotate, shift, crop, turn."""
    scale, angle, shift = 1.0, 0.0, np.zeros(2)
    if generator.random() < settings.affine:
        scale = 1 + generator.uniform(-settings.scale, settings.scale)
        angle = np.deg2rad(generator.uniform(-settings.rotate, settings.rotate))
        shift = generator.uniform(-settings.shift, settings.shift, size=2) * size
    corner = generator.integers(0, size - crop + 1, size=2)
    turns = generator.integers(4) if settings.quarter_turns else 0

    centre, crop_centre = (size - 1) / 2, (crop - 1) / 2
    flip = np.diag([-1.0 if mirrored else 1.0, 1.0])
    about_centre = scale * _rotation(angle) @ flip  # (2, 2)
    turn = np.round(_rotation(turns * np.pi / 2))  # (2, 2), exact
    offset = centre - about_centre @ [centre, centre] + shift - corner  # (2,)
    matrix = np.eye(3)
    matrix[:2, :2] = turn @ about_centre
    matrix[:2, 2] = turn @ (offset - crop_centre) + crop_centre
    return matrix


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _draw_grid(settings: Augmentation, generator: Generator, crop: int) -> np.ndarray:
    """Draw which pixels along one side grid dropout hides: (crop,) bool."""
    cell = crop / settings.grid_cells
    return (np.arange(crop) + generator.uniform(0, cell)) % cell < settings.grid_ratio * cell


def _draw_holes(settings: Augmentation, generator: Generator, crop: int) -> np.ndarray:
    """Draw the columns and the rows that each hole covers: (2, H, crop) bool, False if unused."""
    fewest, most = settings.holes
    count = generator.integers(fewest, most + 1)
    sides = generator.uniform(*settings.hole_size, size=(2, most, 1)) * crop
    covered = _place_holes(generator, sides, crop)
    covered[:, count:] = False
    return covered


def _place_holes(generator: Generator, sides: np.ndarray, crop: int) -> np.ndarray:
    """Draw the places of holes whose sides (2, H, 1) are known: (2, H, crop) bool."""
    starts = generator.uniform(size=sides.shape) * (crop - sides)
    pixels = np.arange(crop)
    return (pixels >= starts) & (pixels < starts + sides)


def uncover(
    settings: Augmentation,
    generator: Generator,
    drawn: Draw,
    points: np.ndarray,
    margin: float,
    grid: bool,
) -> None:
    """Move the grid or the holes that cover an aneurysm, else its label and heat would stay.

    They move as a whole and keep their size: a gap in a grid, or a rarer grid, would betray the
    aneurysm. What still covers one after some tries is left out.

    points: (K, 2) x, y in the crop, without distortion; NaN pads.
    margin: pixels around them; for a grid at most a quarter of what it shows between two bars.
    """
    crop = len(drawn.columns)
    if grid:
        margin = min(margin, (1 - settings.grid_ratio) * crop / settings.grid_cells / 4)
    near = np.abs(np.arange(crop) - points.T[..., None]) <= max(margin, 1.0)  # (2, K, crop)
    for _ in range(TRIES):
        covering = _covering(drawn, near)  # (H,)
        if not covering.any():
            return
        if grid:
            drawn.hole_columns[0] = _draw_grid(settings, generator, crop)
            drawn.hole_rows[0] = _draw_grid(settings, generator, crop)
        else:
            holes = np.stack([drawn.hole_columns, drawn.hole_rows])  # (2, H, crop)
            moved = _place_holes(generator, holes.sum(axis=2, keepdims=True), crop)
            drawn.hole_columns[covering], drawn.hole_rows[covering] = moved[:, covering]
    covering = _covering(drawn, near)
    drawn.hole_columns[covering] = drawn.hole_rows[covering] = False


def _covering(drawn: Draw, near: np.ndarray) -> np.ndarray:
    """Return which holes cover a pixel near a point: (H,) bool; near: (2, K, crop) bool."""
    across = drawn.hole_columns @ near[0].T  # (H, K)
    down = drawn.hole_rows @ near[1].T  # (H, K)
    return (across & down).any(axis=1)


def _draw_distortion(settings: Augmentation, generator: Generator, crop: int) -> np.ndarray:
    """Draw where the pixels of a side go when its cells change width: (crop,) float32, rising."""
    change = settings.distortion
    widths = 1 + generator.uniform(-change, change, size=settings.distortion_cells)
    knots = np.concatenate([[0.0], np.cumsum(widths)]) / widths.sum() * (crop - 1)
    even = np.linspace(0, crop - 1, len(knots))
    return np.interp(np.arange(crop), even, knots).astype(np.float32)


def _invert(increasing: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the positions at which `increasing` takes the values; slope 1 beyond its ends."""
    last = len(increasing) - 1
    inside = np.interp(values, increasing, np.arange(len(increasing)))
    return inside + np.minimum(values - increasing[0], 0) + np.maximum(values - increasing[last], 0)


def warp(images: Tensor, draws: dict[str, Tensor]) -> Tensor:
    """Apply the draws of a batch: (B, 3, S, S) float32 -> (B, 3, crop, crop).

    Outside the image and in the holes the result is the lowest intensity of each slice.
    """
    crops, background = above_background(images, draws["matrix"], draws["columns"], draws["rows"])
    hole_rows, hole_columns = draws["hole_rows"].float(), draws["hole_columns"].float()
    holes = torch.einsum("bhr,bhc->brc", hole_rows, hole_columns) > 0  # (B, crop, crop)
    crops = crops.masked_fill(holes[:, None], 0.0) + background
    return crops + draws["brightness"][:, None, None, None]


def crops(batch: dict[str, Tensor], crop: int) -> Tensor:
    """Return the network's input, (B, 3, crop, crop) float32: augmented, or what the view shows."""
    images = batch["images"].float()
    if "brightness" in batch:
        return warp(images, batch)
    if "matrix" in batch:
        return seen(images, batch["matrix"], crop).float()
    return centre_crop(images, crop)
