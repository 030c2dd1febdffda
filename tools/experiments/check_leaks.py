"""Does anything but the picture's content reveal who has an aneurysm?

    python tools/experiments/check_leaks.py --data-dir demo/data

Trains logistic regression and boosted trees on the metadata of a demo set (tags, sizes, spacing,
orientation, file sizes, digits of UIDs, order of the rows, age, sex, modality) and on histograms
of whole series, and prints their cross-validated AUC for presence. Series of one patient share
their labels by right: they stay in one fold.

Reads   {data_dir}/train.csv
        {data_dir}/series/    (tools/make_demo_data.py)

An AUC of 0.6 or more is a leak, and the exit code is 1.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from src.labels import LABELS, PRESENT
from src.progress import progress
from src.script import UserError, run_script
from src.worker_pool import clean_context

LIMIT = 0.6  # AUC; on 720 series, more than four standard deviations from chance
BINS = 32  # of the histogram
NUMBERS = (
    "Rows Columns BitsStored PixelRepresentation RescaleSlope RescaleIntercept "
    "SliceThickness SpacingBetweenSlices NumberOfFrames"
).split()
UIDS = "SeriesInstanceUID StudyInstanceUID FrameOfReferenceUID SOPInstanceUID PatientID".split()


@dataclass
class Config:
    data_dir: Path = Path("demo/data")  # a set made by tools/make_demo_data.py
    folds: int = 5  # of the cross-validation
    seed: int = 0
    workers: int = 2  # processes that read


def main(config: Config) -> dict[str, float]:
    path = config.data_dir / "train.csv"
    if not path.exists():
        raise UserError(f"{path} is missing: run tools/make_demo_data.py first")
    train = pd.read_csv(path)
    folders = [config.data_dir / "series" / uid for uid in train.SeriesInstanceUID]
    with ProcessPoolExecutor(config.workers, clean_context(__name__)) as pool:
        described = pool.map(describe, folders, chunksize=8)
        read = list(progress(described, "reading", "series", total=len(folders)))
    patients, metadata, histograms = zip(*read, strict=True)
    features = {
        "metadata": pd.concat([pd.DataFrame(metadata), table_features(train)], axis=1),
        "histogram": pd.DataFrame(histograms),
    }
    groups, _ = pd.factorize(np.array(patients))
    aucs = score(features, train[LABELS[PRESENT]].to_numpy(), groups, config)
    for name, auc in aucs.items():
        print(f"{name:<32}{auc:.3f}{'  LEAK' if auc >= LIMIT else ''}")
    return aucs


def describe(folder: Path) -> tuple[str, dict[str, float], np.ndarray]:
    """Return the patient of a series, its metadata by name and its histogram (BINS + 5,)."""
    paths = sorted(folder.iterdir())
    datasets = [pydicom.dcmread(path) for path in paths]
    values = np.concatenate([dataset.pixel_array.ravel() for dataset in datasets])
    histogram = histogram_of(values.astype(np.float32))
    return datasets[0].PatientID, metadata_of(paths, datasets), histogram


def table_features(train: pd.DataFrame) -> pd.DataFrame:
    """Return what the table itself says of each series, its labels excepted."""
    features = pd.get_dummies(train[["PatientSex", "Modality"]], dtype=float)
    return features.assign(age=train.PatientAge, row=np.arange(len(train)))


def score(
    features: dict[str, pd.DataFrame], present: np.ndarray, groups: np.ndarray, config: Config
) -> dict[str, float]:
    """Return the cross-validated AUC of each model on each set of features.

    features: one row a series.
    present: (N,) 0 or 1.
    groups: (N,) number of the patient.
    """
    logistic = LogisticRegression(C=0.1, max_iter=2000)
    models = {
        "logistic regression": make_pipeline(StandardScaler(), logistic),
        "boosted trees": GradientBoostingClassifier(
            n_estimators=100, max_depth=2, subsample=0.5, random_state=config.seed
        ),
    }
    folds = StratifiedGroupKFold(config.folds, shuffle=True, random_state=config.seed)
    aucs = {}
    for name, table in features.items():
        values = table.to_numpy(float)
        for model_name, model in models.items():
            probabilities = cross_val_predict(
                model, values, present, groups=groups, cv=folds, method="predict_proba"
            )
            aucs[f"{name}, {model_name}"] = float(roc_auc_score(present, probabilities[:, 1]))
    return aucs


def metadata_of(paths: list[Path], datasets: list[pydicom.Dataset]) -> dict[str, float]:
    """Return all that the files of a series say beside their pixels."""
    first = datasets[0]
    measures = orientation = first
    frames = datasets
    if "SharedFunctionalGroupsSequence" in first:  # one file with all slices
        shared = first.SharedFunctionalGroupsSequence[0]
        measures = shared.PixelMeasuresSequence[0]
        orientation = shared.PlaneOrientationSequence[0]
        groups = first.PerFrameFunctionalGroupsSequence
        frames = [group.PlanePositionSequence[0] for group in groups]
    positions = np.array([frame.ImagePositionPatient for frame in frames], float)  # (n, 3)
    sizes = [path.stat().st_size for path in paths]

    found = {name: float(measures.get(name, first.get(name, 0)) or 0) for name in NUMBERS}
    found["pixel"] = float(measures.PixelSpacing[0])
    found["files"] = len(paths)
    found["bytes"], found["largest"] = sum(sizes), max(sizes)
    found["frames"] = len(frames)
    for k, value in enumerate(orientation.ImageOrientationPatient):
        found[f"orientation {k}"] = float(value)
    for k in range(3):
        found[f"lowest {k}"] = float(positions[:, k].min())
        found[f"highest {k}"] = float(positions[:, k].max())
    numbers = [dataset.InstanceNumber for dataset in datasets]
    descending = len(numbers) > 1 and np.polyfit(numbers, positions[:, 2], 1)[0] < 0
    found["descending"] = float(descending)
    for name in UIDS:
        digits = str(first[name].value)
        found[f"{name} length"] = len(digits)
        found[f"{name} last"] = int(digits[-1])
        found[f"{name} last but one"] = int(digits[-2])
    return found


def histogram_of(values: np.ndarray) -> np.ndarray:
    """Return how the stored values of a series are spread: (BINS + 5,).

    That is the fractions between the 0.5th and the 99.9th percentile, then mean, standard
    deviation, minimum, maximum and the 99.9th percentile.
    """
    low, high = np.percentile(values, [0.5, 99.9])
    counts, _ = np.histogram(values, BINS, (low, max(high, low + 1)))
    summary = [values.mean(), values.std(), values.min(), values.max(), high]
    return np.concatenate([counts / len(values), summary])


if __name__ == "__main__":
    found = run_script(main, Config, __doc__, interrupted="run it again")
    sys.exit(any(auc >= LIMIT for auc in found.values()))
