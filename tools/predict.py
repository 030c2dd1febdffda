"""Run trained networks on any DICOM: a series, a study, nested or mixed folders.

    python tools/predict.py a/folder/of/dicom --out predictions
    python tools/predict.py study1 study2 --out predictions --folds 0 1 2 3 4 --mirror
    python tools/predict.py study1 --out predictions --bundle aneurysms.zip

Reads   the folders
        model/{encoder}/fold-{k}/weights_inference.pth (train_stage2.py), or a bundle
        (tools/export_bundle.py), which needs neither data/ nor model/

Writes  {out}/index.html            all series, with links
        {out}/{uid}.html            a page for each: probabilities, curve over the slices,
                                    findings on their images; it needs no network
        {out}/{uid}.json            the same in numbers, with what was left out of the series
        {out}/predictions.csv       SeriesInstanceUID and the 14 probabilities
        {out}/failed_series.csv     what could not be read or written, and why
        with --output, for each series (docs/predict.md):
        {out}/{uid}.mrk.json        slicer: findings as points, for 3D Slicer
        {out}/{uid}.nii.gz          nifti: the heat in patient space
        {out}/{uid}.sr.dcm          sr: findings as a DICOM structured report
        {out}/{uid}.capture-1.dcm   capture: slices with findings as DICOM pictures

Patient name, ID and birth date are never written, but for sr and capture, which a PACS files by
what the source says of patient and study. Pages and json hold no names of files, and of
folders only those in which nothing could be read; failed_series.csv quotes what could not be read.
Exit code 3 if some series failed or some outputs were refused.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.artifacts.files import write_json
from src.artifacts.paths import ALL_DATA, UID
from src.artifacts.tables import write_table
from src.device import choose_device
from src.dicom import DicomError, Series, open_all
from src.inference.ensemble import Prediction, Predictor
from src.inference.findings import FindingRules
from src.inference.probabilities import NotFinite
from src.inference.sources import require_no_other
from src.labels import LABELS
from src.preprocess.images import PreparedSeries
from src.progress import in_thread, progress
from src.script import OK, SOME_FAILED, UserError, run_script, versions
from src.text import printable
from src.worker_pool import Failure, attempt
from tools.outputs.write import KINDS, require_packages, write_outputs
from tools.pages import predict_page
from tools.pages.cautions import cautions_of

LONGEST_PATH = 4096  # characters


@dataclass
class Config:
    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]  # of DICOM files, nested or mixed
    out: Path = Path("predictions")  # for pages and tables
    model_dir: Path = Path("model")  # trained networks
    encoder: str = "convnext_base.dinov3_lvd1689m"  # the one that was trained
    folds: tuple[int, ...] = (0,)  # whose networks; of several the mean
    train_on_all: bool = False  # the networks of --train-on-all instead of those of folds
    bundle: Path | None = None  # of tools/export_bundle.py: its networks instead, all of them
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...

    both_steps: bool = False  # mean over neighbours at step 1 and at step 2; doubles the work
    mirror: bool = False  # mean with the mirrored head, left and right swapped; doubles the work
    onnx: bool = False  # compute with the ONNX files of tools/export_onnx.py, on the CPU
    calibrate: bool = False  # by what tools/report.py fitted, on single folds without mirror
    descriptions: bool = False  # show series descriptions: typed by people, they may name a patient
    batch_size: int = 128  # slices per batch
    output: tuple[Literal[KINDS], ...] = ()  # for other programs, beside page and json

    threshold: float = 0.15  # lowest probability of a finding, before it is calibrated
    peaks: int = 3  # highest local maxima of a slice's heatmap that are looked at
    reach: float = 12.0  # mm within which peaks are one finding


@dataclass
class Failed:
    """A series, or a folder, that could not be predicted, or an output that it cannot have."""

    name: str
    reason: str
    detail: str


def main(config: Config) -> tuple[pd.DataFrame, pd.DataFrame]:
    require_no_other(config)
    require_packages(config.output)
    predictor = Predictor(
        config.model_dir,
        config.encoder,
        (ALL_DATA,) if config.train_on_all else config.folds,
        choose_device(config.device),
        both_steps=config.both_steps,
        mirror=config.mirror,
        onnx=config.onnx,
        calibrate=config.calibrate,
        bundle=config.bundle,
    )
    pages: list[predict_page.Page] = []
    failed: list[Failed] = []
    refused: list[Failed] = []  # outputs of series that are predicted

    def prepare(opened: tuple[str, Series | Failure]) -> tuple[str, PreparedSeries | Failure]:
        name, series = opened
        return name, series if isinstance(series, Failure) else attempt(predictor.prepare, series)

    try:
        prepared = in_thread(prepare, opened_series(config.folders))
        for name, outcome in progress(prepared, "predicting", " series"):
            if not isinstance(outcome, Failure):
                taken = [page.name for page in pages]
                outcome = attempt(partial(predict_one, config, predictor, taken, refused), outcome)
            if isinstance(outcome, Failure):
                failed.append(Failed(name, outcome.reason, outcome.detail))
            else:
                pages.append(outcome)
    finally:  # also if somebody stops it
        predictions, failures = write_tables(config.out, pages, failed + refused)
    if not pages:
        raise UserError(
            f"no series could be predicted: {config.out / 'failed_series.csv'} says why"
        )
    index = printable(config.out / "index.html", LONGEST_PATH)
    without = f", {len(refused)} outputs refused" if refused else ""
    print(f"{len(pages)} series, {len(failed)} failed{without}: {index}")
    return predictions, failures


def opened_series(folders: tuple[Path, ...]) -> Iterator[tuple[str, Series | Failure]]:
    """Yield the name and the opened series, without pixels, of every series in the folders."""
    for folder in folders:
        try:
            found, strangers = open_all(folder)
        except DicomError as error:
            found, strangers = [("", error)], []
        for reason, count in Counter(reason for _, reason in strangers).items():
            print(f"{printable(folder)}: {count} files belong to no series ({reason})")
        for uid, series in found:
            name = printable(uid or folder, LONGEST_PATH)
            if isinstance(series, DicomError):
                series = Failure(series.reason, str(series))
            yield name, series


def predict_one(
    config: Config,
    predictor: Predictor,
    taken: list[str],
    refused: list[Failed],
    prepared: PreparedSeries,
) -> predict_page.Page | Failure:
    """Predict a series and write its files; put outputs that it cannot have into `refused`."""
    rules = FindingRules(config.threshold, config.peaks, config.reach)
    try:
        prediction = predictor.explain(prepared, config.batch_size, rules)
    except NotFinite as error:  # of one series; the next may be well
        return Failure("no_prediction", str(error))
    name = file_name(prepared.series, taken)
    content = as_json(config, predictor.names, prepared, prediction)
    write_json(config.out / f"{name}.json", content, sync=False)
    page = predict_page.write_page(
        config.out, name, prepared, prediction, content, config.descriptions
    )
    why = write_outputs(config.output, config.out, name, prepared, prediction)
    refused += [Failed(name, f"no_{kind}", sentence) for kind, sentence in why.items()]
    return page


def write_tables(
    out: Path, pages: list[predict_page.Page], failed: list[Failed]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write and return predictions.csv and failed_series.csv; write index.html."""
    rows = [(page.name, *page.probabilities) for page in pages]
    predictions = pd.DataFrame(rows, columns=["SeriesInstanceUID", *LABELS])
    failures = pd.DataFrame(failed, columns=["name", "reason", "detail"])
    write_table(out / "predictions.csv", predictions)
    write_table(out / "failed_series.csv", failures)
    predict_page.write_index(out, pages, failed)
    return predictions, failures


