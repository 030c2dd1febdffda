"""Run trained networks on any DICOM: folders, nested or mixed; zip and tar files; single files.

    python tools/predict.py a/folder/of/dicom --out predictions
    python tools/predict.py study1 study2.zip --folds 0 1 2 3 4 --mirror
    python tools/predict.py study1/IM0001 --bundle aneurysms.zip

Reads   what you name; of a single file its series, from the files beside it
        model/{encoder}/fold-{k}/weights_inference.pth (train_stage2.py)
        with --bundle in place of them: what tools/export_bundle.py wrote

Writes  {out}/index.html            all series, with links
        {out}/{uid}.html            a page for each: probabilities, curve over the slices,
                                    findings on their images; it needs no network
        {out}/{uid}.json            the same in numbers, with what was left out of the series
        {out}/predictions.csv       SeriesInstanceUID and the 14 probabilities
        {out}/studies.csv           each study: how many series, the highest of them, and of
                                    each probability the highest
        {out}/failed_series.csv     what could not be read or written, and why
        with --output, for each series (docs/predict.md):
        {out}/{uid}.mrk.json        slicer: findings as points, for 3D Slicer
        {out}/{uid}.nii.gz          nifti: the heat in patient space
        {out}/{uid}.sr.dcm          sr: findings as a DICOM structured report
        {out}/{uid}.capture-1.dcm   capture: slices with findings as DICOM pictures

Patient name, ID and birth date are never written, but for sr and capture, which a PACS files by
what the source says of patient and study. Pages and json hold no names of files and folders, but
for those that you name and in which nothing could be read; failed_series.csv quotes what could not
be read. An --out that holds an earlier run is refused. Exit code 3 if some series failed or some
outputs were refused.
"""

import os
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal, NamedTuple

import pandas as pd
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.artifacts.files import write_json
from src.artifacts.paths import ALL_DATA, UID, trained_networks
from src.artifacts.tables import write_table
from src.device import choose_device
from src.dicom import Series
from src.inference.ensemble import Prediction, Predictor
from src.inference.findings import FindingRules
from src.inference.inputs import LONGEST_PATH, Opened, batches
from src.inference.probabilities import NotFinite
from src.inference.sources import require_no_other
from src.inference.studies import study_of, study_table
from src.labels import LABELS
from src.preprocess.images import PreparedSeries
from src.preprocess.survey import print_failures
from src.progress import in_thread, progress
from src.script import OK, SOME_FAILED, UserError, run_script, versions
from src.text import printable
from src.worker_pool import Failure, attempt
from tools.outputs.write import KINDS, require_packages, write_outputs
from tools.pages import predict_page
from tools.pages.cautions import cautions_of

Outputs = Annotated[tuple[Literal[KINDS], ...], tyro.conf.arg(help_behavior_hint="(default: none)")]
STOPPED = "index.html in --out lists what was predicted; name another --out for the rest"


@dataclass
class Config:
    paths: Annotated[  # folders, zip or tar files, single files of DICOM
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="PATH ...", help_behavior_hint="(required)"),
    ]
    out: Path = Path("predictions")  # for pages and tables; a new folder
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
    output: Outputs = ()  # for other programs, beside page and json

    threshold: float = 0.15  # lowest probability of a finding, before it is calibrated
    peaks: int = 3  # highest local maxima of a slice's heatmap that are looked at
    reach: float = 12.0  # mm within which peaks are one finding


@dataclass
class Failed:
    """A series, or a folder, that could not be predicted, or an output that it cannot have."""

    name: str
    reason: str
    detail: str


class Row(NamedTuple):
    """A series that is predicted."""

    page: predict_page.Page
    study: str  # its UID, "" if unknown


def main(config: Config) -> tuple[pd.DataFrame, pd.DataFrame]:
    require_no_other(config)
    require_inputs(config)
    require_new(config.out)
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
    rows: list[Row] = []
    failed: list[Failed] = []
    refused: list[Failed] = []  # outputs of series that are predicted

    def prepare(opened: Opened) -> tuple[str, PreparedSeries | Failure]:
        name, series = opened
        return name, series if isinstance(series, Failure) else attempt(predictor.prepare, series)

    with (
        TemporaryDirectory(prefix="predict-", ignore_cleanup_errors=True) as temporary,
        progress(None, "predicting", " series") as bar,
    ):
        try:
            for batch in batches(config.paths, Path(temporary)):
                for name, outcome in in_thread(prepare, batch):
                    if not isinstance(outcome, Failure):
                        taken = [row.page.name for row in rows]
                        work = partial(predict_one, config, predictor, taken, refused)
                        outcome = attempt(work, outcome)
                    if isinstance(outcome, Failure):
                        failed.append(Failed(name, outcome.reason, outcome.detail))
                    else:
                        rows.append(outcome)
                    bar.update()
        finally:  # also if somebody stops it
            predictions, failures = write_tables(config.out, rows, failed + refused)
    say_end(config.out, rows, failed, refused)
    return predictions, failures


def require_inputs(config: Config) -> None:
    """Raise UserError if nothing is named, or nothing of what is named exists."""
    if not config.paths:
        there = "" if config.bundle else f"; {trained_networks(config.model_dir)}"
        raise UserError(
            f"name what to predict: folders, zip or tar files, or single files of DICOM{there}"
        )
    if not any(os.path.exists(path) for path in config.paths):
        raise UserError(
            f"{config.paths[0]} does not exist"
            + f", nor do the {len(config.paths) - 1} others" * (len(config.paths) > 1)
        )


def require_new(out: Path) -> None:
    """Raise UserError if the folder holds series of an earlier run, which would become orphans."""
    if any(path.with_suffix(".html").exists() for path in out.glob("*.json")):
        raise UserError(f"{out} holds series of an earlier run: delete it or name another --out")


def predict_one(
    config: Config,
    predictor: Predictor,
    taken: list[str],
    refused: list[Failed],
    prepared: PreparedSeries,
) -> Row | Failure:
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
    return Row(page, study_of(prepared.series))


def write_tables(
    out: Path, rows: list[Row], failed: list[Failed]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write and return predictions.csv and failed_series.csv; write studies.csv and index.html."""
    pages = [row.page for row in rows]
    values = [(page.name, *page.probabilities) for page in pages]
    predictions = pd.DataFrame(values, columns=["SeriesInstanceUID", *LABELS])
    failures = pd.DataFrame(failed, columns=["name", "reason", "detail"])
    studies = study_table(predictions, [row.study for row in rows])
    write_table(out / "predictions.csv", predictions)
    write_table(out / "studies.csv", studies)
    write_table(out / "failed_series.csv", failures)
    predict_page.write_index(out, pages, failed, studies.to_dict("records"))
    return predictions, failures


def say_end(out: Path, rows: list[Row], failed: list[Failed], refused: list[Failed]) -> None:
    """Print what was done. Raise UserError if no series could be predicted."""
    if not rows:
        first = printable(failed[0].detail, 1000)
        raise UserError(
            f"no series could be predicted: {first}"
            + f" (first of {len(failed)}: {out / 'failed_series.csv'} has all)" * (len(failed) > 1)
        )
    print_failures(pd.DataFrame(failed + refused, columns=["name", "reason", "detail"]))
    index = printable(out / "index.html", LONGEST_PATH)
    without = f", {len(refused)} outputs refused" if refused else ""
    print(f"{len(rows)} series, {len(failed)} failed{without}: {index}")


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
        "study_uid": study_of(series),
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
    _, failures = run_script(main, Config, __doc__, interrupted=STOPPED)
    sys.exit(SOME_FAILED if len(failures) else OK)
