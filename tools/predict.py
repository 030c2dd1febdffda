"""Trained networks on any DICOM: a series, a study, nested or mixed folders. Probabilities, where, and a page to look at for each series.

    python tools/predict.py a/folder/of/dicom --out predictions
    python tools/predict.py study1 study2 --out predictions --folds 0 1 2 3 4 --mirror

Reads   the folders, model/{encoder}/fold-{k}/weights_inference.pth (train_stage2.py)

Writes  {out}/index.html            all series, with links
        {out}/{uid}.html            a page for each: probabilities, curve over the slices, findings on their images; it needs no network
        {out}/{uid}.json            the same in numbers, with what was left out of the series, and versions
        {out}/predictions.csv       SeriesInstanceUID and the 14 probabilities
        {out}/failed_series.csv     what could not be read, and why

Patient name, ID and birth date are never written. Exit code 3 where some series failed.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pandas as pd
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src import artifacts, engine
from src.dicom import DicomError, Series, open_all
from src.labels import LABELS
from src.predictor import Prediction, Predictor, PreparedSeries
from src.runtime import OK, SOME_FAILED, UserError, in_thread, progress, run_script, versions
from tools import predict_page


@dataclass
class Config:
    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]  # of DICOM files, searched to their depths
    out: Path = Path("predictions")  # for pages and tables
    model_dir: Path = Path("model")  # trained networks
    encoder: str = "convnext_base.dinov3_lvd1689m"  # as trained
    folds: tuple[int, ...] = (0,)  # whose networks; of several the mean
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...

    both_steps: bool = False  # mean over neighbours at step 1 and at step 2; doubles the work
    mirror: bool = False  # mean with the mirrored head, left and right exchanged; doubles the work
    onnx: bool = False  # compute with the ONNX files of tools/export_onnx.py, on the CPU
    batch_size: int = 128  # slices


@dataclass
class Failed:
    """A series, or a folder, that gave no volume."""

    name: str
    reason: str
    detail: str


def main(config: Config) -> tuple[pd.DataFrame, pd.DataFrame]:
    device = engine.choose_device(config.device)
    predictor = Predictor(config.model_dir, config.encoder, config.folds, device, config.both_steps, config.mirror, config.onnx)
    rows, failed, pages = [], [], []
    found = in_thread(lambda opened: prepare(predictor, opened), opened_series(config.folders))
    for one in progress(found, "predicting", " series"):
        if isinstance(one, Failed):
            failed.append(one)
            continue
        prediction = predictor.predict(one, config.batch_size)
        name = file_name(one.series, [page.name for page in pages])
        artifacts.write_json(config.out / f"{name}.json", as_json(config, one, prediction), sync=False)
        pages.append(predict_page.write_page(config.out, name, one, prediction))
        rows.append((name, *prediction.probabilities))
    predictions = pd.DataFrame(rows, columns=["SeriesInstanceUID", *LABELS])
    failures = pd.DataFrame([vars(one) for one in failed], columns=["name", "reason", "detail"])
    artifacts.write_table(config.out / "failed_series.csv", failures)
    if not rows:
        raise UserError(f"no series could be read: {config.out / 'failed_series.csv'} says why")
    artifacts.write_table(config.out / "predictions.csv", predictions)
    print(f"{len(rows)} series, {len(failed)} failed: {predict_page.write_index(config.out, pages, failed)}")
    return predictions, failures


def opened_series(folders: tuple[Path, ...]) -> Iterator[Series | Failed]:
    """Every series in the folders, without pixels."""
    for folder in folders:
        try:
            found, strangers = open_all(folder)
        except DicomError as error:
            found, strangers = [error], []
        for reason, count in Counter(reason for _, reason in strangers).items():
            print(f"{folder}: {count} files belong to no series ({reason})")
        for one in found:
            yield Failed(str(folder), one.reason, str(one)) if isinstance(one, DicomError) else one


def prepare(predictor: Predictor, opened: Series | Failed) -> PreparedSeries | Failed:
    """What the networks read of a series, or why not."""
    if isinstance(opened, Failed):
        return opened
    name = opened.slices[0].file.series_uid
    try:
        return predictor.prepare(opened)
    except DicomError as error:
        return Failed(name, error.reason, str(error))
    except Exception as error:  # no series may stop the others
        return Failed(name, "unexpected", f"{type(error).__name__}: {error}")


def file_name(series: Series, taken: list[str]) -> str:
    """The series' UID, or a number where it has none that can be a file's name; a second series of a UID gets a suffix."""
    uid = series.slices[0].file.series_uid
    name = uid if artifacts.UID.fullmatch(uid) and set(uid) != {"."} else f"series-{len(taken) + 1}"
    return name if name not in taken else f"{name}-{sum(other.startswith(name) for other in taken) + 1}"


def as_json(config: Config, prepared: PreparedSeries, prediction: Prediction) -> dict:
    """Everything that is on the page, as plain values."""
    series = prepared.series
    curve = dict(zip(LABELS, prediction.slices.T.round(5).tolist(), strict=True))
    positions = None if series.positions is None else series.positions[prediction.tokens].tolist()
    return {
        "series_uid": series.slices[0].file.series_uid,
        "probabilities": dict(zip(LABELS, prediction.probabilities.tolist(), strict=True)),
        "findings": [finding.as_dict() for finding in prediction.findings],
        "slices": {"slice": prediction.tokens.tolist(), "position": positions, "probabilities": curve},
        "localised": prediction.heat is not None,
        "modality": series.modality,
        "plane": series.plane,
        "shape": series.shape,
        "spacing": series.spacing,
        "dropped": series.dropped,
        "warnings": series.warnings,
        "networks": {"encoder": config.encoder, "folds": config.folds, "both_steps": config.both_steps, "mirror": config.mirror, "onnx": config.onnx},
        "versions": versions(),
    }


if __name__ == "__main__":
    _, failures = run_script(main, Config, __doc__)
    sys.exit(SOME_FAILED if len(failures) else OK)
