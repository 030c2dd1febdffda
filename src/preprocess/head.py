"""Where the head is: its centre in the plane of the slices, found from the images alone.

The networks' view in millimetres is centred on it.

An ellipsoid of an adult head's size is fitted to the skin in all slices together: where the field
cuts the head off in the middle slices, the smaller outlines of the outer ones still show its ends.
"""

from collections.abc import Iterable

import cv2
import numpy as np

from src.sampling.slices import spacing_or_default
from src.sampling.view import extent_mm

SLICES = 32  # of a series that are looked at
SIDE = 96  # pixels: images are made this small first
SMOOTH = 3.0  # mm
CT_TISSUE = 0.12  # prepared intensity of CT, about 14 HU: brain and muscle are above
DARKER = 0.4  # of the middle intensity of bright MR tissue: what is darker is not skin
DARKEST = 0.15  # of the same, where the air is darker still: skin far from the coil
AIR = 3.0  # times the darkest of an MR series: above its noise
SMALLEST = 0.04  # of the image: what is smaller is no head
POINTS = 600  # of the skin that the ellipsoid is fitted to

# Adult heads with skin, in mm: half the breadth, length and height.
BREADTH, LENGTH, HEIGHT = 80.0, 100.0, 101.0
HALF_AXES = {  # along x, y and the slices' normal
    "axial": (BREADTH, LENGTH, HEIGHT),
    "coronal": (BREADTH, HEIGHT, LENGTH),
    "sagittal": (LENGTH, HEIGHT, BREADTH),
}
# What is expected before anything is seen, as standard deviations in mm.
HALF_AXIS_SD, HEIGHT_SD = 5.0, 3.0
FIELD_SD = (15.0, 20.0, 40.0)  # the field's centre is the head's
SKIN_SD = 3.0  # the skin from the ellipsoid; ears, noses and pillows are further
OUTLIER = 1.5  # standard deviations: from here on a point counts less
SEEN = 30  # independent points of the skin, as neighbours err alike
BELOW_CENTRE = 0.3  # of half the height: what is lower is face and neck
ROUNDS = 3  # of a fit, which finds where the face begins
OUTER = 0.2  # of the image: a head's centre so near an edge is an error


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
    small, positions, size = _small(images, numbers, metadata)
    return head_centre(small, positions, metadata["plane"], metadata["mod"], size)


def shows_head(images: Iterable[np.ndarray], numbers: np.ndarray, metadata: dict) -> bool:
    """Return whether anything in the images is as large as a head; arguments as of `find_head`."""
    small, positions, size = _small(images, numbers, metadata)
    return _skin(small, positions, metadata["mod"], np.array(size[::-1]) / SIDE) is not None


