"""The page of one predicted series, and the page that lists them all."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.artifacts.files import atomic
from src.inference.ensemble import Prediction, PreparedSeries
from src.labels import LABELS, LOCATIONS, PRESENT
from tools.pages.render import data_uri, render
from tools.pages.slice_picture import slice_picture

SHOWN_FINDINGS = 5
SHOWN_SLICES = 8


@dataclass
class Page:
    """A row of the index."""

    name: str  # of its files
    series: str  # modality, plane, number and size of the slices
    probabilities: np.ndarray  # (14,)
    top: str  # most probable location and its probability
    where: str  # first finding

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
        curve=dict(zip(prediction.tokens.tolist(), prediction.slices[:, PRESENT], strict=True)),
        ticks=sorted({round(prediction.tokens[-1] * k / 4) for k in range(5)}),
        localised=prediction.heat is not None,
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


def write_index(out: Path, pages: list[Page], failed: list) -> None:
    """Write {out}/index.html: the most suspicious series first, then what failed."""
    pages = sorted(pages, key=lambda page: -page.present)
    content = render("index.html", title="Predicted series", pages=pages, failed=failed)
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
    return Page(name, f"{kind}, {size}", prediction.probabilities, top, where)


def spacing_text(spacing: tuple[float | None, ...]) -> str:
    shown = ["?" if value is None else f"{value:.2f}" for value in spacing]
    return f"{shown[0]} mm between slices, pixels of {shown[1]} x {shown[2]} mm"


def highest_slices(prepared: PreparedSeries, prediction: Prediction) -> list[dict]:
    """Return in their order the slices with a finding and the most probable others."""
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
