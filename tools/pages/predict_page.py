"""A self-contained page of one predicted series, and the page that lists them. No script, no font, no picture from outside."""

from base64 import b64encode
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

import cv2
import numpy as np

from src.artifacts.files import atomic
from src.dicom import Series
from src.inference.ensemble import Prediction, PreparedSeries
from src.inference.findings import Finding
from src.labels import LABELS, LOCATIONS, PRESENT
from src.orientation import canonical_point
from src.preprocess.intensity import TOP
from src.sampling.slices import crop_margin, resized_point

SHOWN_FINDINGS = 5
SHOWN_SLICES = 8
PICTURE = 360  # pixels, side of a slice on the page
EDGES = {
    "axial": ("R", "L"),
    "coronal": ("R", "L"),
    "sagittal": ("A", "P"),
}  # what lies at the left and right edge of a canonical image
SAFE = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { --ink: #1c2430; --soft: #5b6675; --line: #dfe4ea; --blue: #2f6db5; --red: #c8452f; --paper: #fff; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f6f8; color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 24px 16px 48px; }
h1 { font-size: 21px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 16px; margin: 0 0 12px; }
p { margin: 0 0 10px; }
a { color: var(--blue); }
.soft { color: var(--soft); }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 18px; margin-top: 16px; }
.two { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 16px; }
.bar { display: grid; grid-template-columns: minmax(0, 21em) minmax(60px, 1fr) 3.2em; gap: 10px; align-items: center; margin: 3px 0; font-size: 14px; }
.bar b { font-weight: 600; }
.track { background: #edf0f4; border-radius: 4px; height: 12px; }
.fill { background: var(--blue); border-radius: 4px; height: 12px; min-width: 1px; }
.present .fill { background: var(--red); }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: 6px 12px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; white-space: nowrap; }
th { color: var(--soft); font-weight: 500; }
td.wide { white-space: normal; overflow-wrap: anywhere; min-width: 14em; }
.slices { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: 12px; }
figure { margin: 0; }
figure img { width: 100%; display: block; border-radius: 6px; background: #000; }
figcaption { font-size: 13px; color: var(--soft); margin-top: 4px; }
svg { width: 100%; height: auto; display: block; }
@media (max-width: 800px) {
  .two { grid-template-columns: minmax(0, 1fr); }
  .bar { grid-template-columns: minmax(0, 11em) minmax(40px, 1fr) 3em; font-size: 13px; }
  .slices { grid-template-columns: repeat(2, minmax(0, 1fr)); }
}
@media (max-width: 500px) {
  .bar { grid-template-columns: minmax(40px, 1fr) 3em; row-gap: 0; margin: 7px 0; }
  .bar span:first-child { grid-column: 1 / -1; }
}
"""


@dataclass
class Page:
    """A line of the index."""

    name: str  # of its files
    series: str  # modality, plane, slices
    probabilities: np.ndarray  # (14,)
    top: str  # location and its probability
    where: str  # of the first finding


def write_page(
    out: Path, name: str, prepared: PreparedSeries, prediction: Prediction, described: bool = False
) -> Page:
    """The page of a series, {out}/{name}.html. described: with the description that somebody gave it."""
    series = prepared.series
    facts = f"{series.modality}, {series.plane}, {len(series.slices)} slices of {series.shape[2]} x {series.shape[1]} pixels"
    description = series.slices[0].file.description if described else ""
    parts = [
        f"<h1>Series {escape(name)}</h1>",
        f'<p class="soft">{escape(description + ". " if description else "")}{escape(facts)}; {escape(spacing_text(series.spacing))}. '
        '<a href="index.html">All series</a></p>',
        '<p class="soft">For research. Not a medical device; it must not be used to diagnose.</p>',
        f'<div class="two"><section class="card"><h2>Probabilities of the series</h2>{bars(prediction.probabilities)}</section>',
        f'<section class="card"><h2>Along the slices</h2>{curve(prediction)}'
        '<p class="soft">Probability of an aneurysm on each slice by the 2.5D CNN alone, in order along the slice normal; '
        "numbers mark the findings.</p></section></div>",
        f'<section class="card"><h2>Findings</h2>{findings_table(prediction)}</section>',
        f'<section class="card"><h2>Highest slices</h2>{montage(prepared, prediction)}</section>',
        f'<section class="card"><h2>The series</h2>{notes(series)}</section>',
    ]
    write_html(out / f"{name}.html", f"Series {name}", parts)
    best = int(prediction.probabilities[:PRESENT].argmax())
    first = prediction.findings[0] if prediction.findings else None
    where = (
        ""
        if first is None
        else f"{first.label}, slice {first.slice}, x {first.x:.0f}, y {first.y:.0f} ({first.probability:.2f})"
    )
    return Page(
        name,
        facts,
        prediction.probabilities,
        f"{LOCATIONS[best]} {prediction.probabilities[best]:.2f}",
        where,
    )


def write_index(out: Path, pages: list[Page], failed: list) -> None:
    """{out}/index.html: all series, the most suspicious first."""
    rows = [
        (
            f'<a href="{escape(page.name)}.html">{escape(page.name)}</a>',
            escape(page.series),
            f"{page.probabilities[PRESENT]:.3f}",
            escape(page.top),
            escape(page.where),
        )
        for page in sorted(pages, key=lambda page: -page.probabilities[PRESENT])
    ]
    parts = [
        "<h1>Predicted series</h1>",
        '<p class="soft">For research. Not a medical device; it must not be used to diagnose.</p>',
        f'<section class="card">{table(("series", "what", "aneurysm present", "most probable location", "first finding"), rows, wide=(0, 1, 3, 4))}</section>',
    ]
    if failed:
        lost = [tuple(map(escape, (one.name, one.reason))) for one in failed]
        parts.append(
            f'<section class="card"><h2>Could not be read</h2>{table(("series or folder", "reason"), lost, wide=(0,))}</section>'
        )
    write_html(out / "index.html", "Predicted series", parts)


def write_html(path: Path, title: str, parts: list[str]) -> None:
    safe = f'<meta http-equiv="Content-Security-Policy" content="{SAFE}">'
    head = f'<meta charset="utf-8">{safe}<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
    page = f'<!doctype html><html lang="en"><head>{head}<style>{STYLE}</style></head><body><main>{"".join(parts)}</main></body></html>\n'
    with atomic(path, sync=False) as file:
        file.write(page.encode("utf-8", "backslashreplace"))


def bars(probabilities: np.ndarray) -> str:
    """A bar for each label, presence first."""
    rows = []
    for label in (PRESENT, *range(PRESENT)):
        name = f"<b>{LABELS[label]}</b>" if label == PRESENT else LABELS[label]
        fill = f'<div class="track"><div class="fill" style="width:{100 * probabilities[label]:.1f}%"></div></div>'
        rows.append(
            f'<div class="bar{" present" * (label == PRESENT)}"><span>{name}</span>{fill}<span class="number">{probabilities[label]:.3f}</span></div>'
        )
    return "".join(rows)


def curve(prediction: Prediction) -> str:
    """Presence by slice as a line, with the findings marked."""
    width, height, left, bottom, top = 560, 300, 40, 34, 16
    tokens, present = prediction.tokens, prediction.slices[:, PRESENT]
    last = max(int(tokens[-1]), 1)

    def place(token: float, value: float) -> tuple[float, float]:
        return left + (width - left - 10) * token / last, height - bottom - (
            height - bottom - top
        ) * value

    def text(
        x: float, y: float, words: object, anchor: str = "middle", colour: str = "#5b6675"
    ) -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="12" fill="{colour}">{words}</text>'

    grid = ""
    for value in (0, 0.25, 0.5, 0.75, 1):
        y = place(0, value)[1]
        grid += (
            f'<line x1="{left}" x2="{width - 10}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dfe4ea"/>'
            + text(left - 6, y + 4, f"{value:g}", "end")
        )
    grid += "".join(
        text(place(token, 0)[0], height - 14, token)
        for token in sorted({round(last * k / 4) for k in range(5)})
    )
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, tokens.tolist(), present.tolist()))
    marks = ""
    for number, finding in enumerate(prediction.findings[:SHOWN_FINDINGS], 1):
        x, y = place(finding.slice, float(present[np.searchsorted(tokens, finding.slice)]))
        marks += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9" fill="#c8452f"/>' + text(
            x, y + 4, number, colour="#fff"
        )
    line = f'<polyline points="{line}" fill="none" stroke="#2f6db5" stroke-width="2" stroke-linejoin="round"/>'
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Probability of an aneurysm by slice">{grid}{line}{marks}</svg>'


def findings_table(prediction: Prediction) -> str:
    if prediction.heat is None:
        return "<p>Not available: this encoder has neither a heatmap nor class activation maps.</p>"
    if not prediction.findings:
        return "<p>None.</p>"
    rows = []
    for number, one in enumerate(prediction.findings[:SHOWN_FINDINGS], 1):
        patient = (
            ""
            if one.patient is None
            else ", ".join(f"{value + 0.0:.1f}" for value in np.round(one.patient, 1))
        )
        frame = "" if one.frame < 0 else f", frame {one.frame}"
        rows.append(
            (
                str(number),
                one.label,
                f"{one.probability:.3f}",
                f"{one.slice}{frame}",
                f"{one.x:.1f}, {one.y:.1f}",
                patient,
                escape(one.sop_uid),
            )
        )
    heads = (
        "",
        "location",
        "probability",
        "slice",
        "x, y in the stored image",
        "left, back, head in mm",
        "SOP Instance UID",
    )
    more = len(prediction.findings) - SHOWN_FINDINGS
    return table(heads, rows, wide=(6,)) + (
        f'<p class="soft">{more} weaker ones stand in the json.</p>' if more > 0 else ""
    )


def montage(prepared: PreparedSeries, prediction: Prediction) -> str:
    """The slices with the highest probability in their order, each finding's slice among them, the heat laid over."""
    findings = prediction.findings[:SHOWN_FINDINGS]
    chosen = [int(np.searchsorted(prediction.tokens, one.slice)) for one in findings]
    for token in np.argsort(-prediction.slices[:, PRESENT], kind="stable").tolist():
        if token not in chosen and len(chosen) < SHOWN_SLICES:
            chosen.append(token)
    figures = []
    for token in sorted(set(chosen)):
        slice_ = int(prediction.tokens[token])
        here = [(number, one) for number, one in enumerate(findings, 1) if one.slice == slice_]
        picture = b64encode(slice_picture(prepared, prediction, token, here)).decode()
        caption = f"slice {slice_}, {prediction.slices[token, PRESENT]:.2f}" + "".join(
            f"; {number}: {one.label}" for number, one in here
        )
        figures.append(
            f'<figure><img alt="slice {slice_}" src="data:image/jpeg;base64,{picture}"><figcaption>{caption}</figcaption></figure>'
        )
    return f'<div class="slices">{"".join(figures)}</div>'


def slice_picture(
    prepared: PreparedSeries,
    prediction: Prediction,
    token: int,
    findings: list[tuple[int, Finding]],
) -> bytes:
    """A JPEG of one prepared slice: grey, the heat in orange over it, a ring around each finding, which side is which at the edges."""
    series, image = (
        prepared.series,
        prepared.images[np.searchsorted(prepared.numbers, prediction.tokens[token])],
    )
    size, scale = len(image), PICTURE / len(image)
    grey = cv2.resize(
        np.clip(image.astype(np.float32) * (255 / TOP), 0, 255),
        (PICTURE, PICTURE),
        interpolation=cv2.INTER_CUBIC,
    ).clip(0, 255)
    picture = np.repeat(grey[..., None], 3, axis=2)  # (H, W, blue green red)
    if prediction.heat is not None:
        whole, seen = np.zeros((size, size), np.float32), crop_box(size, prediction.crop)
        whole[seen, seen] = cv2.resize(
            prediction.heat[token].float().numpy(),
            (prediction.crop, prediction.crop),
            interpolation=cv2.INTER_LINEAR,
        )
        share = 0.6 * cv2.resize(whole, (PICTURE, PICTURE))[..., None].clip(0, 1)
        picture = picture * (1 - share) + np.array([0, 140, 255]) * share
    picture = np.ascontiguousarray(picture.round().astype(np.uint8))
    for number, one in findings:
        x, y = prepared_place(series, one, size)
        centre = (round((x + 0.5) * scale), round((y + 0.5) * scale))
        cv2.circle(picture, centre, 16, (60, 80, 240), 2, cv2.LINE_AA)
        write_on(picture, str(number), (centre[0] + 17, centre[1] - 10), (60, 80, 240))
    for text, x in zip(EDGES.get(series.plane, ("", "")), (6, PICTURE - 18), strict=True):
        write_on(picture, text, (x, PICTURE // 2), (235, 235, 235))
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()


def write_on(
    picture: np.ndarray, text: str, place: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    """Text with a dark rim, legible on anything."""
    for shade, thickness in (((20, 20, 20), 4), (colour, 1)):
        cv2.putText(
            picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.55, shade, thickness, cv2.LINE_AA
        )


def crop_box(size: int, crop: int) -> slice:
    """Rows, or columns, of the prepared image that the network saw."""
    margin = crop_margin(size, crop)
    return slice(margin, margin + crop)


def prepared_place(series: Series, finding: Finding, size: int) -> tuple[float, float]:
    """A finding's x, y in pixels of the prepared image."""
    _, height, width = series.shape
    tall, wide = (width, height) if "T" in series.orientation else (height, width)
    x, y = canonical_point(finding.x, finding.y, series.orientation, height, width)
    return resized_point(x, wide, size), resized_point(y, tall, size)


def table(heads: Iterable[str], rows: list[tuple[str, ...]], wide: tuple[int, ...] = ()) -> str:
    """Cells are html already; columns `wide` may break their lines."""
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=wide' * (k in wide)}>{cell}</td>" for k, cell in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def spacing_text(spacing: tuple[float | None, ...]) -> str:
    shown = ["?" if value is None else f"{value:.2f}" for value in spacing]
    return f"{shown[0]} mm between slices, pixels of {shown[1]} x {shown[2]} mm"


def notes(series: Series) -> str:
    """What was left out and what is doubtful."""
    doubts = "".join(f"<li>{escape(warning)}</li>" for warning in series.warnings)
    parts = [f"<ul>{doubts}</ul>" if doubts else "<p>Nothing doubtful.</p>"]
    lost = Counter(
        reason for _, reason in series.dropped
    )  # without their names, which somebody may have made of a patient's
    listed = ", ".join(f"{count} ({escape(reason)})" for reason, count in lost.items())
    return "".join([*parts, f"<p>Files or slices that were left out: {listed or 'none'}.</p>"])
