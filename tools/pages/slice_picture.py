"""A picture of one slice with what the networks see on it."""

import cv2
import numpy as np

from src.dicom import Series
from src.inference.ensemble import Prediction, PreparedSeries
from src.inference.findings import Finding
from src.orientation import canonical_point, canonical_shape
from src.preprocess.intensity import TOP
from src.sampling.slices import crop_margin, resized_point

SIDE = 360  # pixels
HEAT, RING, LETTER = (0, 140, 255), (60, 80, 240), (235, 235, 235)  # blue, green, red
EDGES = {"axial": "RL", "coronal": "RL", "sagittal": "AP"}  # at left and right, canonical images


def slice_picture(
    prepared: PreparedSeries,
    prediction: Prediction,
    token: int,
    findings: list[tuple[int, Finding]],
) -> bytes:
    """Return a JPEG of a prepared slice: grey, the heat over it, a ring and a number a finding.

    token: index into prediction.tokens
    findings: those on this slice, with their numbers
    """
    slice_ = np.searchsorted(prepared.there, prediction.tokens[token])
    image = prepared.images[slice_].astype(np.float32) * (255 / TOP)  # (S, S)
    grey = cv2.resize(image.clip(0, 255), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    picture = np.repeat(grey.clip(0, 255)[..., None], 3, axis=2)  # (H, W, 3)
    if prediction.heat is not None:
        opacity = 0.6 * heat_of(prediction, token, len(image))[..., None]  # (H, W, 1)
        picture = picture * (1 - opacity) + np.array(HEAT) * opacity
    picture = np.ascontiguousarray(picture.round().astype(np.uint8))
    for number, finding in findings:
        x, y = prepared_point(prepared.series, finding, len(image))
        scale = SIDE / len(image)
        x, y = round((x + 0.5) * scale), round((y + 0.5) * scale)
        cv2.circle(picture, (x, y), 16, RING, 2, cv2.LINE_AA)
        write_on(picture, str(number), (x + 17, y - 10), RING)
    for letter, x in zip(EDGES.get(prepared.series.plane, ""), (6, SIDE - 18), strict=False):
        write_on(picture, letter, (x, SIDE // 2), LETTER)
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()


def heat_of(prediction: Prediction, token: int, size: int) -> np.ndarray:
    """Return the heat (SIDE, SIDE) in 0..1, 0 outside the crop of a prepared image of `size`."""
    crop, margin = prediction.crop, crop_margin(size, prediction.crop)
    seen = slice(margin, margin + crop)
    whole = np.zeros((size, size), np.float32)
    whole[seen, seen] = cv2.resize(prediction.heat[token].float().numpy(), (crop, crop))
    return cv2.resize(whole, (SIDE, SIDE)).clip(0, 1)


def prepared_point(series: Series, finding: Finding, size: int) -> tuple[float, float]:
    """Return x, y of a finding in pixels of the prepared image of `size`."""
    _, height, width = series.shape
    x, y = canonical_point(finding.x, finding.y, series.orientation, height, width)
    tall, wide = canonical_shape(height, width, series.orientation)
    return resized_point(x, wide, size), resized_point(y, tall, size)


def write_on(
    picture: np.ndarray, text: str, place: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    """Write text with a dark rim, legible on anything."""
    for shade, thickness in (((20, 20, 20), 4), (colour, 1)):
        cv2.putText(
            picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.55, shade, thickness, cv2.LINE_AA
        )
