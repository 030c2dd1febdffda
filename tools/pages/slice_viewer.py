"""What the page of a series shows of its slices: pictures to scroll through, and the curve.

Marks are drawn as SVG over the pictures, so that they can be hidden, and stay sharp when enlarged.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from src.inference.ensemble import Prediction
from src.labels import PRESENT
from src.preprocess.images import PreparedSeries
from src.sampling.slices import resized_point
from tools.outputs.canvas import (
    EDGES,
    HEAT,
    SHOWN,
    Canvas,
    canvas_of,
    grey_picture,
    ring_radius,
)
from tools.outputs.source import image_name
from tools.pages.render import data_uri

MOST_SLICES = 400  # on a page, beside those with a finding
LONG_SIDE = 512  # units of a picture's longer side
FEWEST_PIXELS, MOST_PIXELS = 256, 512  # of it; between them as many as the networks read
QUALITY = 80  # of JPEG
OPACITY, FAINTEST = 0.75, 0.02  # of the heat where it is 1; heat below it is left out
LETTER = 22  # units, about the height of a number beside a ring

LEFT, WIDTH, TOP, HEIGHT = 40, 510, 16, 250  # of the curve in its drawing
MARK = 23  # between the centres of marks on the curve


@dataclass
class Mark:
    """A numbered mark: where it points to, and where its number is."""

    number: int
    x: float
    y: float
    text_x: float
    text_y: float


def spread(points: Iterable[tuple[float, float]], apart: float, middle: float) -> list[tuple]:
    """Return the points (x, y), moved up or down until none is nearer than `apart` to another.

    middle: y at which the direction changes: all move towards it.
    """
    placed: list[tuple[float, float]] = []
    for x, y in points:
        step = apart if y < middle else -apart
        while any(np.hypot(x - other_x, y - other_y) < apart for other_x, other_y in placed):
            y += step
        placed.append((x, y))
    return placed


def marks_of(
    numbered: list[tuple[int, tuple[float, float]]],
    offset: tuple[float, float],
    apart: float,
    middle: float,
) -> list[Mark]:
    """Return a mark for each (number, place); its text is at the offset, or where there is room."""
    beside = [(x + offset[0], y + offset[1]) for _, (x, y) in numbered]
    texts = spread(beside, apart, middle)
    return [Mark(n, *at, *text) for (n, at), text in zip(numbered, texts, strict=True)]


def curve_of(prediction: Prediction) -> dict | None:
    """Return the drawing of the probability of an aneurysm by slice; None if it is unknown."""
    if prediction.slices is None:
        return None
    present = prediction.slices[:, PRESENT]
    last = int(prediction.tokens[-1])
    values = dict(zip(prediction.tokens.tolist(), present.tolist(), strict=True))
    numbered = []
    for number, finding in enumerate(prediction.findings[:SHOWN], 1):
        numbered.append((number, (curve_x(finding.slice, last), curve_y(values[finding.slice]))))
    points = [
        f"{curve_x(slice_, last):.1f},{curve_y(value):.1f}" for slice_, value in values.items()
    ]
    ticks = sorted({round(last * k / 4) for k in range(5)})
    return {
        "points": " ".join(points),
        "levels": [(value, curve_y(value)) for value in (0, 0.25, 0.5, 0.75, 1)],
        "ticks": [(tick, curve_x(tick, last)) for tick in ticks],
        "marks": marks_of(numbered, (0, 0), MARK, TOP + HEIGHT / 2),
    }


def curve_x(slice_: int, last: int) -> float:
    return LEFT + WIDTH * slice_ / max(last, 1)


def curve_y(value: float) -> float:
    return TOP + HEIGHT * (1 - value)


def shown_tokens(prediction: Prediction) -> list[int]:
    """Return which tokens are shown: every n-th, and those with a finding."""
    count = len(prediction.tokens)
    stride = -(-count // MOST_SLICES)
    slices = [finding.slice for finding in prediction.findings[:SHOWN]]
    with_finding = np.searchsorted(prediction.tokens, slices)
    return sorted({*range(0, count, stride), *with_finding.tolist()})


def viewer_of(prepared: PreparedSeries, prediction: Prediction) -> dict:
    """Return what the template needs of the pictures, those of `shown_tokens` in their order."""
    series, side = prepared.series, prepared.images.shape[-1]
    canvas = canvas_of(series, LONG_SIDE)
    scale = min(max(side, FEWEST_PIXELS), MOST_PIXELS) / LONG_SIDE
    size = max(1, round(canvas.width * scale)), max(1, round(canvas.height * scale))
    numbered = list(enumerate(prediction.findings[:SHOWN], 1))
    radius, last = ring_radius(canvas), int(prediction.tokens[-1])
    slices = []
    for token in shown_tokens(prediction):
        number = int(prediction.tokens[token])
        image = prepared.images[np.searchsorted(prepared.numbers, number)]
        here = [(rank, finding) for rank, finding in numbered if finding.slice == number]
        places = [(rank, middle_of(canvas.of_stored(f.x, f.y))) for rank, f in here]
        beside = (radius + LETTER / 2, -radius)
        slices.append(
            {
                "number": number,
                "image": image_name(series.slices[number]),
                "present": None if prediction.slices is None else prediction.slices[token, PRESENT],
                "picture": data_uri(jpeg(grey_picture(image, size)), "jpeg"),
                "heat": heat_picture(prediction, token),
                "marks": marks_of(places, beside, LETTER, canvas.height / 2),
                "findings": here,
                "x": curve_x(number, last),
            }
        )
    return {
        "slices": slices,
        "first": first_shown(prediction),
        "width": canvas.width,
        "height": canvas.height,
        "radius": radius,
        "edges": edges_of(canvas),
        "seen": seen_box(prediction, side, np.array([canvas.width, canvas.height])),
        "of": len(series.slices),
        "read": len(prediction.tokens),
    }


def edges_of(canvas: Canvas) -> list[tuple[str, float, float]]:
    """Return the letters of the patient's directions and where they are."""
    width, height = canvas.width, canvas.height
    across, down = width / 2, height / 2
    places = (LETTER, down), (width - LETTER, down), (across, LETTER), (across, height - LETTER)
    letters = EDGES.get(canvas.series.plane, "")
    return [(letter, *place) for letter, place in zip(letters, places, strict=False)]