def _small(
    images: Iterable[np.ndarray], numbers: np.ndarray, metadata: dict
) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Return images (k, SIDE, SIDE), positions (k,) and height and width in mm."""
    between, row, column = spacing_or_default(
        (metadata["slice_spacing"], metadata["row_spacing"], metadata["column_spacing"])
    )
    positions = numbers * between
    if metadata["positions"] is not None:
        positions = np.array(metadata["positions"])[numbers]
    shape = (metadata["h"], metadata["w"])
    across, down = extent_mm(shape, (row, column), metadata["orientation"])
    return np.stack([shrunk(image) for image in images]), positions, (down, across)


def head_centre(
    images: np.ndarray,
    positions: np.ndarray,
    plane: str,
    modality: str,
    size: tuple[float, float],
) -> tuple[float, float] | None:
    """Return x and y of the head's centre as fractions of the image, or None.

    There is none without a head, or where all of the image is inside the head.

    images: (k, SIDE, SIDE) canonical prepared images, 0..5.
    positions: (k,) mm along the normal, ascending.
    plane: axial, coronal, sagittal or unknown.
    modality: CT or MR.
    size: height and width of the images in mm.
    """
    skin = _skin(images, positions, modality, np.array(size[::-1]) / SIDE)
    if skin is None:
        return None
    field = np.array([size[1] / 2, size[0] / 2, positions.mean()])
    centre = _ellipsoid_centre(skin, field, "axial" if plane == "unknown" else plane)
    x, y = (centre[:2] / size[::-1]).tolist()
    inside = OUTER < x < 1 - OUTER and OUTER < y < 1 - OUTER  # false for NaN, too
    return (x, y) if inside else None


def _skin(
    images: np.ndarray, positions: np.ndarray, modality: str, pixel: np.ndarray
) -> np.ndarray | None:
    """Return points (Q, 3) of the head's surface that are inside the images, in mm.

    Return None if there is no head.
    """
    sigma = SMOOTH / pixel
    smooth = [cv2.GaussianBlur(image, (0, 0), sigmaX=sigma[0], sigmaY=sigma[1]) for image in images]
    threshold = _threshold(np.stack(smooth), modality)
    outlines = [_outline(image > threshold) for image in smooth]
    surface, found = [np.zeros((0, 3))], False
    for outline, position in zip(outlines, positions, strict=True):
        if cv2.contourArea(outline) < SMALLEST * SIDE**2:
            continue
        found = True
        points = _evenly(outline)
        inside = points[((points > 1) & (points < SIDE - 2)).all(axis=1)]
        surface.append(np.column_stack([(inside + 0.5) * pixel, np.full(len(inside), position)]))
    return np.concatenate(surface) if found else None


def _threshold(smooth: np.ndarray, modality: str) -> float:
    """Return the intensity above which the images (k, SIDE, SIDE) show tissue."""
    bright = smooth[smooth > smooth.mean()]
    if modality == "CT" or not len(bright):
        return CT_TISSUE
    middle = np.median(bright)
    above_air = AIR * np.percentile(smooth, 1)
    return min(DARKER * middle, max(DARKEST * middle, above_air))


def _outline(mask: np.ndarray) -> np.ndarray:
    """Return the convex outline (P, 2) float32 of the largest thing in a mask, in pixels."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max(found, key=cv2.contourArea, default=np.zeros((1, 1, 2), np.int32))
    return cv2.convexHull(largest)[:, 0].astype(np.float32)


def _evenly(outline: np.ndarray) -> np.ndarray:
    """Return points (Q, 2) about a pixel apart along a closed outline (P, 2)."""
    parts = []
    for start, end in zip(outline, np.roll(outline, -1, axis=0), strict=True):
        count = max(1, int(np.hypot(*(end - start))))
        parts.append(start + (end - start) * np.arange(count)[:, None] / count)
    return np.concatenate(parts)


def _ellipsoid_centre(skin: np.ndarray, field: np.ndarray, plane: str) -> np.ndarray:
    """Return the centre (3,) of the most probable ellipsoid around points (Q, 3), in mm.

    field: (3,) the field's centre in mm.
    """
    from scipy.optimize import least_squares  # here, so that scripts start quickly

    expected = np.concatenate([field, HALF_AXES[plane]])
    up = 2 if plane == "axial" else 1  # the axis along the body
    down = -1 if plane == "axial" else 1  # towards the feet
    sd = np.array([*FIELD_SD, *[HALF_AXIS_SD] * 3])
    sd[3 + up] = HEIGHT_SD

    def deviations(state: np.ndarray, used: np.ndarray) -> np.ndarray:
        """Return how far all is from what is expected, in standard deviations."""
        radius = np.sqrt((((used - state[:3]) / state[3:]) ** 2).sum(axis=1))
        apart = (radius - 1) * state[3:].mean() / SKIN_SD
        weight = np.sqrt(min(1, SEEN / max(len(used), 1)))
        return np.concatenate([weight * _softened(apart), (state - expected) / sd])

    state = expected.copy()
    if len(skin):  # begin below the highest skin
        state[up] = down * (down * skin[:, up]).min() + down * expected[3 + up]
    for _ in range(ROUNDS):
        below = down * (skin[:, up] - state[up])
        used = skin[below < BELOW_CENTRE * state[3 + up]]
        used = used[:: 1 + len(used) // POINTS]
        state = least_squares(deviations, state, args=(used,), max_nfev=15).x
    return state[:3]


def _softened(deviations: np.ndarray) -> np.ndarray:
    """Return deviations of which the large ones are smaller: noses and pillows count less."""
    return OUTLIER * np.sqrt(2 * (np.hypot(1, deviations / OUTLIER) - 1))
