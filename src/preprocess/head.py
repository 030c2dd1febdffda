"""Where the head is: its centre in the plane of the slices, found from the images alone.

The networks' view in millimetres is centred on it.
"""

from collections.abc import Iterable

import cv2
import numpy as np

from src.sampling.slices import spacing_or_default
from src.sampling.view import extent_mm

SLICES = 32  # of a series that are looked at
SIDE = 96  # pixels: images are made this small first
CT_TISSUE = 0.12  # prepared intensity of CT, about 14 HU: brain and muscle are above
BRIGHT = 2.5  # prepared intensity from which on all is the same
SMOOTH = 3.0  # mm
SMALLEST = 0.04  # of the image: what is smaller is no head
WIDE = 0.7  # of the largest outline: smaller ones lie near the top, or in the neck
BELOW_TOP = 150.0  # mm: what lies lower is neck
TOP_TO_CENTRE = 99.0  # mm
BESIDE_TOP = 40.0  # mm: upright outlines that begin lower miss the middle of the head


def sample_slices(length: int) -> np.ndarray:
    """Return the slices (k,) that `head_centre` looks at, evenly spread and ascending."""
    return np.unique(np.linspace(0, length - 1, min(length, SLICES)).round().astype(int))


def shrunk(image: np.ndarray) -> np.ndarray:
    """Return a prepared image (S, S) as (SIDE, SIDE) float32."""
    return cv2.resize(image.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def find_head(
    images: Iterable[np.ndarray], numbers: np.ndarray, metadata: dict
) -> tuple[float, float] | None:
    """Return x and y of the head's centre as fractions (0..1) of the image, or None.

    images: prepared (S, S), of the slices `numbers` (k,) that `sample_slices` names.
    metadata: what `metadata_of` returns.
    """
    between, row, column = spacing_or_default(
        (metadata["slice_spacing"], metadata["row_spacing"], metadata["column_spacing"])
    )
    positions = numbers * between
    if metadata["positions"] is not None:
        positions = np.array(metadata["positions"])[numbers]
    shape = (metadata["h"], metadata["w"])
    across, down = extent_mm(shape, (row, column), metadata["orientation"])
    small = np.stack([shrunk(image) for image in images])
    centre = head_centre(small, positions, metadata["plane"], metadata["mod"], (down, across))
    if centre is None or not np.isfinite(centre).all():
        return None
    x, y = np.clip(centre, 0.0, 1.0).tolist()
    return x, y


def head_centre(
    images: np.ndarray,
    positions: np.ndarray,
    plane: str,
    modality: str,
    size: tuple[float, float],
) -> tuple[float, float] | None:
    """Return x and y of the head's centre as fractions of the image, or None if there is no head.

    images: (k, SIDE, SIDE) canonical prepared images, 0..5.
    positions: (k,) mm along the normal, ascending.
    plane: axial, coronal, sagittal or unknown.
    modality: CT or MR.
    size: height and width of the images in mm.
    """
    pixel = np.array(size[::-1]) / SIDE  # (2,) mm along x and y
    outlines = _outlines(images, pixel, modality)
    areas = np.array([cv2.contourArea(outline) for outline in outlines]) / SIDE**2
    seen = areas > SMALLEST
    if not seen.any():
        return None
    upright = plane in ("coronal", "sagittal")
    if not upright:
        seen &= positions > positions[seen].max() - BELOW_TOP
    wide = np.flatnonzero(seen & (areas >= WIDE * areas[seen].max()))
    found = _upright if upright else _median_centre
    x, y = found([outlines[k] for k in wide], pixel)
    return float((x + 0.5) / SIDE), float((y + 0.5) / SIDE)


def _outlines(images: np.ndarray, pixel: np.ndarray, modality: str) -> list[np.ndarray]:
    """Return the convex outline (P, 2) float32 of the largest thing in each image, in pixels."""
    sigma = SMOOTH / pixel
    smooth = [cv2.GaussianBlur(image, (0, 0), sigmaX=sigma[0], sigmaY=sigma[1]) for image in images]
    grey = np.clip(np.stack(smooth) * (255 / BRIGHT), 0, 255).astype(np.uint8)  # (k, SIDE, SIDE)
    threshold = CT_TISSUE * 255 / BRIGHT
    if modality != "CT":
        # One threshold for all slices (Otsu): a slice of noise alone is not split in two.
        threshold, _ = cv2.threshold(grey.reshape(len(grey), -1), 0, 255, cv2.THRESH_OTSU)
    outlines = []
    for mask in (grey > threshold).astype(np.uint8):
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        largest = max(contours, key=cv2.contourArea, default=np.zeros((1, 1, 2), np.int32))
        outlines.append(cv2.convexHull(largest)[:, 0].astype(np.float32))
    return outlines


def _median_centre(outlines: list[np.ndarray], pixel: np.ndarray) -> np.ndarray:
    """Return the median centre (2,) of the outlines, in pixels."""
    return np.median([_centre(outline, pixel) for outline in outlines], axis=0)


def _upright(outlines: list[np.ndarray], pixel: np.ndarray) -> np.ndarray:
    """Return the centre (2,) of the head in coronal or sagittal outlines, in pixels.

    Across from an ellipse around the part above the neck; down from the top of the head, or from
    the ellipse if the top is not in the image.
    """
    top = min(outline[:, 1].min() for outline in outlines)
    beside = [o for o in outlines if (o[:, 1].min() - top) * pixel[1] <= BESIDE_TOP]
    lowest = top + 0.85 * BELOW_TOP / pixel[1]
    x, y = np.median([_centre(outline, pixel, lowest) for outline in beside], axis=0)
    return np.array([x, top + TOP_TO_CENTRE / pixel[1] if top > 1 else y])


def _centre(outline: np.ndarray, pixel: np.ndarray, lowest: float = np.inf) -> np.ndarray:
    """Return the centre (2,) of an outline, in pixels; of an ellipse if a part of it is cut off.

    lowest: row below which the outline does not count.
    """
    moments = cv2.moments(outline)
    centroid = np.array([moments["m10"], moments["m01"]]) / max(moments["m00"], 1e-6)
    points = _evenly(outline)
    inside = ((points > 1) & (points < SIDE - 2)).all(axis=1) & (points[:, 1] < lowest)
    if inside.all() or inside.sum() < 20:
        return centroid
    ellipse = _ellipse_centre(points[inside] * pixel) / pixel
    credible = np.abs(ellipse - SIDE / 2).max() < SIDE / 2
    return ellipse if credible else centroid


def _evenly(outline: np.ndarray) -> np.ndarray:
    """Return points (Q, 2) about a pixel apart along a closed outline (P, 2)."""
    parts = []
    for start, end in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        count = max(1, int(np.hypot(*(end - start))))
        parts.append(start + (end - start) * np.arange(count)[:, None] / count)
    return np.concatenate(parts)


def _ellipse_centre(points: np.ndarray) -> np.ndarray:
    """Return the centre (2,) of the upright ellipse nearest to points (Q, 2); NaN if there is none.

    Least squares for a x^2 + b y^2 + c x + d y = 1.
    """
    mean, scale = points.mean(axis=0), points.std()
    scaled = (points - mean) / scale
    design = np.hstack([scaled**2, scaled])
    square, linear = np.split(np.linalg.lstsq(design, np.ones(len(points)), rcond=None)[0], 2)
    centre = -linear / (2 * square) * scale + mean
    return centre if (square > 0).all() else np.full(2, np.nan)
