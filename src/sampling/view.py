"""The network's view: which part of a prepared image its crop shows, in pixels or in millimetres.

Three grids of pixels, centres are integers:
- the prepared image (S, S), whose pixels may be oblong;
- the virtual image (S, S) of square pixels, centred on the head, as fine as the crop needs to
  span `view_mm` millimetres; augmentation moves it. If view_mm is 0, it is the prepared image;
- the crop, in evaluation the centre of the virtual image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from src.artifacts.paths import ArtifactError
from src.orientation import canonical_shape
from src.sampling.slices import crop_margin, spacing_or_default
from src.script import UserError

if TYPE_CHECKING:  # it takes as long as all else that a worker of preprocess_data.py imports
    import pandas as pd

SMALLEST_VIEW, LARGEST_VIEW = 20.0, 1000.0  # mm
FARTHEST_STEP = 100.0  # mm
HEAD_COLUMNS = ["head_x", "head_y"]  # of the tables: fractions of the prepared image


@dataclass(frozen=True)
class View:
    """Where the virtual image is in the prepared one: image = scale * virtual + offset."""

    size: int  # S, pixels
    crop: int  # pixels
    extent: np.ndarray  # (2,) mm that the virtual image spans across and down
    scale: np.ndarray  # (2,) pixels of the prepared image that a virtual one spans
    offset: np.ndarray  # (2,) where virtual pixel 0 is in the prepared image
    in_mm: bool  # else the virtual image is the prepared one

    @property
    def pixel_mm(self) -> np.ndarray:
        """Return the mm (2,) that a virtual pixel spans across and down."""
        return self.extent / self.size

    @property
    def whole(self) -> "View":
        """Return the view of the whole virtual image."""
        return replace(self, crop=self.size)

    @property
    def matrix(self) -> np.ndarray:
        """Return the mapping (2, 3) float32 from pixels of the crop to the prepared image."""
        margin = crop_margin(self.size, self.crop)
        crop_to_virtual = np.array([[1.0, 0, margin], [0, 1.0, margin]])
        return self.onto_image(crop_to_virtual).astype(np.float32)

    def onto_image(self, matrix: np.ndarray) -> np.ndarray:
        """Return a mapping (2, 3) to virtual pixels as one to pixels of the prepared image."""
        mapped = self.scale[:, None] * matrix
        mapped[:, 2] += self.offset
        return mapped

    def to_crop(self, points: np.ndarray) -> np.ndarray:
        """Return where points (..., 2), x and y in the prepared image, are in the crop."""
        return (points - self.offset) / self.scale - crop_margin(self.size, self.crop)

    def to_image(self, points: np.ndarray) -> np.ndarray:
        """Undo `to_crop`."""
        return (points + crop_margin(self.size, self.crop)) * self.scale + self.offset


def extent_mm(
    shape: tuple[int, int], spacing: Sequence[float | None], orientation: str
) -> np.ndarray:
    """Return the mm (2,) that a canonical image spans across and down.

    shape: height and width of the stored image.
    spacing: mm between its rows and between its columns; defaults replace what is missing.
    """
    _, row, column = spacing_or_default((None, *spacing))
    down, across = canonical_shape(shape[0] * row, shape[1] * column, orientation)
    return np.array([across, down])


def view_of(
    extent: np.ndarray,
    size: int,
    crop: int,
    view_mm: float = 0.0,
    head: Sequence[float] | None = None,
) -> View:
    """Return the view of a series.

    extent: mm (2,) that the prepared image (size, size) spans across and down.
    crop: pixels, side of what the network sees; view_mm: mm that it spans, 0: as published.
    head: x and y of the head's centre, fractions of the image; None: the image's centre.
        Across or down, an image that spans less than the view stays inside it: where there is
        more of the head than of its outline, the centre is uncertain.
    """
    if not view_mm:
        return View(size, crop, extent, np.ones(2), np.zeros(2), in_mm=False)
    spanned = view_mm * size / crop  # mm, by the virtual image
    scale = spanned / extent
    centre_mm = np.array((0.5, 0.5) if head is None else head) * extent
    inside = np.clip(centre_mm, extent - view_mm / 2, view_mm / 2)
    centre_mm = np.where(extent < view_mm, inside, centre_mm)
    centre = centre_mm / extent * size - 0.5
    offset = centre - scale * (size - 1) / 2
    return View(size, crop, np.full(2, spanned), scale, offset, in_mm=True)


def view_of_row(row: "pd.Series", size: int, crop: int, view_mm: float = 0.0) -> View:
    """Return the view of a series from its row of train_{N}_folds.csv."""
    extent = extent_mm((row.h, row.w), (row.row_spacing, row.column_spacing), row.orientation)
    head = None
    if view_mm and np.isfinite(row[HEAD_COLUMNS].astype(float)).all():
        head = row[HEAD_COLUMNS].to_numpy(float)
    return view_of(extent, size, crop, view_mm, head)


def require_heads(series: "pd.DataFrame", view_mm: float) -> None:
    """Raise ArtifactError if a view in mm lacks the columns of the head's centre."""
    if view_mm and not set(HEAD_COLUMNS) <= set(series.columns):
        raise ArtifactError(
            f"the table of folds does not say where the heads are, as a view of {view_mm:g} mm "
            "needs: run preprocess_data.py and create_folds.py again"
        )


def require_in_mm(view_mm: float, step_mm: Sequence[float]) -> None:
    """Raise UserError if a view or the steps to the neighbours are no possible distances."""
    if view_mm and not SMALLEST_VIEW <= view_mm <= LARGEST_VIEW:
        raise UserError(
            f"--view-mm {view_mm:g}: give {SMALLEST_VIEW:g} to {LARGEST_VIEW:g} mm, "
            "or 0 for the published crop"
        )
    first, second = step_mm
    if first == second == 0:
        return
    if not 0 < first <= second <= FARTHEST_STEP:
        raise UserError(
            f"--step-mm {first:g} {second:g}: give two distances up to {FARTHEST_STEP:g} mm, the "
            "shorter one first, or 0 0 for the published 1 and 2 slices"
        )
