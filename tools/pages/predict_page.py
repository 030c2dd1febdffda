"""The page of one predicted series, and the page that lists them all."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from src.artifacts.files import atomic
from src.dicom import Series
from src.evaluation.froc import HIT
from src.inference.ensemble import Prediction
from src.inference.findings import Finding
from src.labels import LABELS, LOCATIONS, PRESENT
from src.orientation import canonical_point, canonical_shape
from src.preprocess.images import PreparedSeries
from src.preprocess.intensity import TOP
from src.sampling.resample import seen_volume
from src.sampling.slices import crop_margin, resized_point
from tools.pages.render import data_uri, render

SHOWN_FINDINGS = 5
SHOWN_SLICES = 8
SIDE = 360  # pixels of a slice on the page
HEAT, RING, LETTER = (0, 140, 255), (60, 80, 240), (235, 235, 235)  # blue, green, red
EDGES = {"axial": "RL", "coronal": "RL", "sagittal": "AP"}  # at left and right, canonical images


@dataclass
class Page:
    """A row of the index."""

    name: str  # of its files
    series: str  # modality, plane, number and size of the slices
    probabilities: np.ndarray  # (14,)
    top: str  # most probable location and its probability
    where: str  # first finding
    calibrated: bool  # whether the probabilities are

    @property
    def present(self) -> float:
        return float(self.probabilities[PRESENT])


def write_page(
    out: Path, name: str, prepared: PreparedSeries, prediction: Prediction, described: bool = False
) -> Page:
    """Write {out}/{name}.html. described: show the description that somebody typed."""
    series = prepared.series
    page = index_row(name, prepared, prediction)
    content = render(
        "predict.html",
        title=f"Series {name}",
        series=page.series,
        spacing=spacing_text(series.spacing),
        description=series.slices[0].file.description if described else "",
        probabilities=[(LABELS[k], page.probabilities[k]) for k in (PRESENT, *range(PRESENT))],
        curve=curve_of(prediction),
        ticks=sorted({round(prediction.tokens[-1] * k / 4) for k in range(5)}),
        localised=prediction.heat is not None,
        calibrated=prediction.calibrated,
        hit=HIT,
        findings=prediction.findings[:SHOWN_FINDINGS],
        weaker=len(prediction.findings[SHOWN_FINDINGS:]),
        slices=highest_slices(prepared, prediction),
        warnings=series.warnings,
        # Reasons only: a file's name may hold a patient's.
        dropped=Counter(reason for _, reason in series.dropped),
    )
    with atomic(out / f"{name}.html", sync=False) as file:
        file.write(content)
    return page


def curve_of(prediction: Prediction) -> dict[int, float]:
    """Return the probability of an aneurysm by slice; empty if it is unknown."""
    if prediction.slices is None:
        return {}
    return dict(zip(prediction.tokens.tolist(), prediction.slices[:, PRESENT], strict=True))


def write_index(out: Path, pages: list[Page], failed: list, studies: Sequence[dict] = ()) -> None:
    """Write {out}/index.html: the most suspicious series first, then studies, then what failed.

    studies: rows of studies.csv, shown if one has several series
    """
    pages = sorted(pages, key=lambda page: -page.present)
    calibrated = any(page.calibrated for page in pages)  # all, or none
    title = "Predicted series"
    shown = studies if any(study["series"] > 1 for study in studies) else ()
    content = render(
        "index.html",
        title=title,
        pages=pages,
        failed=failed,
        calibrated=calibrated,
        studies=shown,
        present=LABELS[PRESENT],
    )
    with atomic(out / "index.html", sync=False) as file:
        file.write(content)


def index_row(name: str, prepared: PreparedSeries, prediction: Prediction) -> Page:
    """Return what the index says of a series."""
    count, height, width = prepared.series.shape
    kind = f"{prepared.series.modality}, {prepared.series.plane}"
    size = f"{count} slices of {width} x {height} pixels"
    best = int(prediction.probabilities[:PRESENT].argmax())
    top = f"{LOCATIONS[best]} {prediction.probabilities[best]:.2f}"
    where = ""
    if prediction.findings:
        first = prediction.findings[0]
        place = f"slice {first.slice}, x {first.x:.0f}, y {first.y:.0f}"
        where = f"{first.label}, {place} ({first.probability:.2f})"
    calibrated = "series" in prediction.calibrated
    return Page(name, f"{kind}, {size}", prediction.probabilities, top, where, calibrated)


def spacing_text(spacing: tuple[float | None, ...]) -> str:
    shown = ["?" if value is None else f"{value:.2f}" for value in spacing]
    return f"{shown[0]} mm between slices, pixels of {shown[1]} x {shown[2]} mm"


def highest_slices(prepared: PreparedSeries, prediction: Prediction) -> list[dict]:
    """Return in their order the slices with a finding and the most probable others.

    None of them if the probabilities of slices are unknown.
    """
    if prediction.slices is None:
        return []
    findings = list(enumerate(prediction.findings[:SHOWN_FINDINGS], 1))
    chosen = {int(np.searchsorted(prediction.tokens, finding.slice)) for _, finding in findings}
    present = prediction.slices[:, PRESENT]
    others = [k for k in np.argsort(-present, kind="stable").tolist() if k not in chosen]
    chosen.update(others[: max(0, SHOWN_SLICES - len(findings))])
    shown = []
    for token in sorted(chosen):
        number = int(prediction.tokens[token])
        here = [(place, finding) for place, finding in findings if finding.slice == number]
        picture = data_uri(slice_picture(prepared, prediction, token, here), "jpeg")
        content = {"number": number, "present": present[token], "picture": picture}
        shown.append(content | {"findings": here})
    return shown


def slice_picture(
    prepared: PreparedSeries,
    prediction: Prediction,
    token: int,
    findings: list[tuple[int, Finding]],
) -> bytes:
    """Return a JPEG of a slice: grey, the heat over it, a ring and a number a finding.

    It is the prepared image; with a view in mm the virtual one, whose centre the networks saw.

    token: index into prediction.tokens
    findings: those on this slice, with their numbers
    """
    slice_ = np.searchsorted(prepared.numbers, prediction.tokens[token])
    whole = prediction.view.whole
    stack = torch.from_numpy(prepared.images[slice_ : slice_ + 1])  # (1, S, S)
    image = seen_volume(stack, whole, stack.device)[0].numpy()  # (S, S)
    image = image.astype(np.float32) * (255 / TOP)
    grey = cv2.resize(image.clip(0, 255), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    picture = np.repeat(grey.clip(0, 255)[..., None], 3, axis=2)  # (H, W, 3)
    if prediction.heat is not None:
        opacity = 0.6 * heat_of(prediction, token)[..., None]  # (H, W, 1)
        picture = picture * (1 - opacity) + np.array(HEAT) * opacity
    picture = np.ascontiguousarray(picture.round().astype(np.uint8))
    for number, finding in findings:
        x, y = whole.to_crop(prepared_point(prepared.series, finding, len(image)))
        scale = SIDE / len(image)
        x, y = round((x + 0.5) * scale), round((y + 0.5) * scale)
        cv2.circle(picture, (x, y), 16, RING, 2, cv2.LINE_AA)
        write_on(picture, str(number), (x + 17, y - 10), RING)
    for letter, x in zip(EDGES.get(prepared.series.plane, ""), (6, SIDE - 18), strict=False):
        write_on(picture, letter, (x, SIDE // 2), LETTER)
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()


def heat_of(prediction: Prediction, token: int) -> np.ndarray:
    """Return the heat (SIDE, SIDE) in 0..1, 0 outside the crop of the virtual image."""
    view = prediction.view
    margin = crop_margin(view.size, view.crop)
    seen = slice(margin, margin + view.crop)
    whole = np.zeros((view.size, view.size), np.float32)
    heat = prediction.heat[token].float().numpy()
    whole[seen, seen] = cv2.resize(heat, (view.crop, view.crop))
    return cv2.resize(whole, (SIDE, SIDE)).clip(0, 1)


def prepared_point(series: Series, finding: Finding, size: int) -> np.ndarray:
    """Return x, y (2,) of a finding in pixels of the prepared image of `size`."""
    _, height, width = series.shape
    x, y = canonical_point(finding.x, finding.y, series.orientation, height, width)
    tall, wide = canonical_shape(height, width, series.orientation)
    return np.array([resized_point(x, wide, size), resized_point(y, tall, size)])


def write_on(
    picture: np.ndarray, text: str, place: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    """Write text with a dark rim, legible on anything."""
    for shade, thickness in (((20, 20, 20), 4), (colour, 1)):
        cv2.putText(
            picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.55, shade, thickness, cv2.LINE_AA
        )
