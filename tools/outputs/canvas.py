"""The picture of a slice for a secondary capture: true to scale, left is left, text burnt in."""

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from src.dicom import Series
from src.inference.ensemble import Prediction
from src.inference.findings import Finding
from src.labels import PRESENT
from src.orientation import canonical_point, canonical_shape, stored_point
from src.preprocess.images import PreparedSeries
from src.preprocess.intensity import TOP
from src.sampling.slices import original_point, resized_point
from src.sampling.view import extent_mm
from tools.outputs.source import NOTICE, image_name

SHOWN = 5  # findings
LONG_SIDE = 640  # pixels
FONT_SIZE = 20  # pixels
RING_MM = 8.0  # radius
RING, HEAT, LETTERS, RIM = (255, 70, 60), (255, 140, 0), (240, 240, 240), (20, 20, 20)  # RGB
OPACITY = 0.35  # of the heat where it is 1
EDGES = {  # letters at left, right, top and bottom of canonical images
    "axial": "RLAP",
    "coronal": "RLHF",
    "sagittal": "APHF",
}


@dataclass(frozen=True)
class Canvas:
    """The grid of pictures: the canonical image, its pixels square but for their rounding."""

    series: Series
    width: int  # pixels
    height: int
    pixel_mm: tuple[float, float]  # across and down

    def of_stored(self, x: float, y: float) -> tuple[float, float]:
        """Return where column x, row y of the stored image is in the picture."""
        _, height, width = self.series.shape
        tall, wide = canonical_shape(height, width, self.series.orientation)
        x, y = canonical_point(x, y, self.series.orientation, height, width)
        return resized_point(x, wide, self.width), resized_point(y, tall, self.height)

    def place(self, number: int, x: float, y: float) -> tuple[float, float, float] | None:
        """Return where a pixel is in the patient, on slice `number`: mm left, back and head."""
        _, height, width = self.series.shape
        tall, wide = canonical_shape(height, width, self.series.orientation)
        x, y = original_point(x, wide, self.width), original_point(y, tall, self.height)
        x, y = stored_point(x, y, self.series.orientation, height, width)
        return self.series.patient_point(number, x, y)


def canvas_of(series: Series, long_side: int = LONG_SIDE) -> Canvas:
    across, down = extent_mm(series.shape[1:], series.spacing[1:], series.orientation)
    pixel = max(across, down) / long_side
    width, height = max(1, round(across / pixel)), max(1, round(down / pixel))
    return Canvas(series, width, height, (float(across / width), float(down / height)))


def draw(
    canvas: Canvas, prepared: PreparedSeries, prediction: Prediction, number: int
) -> np.ndarray:
    """Return the picture (H, W, 3) uint8 RGB of a slice that the networks looked at."""
    image = prepared.images[np.searchsorted(prepared.numbers, number)]  # (S, S)
    grey = grey_picture(image, (canvas.width, canvas.height))
    picture = np.repeat(grey[..., None], 3, axis=2)  # (H, W, 3)
    if prediction.heat is not None:
        opacity = OPACITY * heat_on(canvas, len(image), prediction, number)[..., None]
        picture = picture * (1 - opacity) + np.array(HEAT) * opacity
    picture = np.ascontiguousarray(picture.round().astype(np.uint8))
    here = [
        (rank, finding)
        for rank, finding in enumerate(prediction.findings[:SHOWN], 1)
        if finding.slice == number
    ]
    for _, finding in here:
        _ring(canvas, picture, canvas.of_stored(finding.x, finding.y))
    return _with_texts(canvas, picture, here, image_name(canvas.series.slices[number]))


def grey_picture(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a prepared image (S, S) as (H, W) float32 in 0..255. size: W and H."""
    grey = cv2.resize(image.astype(np.float32) * (255 / TOP), size, interpolation=cv2.INTER_CUBIC)
    return grey.clip(0, 255)


def heat_on(canvas: Canvas, side: int, prediction: Prediction, number: int) -> np.ndarray:
    """Return the heat (H, W) in 0..1, times the slice's probability; 0 where nobody looked.

    side: S, pixels of the prepared image.
    """
    token = int(np.searchsorted(prediction.tokens, number))
    heat = prediction.heat[token].float().numpy()  # (h, w)
    size = np.array([canvas.width, canvas.height])
    corners = resized_point(np.array([[0.0, 0.0], [1.0, 1.0]]), size, side)  # of the first pixel
    corners = prediction.view.to_crop(corners)
    corners = resized_point(corners, prediction.view.crop, np.array(heat.shape[::-1]))
    (scale_x, scale_y), (x, y) = corners[1] - corners[0], corners[0]
    onto_heat = np.array([[scale_x, 0, x], [0, scale_y, y]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    shown = cv2.warpAffine(heat, onto_heat, (canvas.width, canvas.height), flags=flags)
    return (shown * prediction.slices[token, PRESENT]).clip(0, 1)


def ring_radius(canvas: Canvas) -> int:
    """Return the radius of a ring around a finding, in pixels."""
    return max(6, round(RING_MM / max(canvas.pixel_mm)))


def _ring(canvas: Canvas, picture: np.ndarray, centre: tuple[float, float]) -> None:
    at = [round(16 * value) for value in centre]  # in 16ths of a pixel
    cv2.circle(picture, at, 16 * ring_radius(canvas), RING, 2, cv2.LINE_AA, shift=4)


def _with_texts(
    canvas: Canvas, picture: np.ndarray, findings: list[tuple[int, Finding]], name: str
) -> np.ndarray:
    """Return the picture with notice, findings and their ranks, directions and the image's name."""
    height, width = picture.shape[:2]
    image = Image.fromarray(picture)
    lines = [f"{rank}: {finding.label} {finding.probability:.2f}" for rank, finding in findings]
    bottom = height - 6
    lines = [*(lines or ["no finding"]), name]
    _write(image, "\n".join(lines), (6, bottom), "ld", LETTERS)
    _write(image, NOTICE.upper(), (6, 6), "la", LETTERS)
    top, last = 6 + 1.5 * FONT_SIZE, bottom - 1.5 * FONT_SIZE * len(lines)
    middle = width / 2, height / 2
    places = (6, middle[1]), (width - 6, middle[1]), (middle[0], top), (middle[0], last)
    edges = EDGES.get(canvas.series.plane, "")
    for letter, place, anchor in zip(edges, places, ("lm", "rm", "ma", "md"), strict=False):
        _write(image, letter, place, anchor, LETTERS)
    for rank, finding in findings:
        x, y = canvas.of_stored(finding.x, finding.y)
        beside = ring_radius(canvas) * 0.75
        _write(image, str(rank), (min(x + beside, width - 6), max(y - beside, 6)), "ld", RING)
    return np.asarray(image)


def _write(
    image: Image.Image,
    text: str,
    place: tuple[float, float],
    anchor: str,
    colour: tuple[int, int, int],
) -> None:
    """Write text with a dark rim, no wider than the image. anchor: as Pillow names it."""
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(FONT_SIZE)
    wide = draw.multiline_textbbox((0, 0), text, font, "la" if "\n" in text else anchor)[2]
    if wide > image.width - 12:
        font = ImageFont.load_default(max(6, int(FONT_SIZE * (image.width - 12) / wide)))
    draw.text(place, text, colour, font, anchor, stroke_width=2, stroke_fill=RIM)
