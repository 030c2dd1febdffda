"""Stage 8 of 8: score both stages joined on the held-out fold, straight from DICOM.

Reads   model/{encoder}/fold-{k}/weights_inference.pth (train_stage2.py), data/series/{uid}/, data/train_{N}_folds.csv

Writes  model/{encoder}/fold-{k}/  scores_end_to_end.json, predictions_end_to_end.csv,
        failed_series_end_to_end.csv (series that could not be read, and why)
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from src import artifacts, engine
from src.artifacts import DataFolder, RunFolder
from src.dicom import DicomError, read_series
from src.labels import LABELS
from src.runtime import OK, SOME_FAILED, UserError, progress, run_script
from src.sequence_transformer import BothStages
from src.volume import prepare


@dataclass
class Config:
    data_dir: Path = Path("data")  # series/ and the folds
    model_dir: Path = Path("model")  # trained networks
    fold: int = 0  # held out
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...
    encoder: str = "convnext_base.dinov3_lvd1689m"  # as trained

    batch_size: int = 128  # slices


def main(config: Config) -> tuple[dict, pd.DataFrame]:
    device = engine.choose_device(config.device)
    data, run = DataFolder(config.data_dir), RunFolder(config.model_dir, config.encoder, config.fold)
    keys = ("stage1", "stage1_settings", "stage2", "stage2_settings")
    model = BothStages(artifacts.read_checkpoint(run.inference, keys), device)
    _, held_out = artifacts.read_fold(data, config.fold, model.stage1)

    predictions, failed = predict_all(model, data, held_out.SeriesInstanceUID.tolist(), config.batch_size)
    artifacts.write_table(run.failed_series(), failed)
    for reason, count in failed.reason.value_counts().items():
        print(f"{count} series failed: {reason}")
    if predictions.empty:
        raise UserError(f"none of the {len(held_out)} series could be read: {run.failed_series()} says why")

    read = held_out[held_out.SeriesInstanceUID.isin(predictions.SeriesInstanceUID)]
    title = f"end to end, fold {config.fold}, step {model.step}"
    return engine.report_scores(run, "end_to_end", read, predictions, ["SeriesInstanceUID"], title), failed


def predict_all(model: BothStages, data: DataFolder, uids: list[str], batch_size: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(probabilities of the series that could be read, SeriesInstanceUID, reason and detail of the others)."""
    predicted, failed = [], []
    for uid in progress(uids, "end to end", " series"):
        try:
            slices = read_used(model, data.series(uid))
        except DicomError as error:
            failed.append((uid, error.reason, str(error)))
        except Exception as error:  # no series may stop the others
            failed.append((uid, "unexpected", f"{type(error).__name__}: {error}"))
        else:
            predicted.append((uid, *model.probabilities(*slices, batch_size)))
    columns = ["SeriesInstanceUID", "reason", "detail"]
    return pd.DataFrame(predicted, columns=["SeriesInstanceUID", *LABELS]), pd.DataFrame(failed, columns=columns)


def read_used(model: BothStages, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What BothStages.probabilities needs of the series in a folder of DICOM files. Raises DicomError where there is no volume."""
    series = read_series(folder)
    length = len(series.pixels)
    tokens, needed = model.slices_used(length)
    prepared = prepare(series, model.stage1["image_size"], model.stage1["mr_window"], needed)
    positions = np.full(length, np.nan) if series.positions is None else series.positions
    return prepared, needed, tokens, positions


if __name__ == "__main__":
    _, failed_series = run_script(main, Config, __doc__)
    sys.exit(SOME_FAILED if len(failed_series) else OK)