def first_shown(prediction: Prediction) -> int:
    """Return the number of the slice to begin with: the first finding's, or the most probable."""
    if prediction.findings:
        return prediction.findings[0].slice
    shown = np.array(shown_tokens(prediction))
    if prediction.slices is None:
        return int(prediction.tokens[shown[len(shown) // 2]])
    return int(prediction.tokens[shown[prediction.slices[shown, PRESENT].argmax()]])


def middle_of(place: tuple[float, float]) -> tuple[float, float]:
    """Return a place in SVG, where the first pixel's centre is at 0.5, 0.5."""
    x, y = place
    return float(x) + 0.5, float(y) + 0.5


def seen_box(prediction: Prediction, side: int, size: np.ndarray) -> list[float]:
    """Return x, y, width and height, in the picture, of what the networks saw."""
    view = prediction.view
    ends = view.to_image(np.array([[-0.5, -0.5], [view.crop - 0.5, view.crop - 0.5]]))
    first, last = resized_point(ends, side, size) + 0.5
    return [*first.tolist(), *(last - first).tolist()]


def jpeg(grey: np.ndarray) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    return cv2.imencode(".jpg", grey.round().astype(np.uint8), options)[1].tobytes()


def heat_picture(prediction: Prediction, token: int) -> str | None:
    """Return the heat times the slice's probability as a PNG; None if there is none to see.

    Its opacity is the square root, so that weak heat can be seen on dark ground, too.
    """
    if prediction.heat is None:
        return None
    heat = prediction.heat[token].float().numpy() * prediction.slices[token, PRESENT]
    if heat.max() < FAINTEST:
        return None
    picture = np.empty((*heat.shape, 4), np.uint8)
    picture[..., :3] = HEAT[::-1]  # blue, green, red
    opacity = OPACITY * np.sqrt(np.where(heat < FAINTEST, 0, heat).clip(0, 1))
    picture[..., 3] = (opacity * 63).round() * 4  # few levels: a small file
    return data_uri(cv2.imencode(".png", picture)[1].tobytes(), "png")
