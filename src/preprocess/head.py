"""Where the head is: its centre in the plane of the slices, found from the images alone.

The networks' view in millimetres is centred on it.
"""

import cv2
import numpy as np

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
DARKER = 0.4  # of the middle intensity of bright MR tissue: what is darker is air
ASPECT = {"axial": 1.3, "coronal": 1.25, "sagittal": 0.97}  # height to width of an adult's head
BELOW_CENTRE = 0.4  # of the head's half height: outlines of upright heads are face and neck lower
ROUNDS = 7  # of a fit, which finds where the neck begins
FEWEST = 20  # points that an ellipse is fitted to


def sample_slices(length: int) -> np.ndarray:
    """Return the slices (k,) that `head_centre` looks at, evenly spread and ascending."""
    return np.unique(np.linspace(0, length - 1, min(length, SLICES)).round().astype(int))


def shrunk(image: np.ndarray) -> np.ndarray:
    """Return a prepared image (S, S) as (SIDE, SIDE) float32."""
    return cv2.resize(image.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)


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
    aspect = ASPECT.get(plane, 1.0)
    found = _upright if upright else _median_centre
    x, y = found([outlines[k] for k in wide], pixel, aspect)
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
        bright = grey[grey > threshold]
        # Where the head fills the field, that of Otsu would part tissue from tissue.
        threshold = min(threshold, DARKER * np.median(bright)) if len(bright) else threshold
    outlines = []
    for mask in (grey > threshold).astype(np.uint8):
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        largest = max(contours, key=cv2.contourArea, default=np.zeros((1, 1, 2), np.int32))
        outlines.append(cv2.convexHull(largest)[:, 0].astype(np.float32))
    return outlines


def _median_centre(outlines: list[np.ndarray], pixel: np.ndarray, aspect: float) -> np.ndarray:
    """Return the median centre (2,) of axial outlines, in pixels; of an ellipse if cut off."""
    centres = []
    for outline in outlines:
        points = _evenly(outline)
        fitted = None if _inside(points).all() else _fitted(points, pixel, aspect)
        centres.append(_centroid(outline) if fitted is None else fitted)
    return np.median(centres, axis=0)


def _upright(outlines: list[np.ndarray], pixel: np.ndarray, aspect: float) -> np.ndarray:
    """Return the centre (2,) of the head in coronal or sagittal outlines, in pixels.

    That of ellipses around the part above the neck; down, the mean of theirs and of the distance
    from the top of the head, if the top is in the image.
    """
    top = min(outline[:, 1].min() for outline in outlines)
    beside = [o for o in outlines if (o[:, 1].min() - top) * pixel[1] <= BESIDE_TOP]
    lowest = top + 0.85 * BELOW_TOP / pixel[1]
    fitted = [_fitted(_evenly(outline), pixel, aspect, lowest) for outline in beside]
    found = [centre for centre in fitted if centre is not None]
    x, y = np.median(found or [_centroid(outline) for outline in beside], axis=0)
    return np.array([x, (y + top + TOP_TO_CENTRE / pixel[1]) / 2 if top > 1 else y])


def _centroid(outline: np.ndarray) -> np.ndarray:
    moments = cv2.moments(outline)
    return np.array([moments["m10"], moments["m01"]]) / max(moments["m00"], 1e-6)


def _inside(points: np.ndarray) -> np.ndarray:
    """Return which points (Q, 2) of an outline are not on the image's border."""
    return ((points > 1) & (points < SIDE - 2)).all(axis=1)


def _fitted(
    points: np.ndarray, pixel: np.ndarray, aspect: float, lowest: float | None = None
) -> np.ndarray | None:
    """Return the centre (2,) of an ellipse through points (Q, 2) of an outline, in pixels.

    Return None if too few of them are inside the image, or if the centre is not.

    lowest: row that is below the head's centre; the neck is then left out.
    """
    inside, rounds = _inside(points), 1 if lowest is None else ROUNDS
    for _ in range(rounds):
        used = inside if lowest is None else inside & (points[:, 1] < lowest)
        if used.sum() < FEWEST:
            return None
        centre, half_height = _ellipse(points[used] * pixel, aspect)
        if lowest is not None:
            lowest = (centre[1] + BELOW_CENTRE * half_height) / pixel[1]
    centre = centre / pixel
    return centre if (centre > 0).all() and (centre < SIDE).all() else None


def _evenly(outline: np.ndarray) -> np.ndarray:
    """Return points (Q, 2) about a pixel apart along a closed outline (P, 2)."""
    parts = []
    for start, end in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        count = max(1, int(np.hypot(*(end - start))))
        parts.append(start + (end - start) * np.arange(count)[:, None] / count)
    return np.concatenate(parts)


def _ellipse(points: np.ndarray, aspect: float) -> tuple[np.ndarray, float]:
    """Return centre (2,) and half height of the upright ellipse nearest to points (Q, 2).

    aspect: its height to its width. Least squares for x^2 + (y / aspect)^2 = a x + b y + c.
    """
    round_ = points / (1, aspect)  # a circle
    mean = round_.mean(axis=0)
    design = np.hstack([round_ - mean, np.ones((len(points), 1))])
    square = ((round_ - mean) ** 2).sum(axis=1)
    a, b, c = np.linalg.lstsq(design, square, rcond=None)[0]
    radius = np.sqrt(max(c + (a**2 + b**2) / 4, 0))
    centre = mean + np.array([a, b]) / 2
    return centre * (1, aspect), float(aspect * radius)
