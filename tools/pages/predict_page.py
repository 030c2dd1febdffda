"""The page of one predicted series, and the page that lists them all."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from src.artifacts.files import atomic
from src.dicom import Series
from src.evaluation.froc import HIT
from src.inference.ensemble import Prediction
from src.labels import LABELS, LOCATIONS, PRESENT
from src.preprocess.images import PreparedSeries
from tools.outputs.canvas import SHOWN
from tools.outputs.source import image_name
from tools.pages.render import render
from tools.pages.slice_viewer import curve_of, viewer_of

OPTIONS = {  # of tools/predict.py, as a page says them
    "both_steps": "neighbours at both steps",
    "mirror": "also the mirrored head",
    "onnx": "computed with ONNX",
    "calibrate": "calibrated",
}


@dataclass
class Page:
    """A row of the index."""

    name: str  # of its files
    series: str  # modality, plane, number and size of the slices
    probabilities: np.ndarray  # (14,)
    top: str  # most probable location and its probability
    where: str  # first finding
    calibrated: bool  # whether the probabilities are
    cautions: int = 0  # how many the page has
    made_by: str = ""  # which networks, and when

    @property
    def present(self) -> float:
        return float(self.probabilities[PRESENT])


def write_page(
    out: Path,
    name: str,
    prepared: PreparedSeries,
    prediction: Prediction,
    facts: dict,
    described: bool = False,
) -> Page:
    """Write {out}/{name}.html.

    facts: what the json file of the series holds.
    described: show the description that somebody typed.
    """
    series = prepared.series
    page = index_row(name, prepared, prediction, facts)
    findings = [
        (number, finding, image_name(series.slices[finding.slice]))
        for number, finding in enumerate(prediction.findings[:SHOWN], 1)
    ]
    content = render(
        "predict.html",
        title=f"Series {name}",
        series=f"{series.modality}, {series.plane}",
        size=size_text(series),
        description=series.slices[0].file.description if described else "",
        probabilities=[(LABELS[k], page.probabilities[k]) for k in (PRESENT, *range(PRESENT))],
        curve=curve_of(prediction),
        localised=prediction.heat is not None,
        calibrated=prediction.calibrated,
        hit=HIT,
        findings=findings,
        weaker=len(prediction.findings[SHOWN:]),
        viewer=viewer_of(prepared, prediction),
        facts=facts,
        networks=facts["networks"],
        made_by=networks_text(facts["networks"]),
        options=[said for option, said in OPTIONS.items() if facts["networks"].get(option)],
        versions=[f"{package} {version}" for package, version in facts["versions"].items()],
    )
    with atomic(out / f"{name}.html", sync=False) as file:
        file.write(content)
    return page


def write_index(out: Path, pages: list[Page], failed: list, studies: Sequence[dict] = ()) -> None:
    """Write {out}/index.html: the most suspicious series first, then studies, then what failed.

    studies: rows of studies.csv, shown if one has several series
    """
    pages = sorted(pages, key=lambda page: -page.present)
    calibrated = any(page.calibrated for page in pages)  # all, or none
    title = "Predicted series"
    makers = sorted({page.made_by for page in pages})
    shown = studies if any(study["series"] > 1 for study in studies) else ()
    content = render(
        "index.html",
        title=title,
        pages=pages,
        failed=failed,
        calibrated=calibrated,
        makers=makers,
        studies=shown,
        present=LABELS[PRESENT],
    )
    with atomic(out / "index.html", sync=False) as file:
        file.write(content)


def index_row(name: str, prepared: PreparedSeries, prediction: Prediction, facts: dict) -> Page:
    """Return what the index says of a series."""
    series = prepared.series
    count, height, width = series.shape
    kind = f"{series.modality}, {series.plane}, {count} slices of {height} rows, {width} columns"
    best = int(prediction.probabilities[:PRESENT].argmax())
    top = f"{LOCATIONS[best]} {prediction.probabilities[best]:.2f}"
    where = ""
    if prediction.findings:
        first = prediction.findings[0]
        image = image_name(series.slices[first.slice])
        where = f"{first.label}, {image}, slice {first.slice} ({first.probability:.2f})"
    calibrated = "series" in prediction.calibrated
    made_by = f"{networks_text(facts['networks'])}, on {facts['predicted']}"
    probabilities, cautions = prediction.probabilities, len(facts["cautions"])
    return Page(name, kind, probabilities, top, where, calibrated, cautions, made_by)


def networks_text(networks: dict) -> str:
    """Return encoder and folds of the networks. networks: as a source names them."""
    if "bundle" in networks:
        which = f"{', '.join(networks['networks'])} of the bundle {networks['bundle'][:12]}"
    elif networks["train_on_all"]:
        which = "trained on all series, nothing held out"
    else:
        folds = networks["folds"]
        which = f"fold{'s' * (len(folds) > 1)} {', '.join(map(str, folds))}"
    return f"{networks['encoder']}, {which}"


def size_text(series: Series) -> str:
    """Return numbers and distances of slices, rows and columns, in this order."""
    parts = []
    for count, what, apart in zip(
        series.shape, ("slices", "rows", "columns"), series.spacing, strict=True
    ):
        distance = "an unknown distance" if apart is None else f"{apart:.2f} mm"
        parts.append(f"{count} {what}, {distance} apart")
    return "; ".join(parts)
