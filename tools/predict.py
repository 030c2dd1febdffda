"""Trained networks on any DICOM: a series, a study, nested or mixed folders. Probabilities, where, and a page to look at for each series.

    python tools/predict.py a/folder/of/dicom --out predictions
    python tools/predict.py study1 study2 --out predictions --folds 0 1 2 3 4 --mirror

Reads   the folders, model/{encoder}/fold-{k}/weights_inference.pth (train_stage2.py)

Writes  {out}/index.html            all series, with links
        {out}/{uid}.html            a page for each: probabilities, curve over the slices, findings on their images; it needs no network
        {out}/{uid}.json            the same in numbers, with what was left out of the series, and versions
        {out}/predictions.csv       SeriesInstanceUID and the 14 probabilities
        {out}/failed_series.csv     what could not be read, and why

Patient name, ID and birth date are never written. Pages and json hold no names of files, and of folders only those in which nothing could be read;
failed_series.csv quotes what could not be read. Exit code 3 where some series failed.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.artifacts.files import write_json
from src.artifacts.paths import UID
from src.artifacts.tables import write_table
from src.device import choose_device
from src.dicom import DicomError, Series, open_all
from src.inference.ensemble import Prediction, Predictor, PreparedSeries
from src.labels import LABELS
from src.progress import in_thread, progress
from src.script import OK, SOME_FAILED, UserError, run_script, versions
from tools.pages import predict_page


@dataclass
class Config:
    folders: Annotated[
        tuple[Path, ...], tyro.conf.Positional
    ]  # of DICOM files, searched to their depths
    out: Path = Path("predictions")  # for pages and tables
    model_dir: Path = Path("model")  # trained networks
    encoder: str = "convnext_base.dinov3_lvd1689m"  # as trained
    folds: tuple[int, ...] = (0,)  # whose networks; of several the mean
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...

    both_steps: bool = False  # mean over neighbours at step 1 and at step 2; doubles the work
    mirror: bool = False  # mean with the mirrored head, left and right exchanged; doubles the work
    onnx: bool = False  # compute with the ONNX files of tools/export_onnx.py, on the CPU
    calibrate: bool = False  # by the temperatures of tools/report.py, which are fitted on single folds without mirror
    descriptions: bool = False  # show the series' descriptions on the pages; somebody typed them, they may name a patient
    batch_size: int = 128  # slices


@dataclass
class Item:
    """A series on its way: opened, prepared, predicted."""

    name: str
    content: Any


@dataclass
class Failed:
    """A series, or a folder, of which nothing became."""

    name: str
    reason: str
    detail: str

    def __post_init__(self) -> None:
        self.name = self.name.encode(
            "utf-8", "backslashreplace"
        ).decode()  # a folder's name may be no UTF-8


def main(config: Config) -> tuple[pd.DataFrame, pd.DataFrame]:
    device = choose_device(config.device)
    options = {
        name: getattr(config, name) for name in ("both_steps", "mirror", "onnx", "calibrate")
    }
    predictor = Predictor(config.model_dir, config.encoder, config.folds, device, **options)
    pages: list[predict_page.Page] = []
    failed: list[Failed] = []
    found = in_thread(
        lambda opened: attempt(opened, predictor.prepare), opened_series(config.folders)
    )
    try:
        for prepared in progress(found, "predicting", " series"):
            taken = [page.name for page in pages]
            done = attempt(
                prepared, lambda one, taken=taken: predict_one(config, predictor, one, taken)
            )
            if isinstance(done, Failed):
                failed.append(done)
            else:
                pages.append(done.content)
    finally:  # also where somebody stops it
        predictions, failures = write_tables(config.out, pages, failed)
    if not pages:
        raise UserError(f"no series could be read: {config.out / 'failed_series.csv'} says why")
    print(f"{len(pages)} series, {len(failed)} failed: {config.out / 'index.html'}")
    return predictions, failures


def opened_series(folders: tuple[Path, ...]) -> Iterator[Item | Failed]:
    """Every series in the folders, without pixels."""
    for folder in folders:
        try:
            found, strangers = open_all(folder)
        except DicomError as error:
            found, strangers = [(str(folder), error)], []
        for reason, count in Counter(reason for _, reason in strangers).items():
            print(f"{folder}: {count} files belong to no series ({reason})")
        for uid, one in found:
            name = uid or str(folder)
            yield (
                Failed(name, one.reason, str(one))
                if isinstance(one, DicomError)
                else Item(name, one)
            )


def attempt(item: Item | Failed, work: Callable[[Any], Any]) -> Any:
    """The item with what `work` makes of its content, or why not: no series may stop the others."""
    if isinstance(item, Failed):
        return item
    try:
        return replace(item, content=work(item.content))
    except DicomError as error:
        return Failed(item.name, error.reason, str(error))
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise  # it would be the same for the next series
    except Exception as error:
        return Failed(item.name, "unexpected", f"{type(error).__name__}: {error}")


def predict_one(
    config: Config, predictor: Predictor, prepared: PreparedSeries, taken: list[str]
) -> predict_page.Page:
    """Predict a series and write its json and its page."""
    prediction = predictor.predict(prepared, config.batch_size)
    name = file_name(prepared.series, taken)
    write_json(config.out / f"{name}.json", as_json(config, prepared, prediction), sync=False)
    return predict_page.write_page(config.out, name, prepared, prediction, config.descriptions)


def write_tables(
    out: Path, pages: list[predict_page.Page], failed: list[Failed]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """predictions.csv, failed_series.csv and index.html."""
    predictions = pd.DataFrame(
        [(page.name, *page.probabilities) for page in pages], columns=["SeriesInstanceUID", *LABELS]
    )
    failures = pd.DataFrame([vars(one) for one in failed], columns=["name", "reason", "detail"])
    write_table(out / "predictions.csv", predictions)
    write_table(out / "failed_series.csv", failures)
    predict_page.write_index(out, pages, failed)
    return predictions, failures


def file_name(series: Series, taken: list[str]) -> str:
    """The series' UID, or a number where it has none that can be a file's name; a second series of a UID gets a suffix."""
    uid = series.slices[0].file.series_uid
    name = uid if UID.fullmatch(uid) and set(uid) != {"."} else f"series-{len(taken) + 1}"
    return (
        name
        if name not in taken
        else f"{name}-{sum(other.startswith(name) for other in taken) + 1}"
    )


def as_json(config: Config, prepared: PreparedSeries, prediction: Prediction) -> dict:
    """Everything that is on the page, as plain values."""
    series = prepared.series
    curve = dict(zip(LABELS, prediction.slices.T.round(5).tolist(), strict=True))
    positions = None if series.positions is None else series.positions[prediction.tokens].tolist()
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
        "modality": series.modality,
        "plane": series.plane,
        "shape": series.shape,
        "spacing": series.spacing,
        "dropped": dict(Counter(reason for _, reason in series.dropped)),
        "warnings": series.warnings,
        "networks": {
            name: getattr(config, name)
            for name in ("encoder", "folds", "both_steps", "mirror", "onnx", "calibrate")
        },
        "versions": versions(),
    }


if __name__ == "__main__":
    _, failures = run_script(main, Config, __doc__)
    sys.exit(SOME_FAILED if len(failures) else OK)