def file_name(series: Series, taken: list[str]) -> str:
    """Return the series' UID, or a number if that cannot be a file's name.

    A second series of the same UID gets a suffix.
    """
    uid = series.slices[0].file.series_uid
    name = uid if UID.fullmatch(uid) and set(uid) != {"."} else f"series-{len(taken) + 1}"
    if name not in taken:
        return name
    return f"{name}-{sum(other.startswith(name) for other in taken) + 1}"


def as_json(config: Config, names: dict, prepared: PreparedSeries, prediction: Prediction) -> dict:
    """Return everything that is on the page, as plain values. names: which networks these are."""
    series = prepared.series
    curve = None
    if prediction.slices is not None:
        curve = dict(zip(LABELS, prediction.slices.T.round(5).tolist(), strict=True))
    positions = None if series.positions is None else series.positions[prediction.tokens].tolist()
    options = ("both_steps", "mirror", "onnx", "calibrate", "threshold", "peaks", "reach")
    return {
        "series_uid": series.slices[0].file.series_uid,
        "probabilities": dict(zip(LABELS, prediction.probabilities.tolist(), strict=True)),
        "findings": [asdict(finding) for finding in prediction.findings],
        "slices": {
            "slice": prediction.tokens.tolist(),
            "position": positions,
            "probabilities": curve,
        },
        "localised": prediction.heat is not None,
        "calibrated": prediction.calibrated,
        "modality": series.modality,
        "plane": series.plane,
        "shape": series.shape,
        "spacing": series.spacing,
        "dropped": dict(Counter(reason for _, reason in series.dropped)),
        "warnings": series.warnings,
        "cautions": cautions_of(prepared),
        "networks": names | {name: getattr(config, name) for name in options},
        "predicted": datetime.now().date().isoformat(),
        "versions": versions(),
    }


if __name__ == "__main__":
    _, failures = run_script(main, Config, __doc__, interrupted="index.html lists what is done")
    sys.exit(SOME_FAILED if len(failures) else OK)
