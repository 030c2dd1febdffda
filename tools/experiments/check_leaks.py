"""Does anything but the picture's content tell who has an aneurysm? Trains simple models on a demo set's metadata and on its intensity histograms.

    python tools/experiments/check_leaks.py --data-dir demo/data

Reads   {data_dir}/train.csv and {data_dir}/series/ (tools/make_demo_data.py)

Prints the cross-validated AUC for presence of logistic regression and of boosted trees, on metadata (tags, sizes, spacing, orientation, file sizes,
digits of UIDs, order of the rows, age, sex, modality) and on whole-series histograms. What reaches LIMIT is a leak, and the exit code is 1.
Series of one patient share their labels by right: they stay in one fold. Needs scikit-learn (requirements-dev.txt).
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

LIMIT = (
    0.6  # AUC; a chance finding on 720 series stays below with more than four standard deviations
)
BINS = 32  # of the histogram
NUMBERS = (
    "Rows",
    "Columns",
    "BitsStored",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "SliceThickness",
    "SpacingBetweenSlices",
    "NumberOfFrames",
)
UIDS = (
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "FrameOfReferenceUID",
    "SOPInstanceUID",
    "PatientID",
)


@dataclass
class Config:
    data_dir: Path = Path("demo/data")  # a set made by tools/make_demo_data.py
    folds: int = 5  # of the cross-validation
    seed: int = 0
    workers: int = 2  # processes that read


def main(config: Config) -> dict[str, float]:
    path = config.data_dir / "train.csv"
    if not path.exists():
        raise UserError(
            f"{path} is missing: run tools/make_demo_data.py --out {config.data_dir} first"
        )
    train = pd.read_csv(path)
    folders = [config.data_dir / "series" / uid for uid in train.SeriesInstanceUID]
    with ProcessPoolExecutor(config.workers, clean_context(__name__)) as pool:
        read = list(
            progress(
                pool.map(describe, folders, chunksize=8), "reading", "series", total=len(folders)
            )
        )
    patients, metadata, histograms = zip(*read, strict=True)
    features = {
        "metadata": pd.concat([pd.DataFrame(metadata), table_features(train)], axis=1),
        "histogram": pd.DataFrame(histograms),
    }

    aucs = score(
        features, train[LABELS[PRESENT]].to_numpy(), pd.factorize(np.array(patients))[0], config
    )
    for name, auc in aucs.items():
        print(f"{name:<32}{auc:.3f}{'  LEAK' if auc >= LIMIT else ''}")
    return aucs


def describe(folder: Path) -> tuple[str, dict[str, float], np.ndarray]:
    """Patient, metadata by name and histogram (BINS + 5,) of one series."""
    paths = sorted(folder.iterdir())
    datasets = [pydicom.dcmread(path) for path in paths]
    values = np.concatenate([dataset.pixel_array.ravel() for dataset in datasets]).astype(
        np.float32
    )
    return datasets[0].PatientID, _metadata(paths, datasets), _histogram(values)


def table_features(train: pd.DataFrame) -> pd.DataFrame:
    """What the table itself says of each series but its labels."""
    features = pd.get_dummies(train[["PatientSex", "Modality"]], dtype=float)
    return features.assign(age=train.PatientAge, row=np.arange(len(train)))


def score(
    features: dict[str, pd.DataFrame], present: np.ndarray, groups: np.ndarray, config: Config
) -> dict[str, float]:
    """Cross-validated AUC of each model on each set of features."""
    models = {
        "logistic regression": make_pipeline(
            StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)
        ),
        "boosted trees": GradientBoostingClassifier(
            n_estimators=100, max_depth=2, subsample=0.5, random_state=config.seed
        ),
    }
    folds = StratifiedGroupKFold(config.folds, shuffle=True, random_state=config.seed)
    aucs = {}
    for name, table in features.items():
        for model_name, model in models.items():
            said = cross_val_predict(
                model,
                table.to_numpy(float),
                present,
                groups=groups,
                cv=folds,
                method="predict_proba",
            )[:, 1]
            aucs[f"{name}, {model_name}"] = float(roc_auc_score(present, said))
    return aucs


def _metadata(paths: list[Path], datasets: list[pydicom.Dataset]) -> dict[str, float]:
    first = datasets[0]
    shared = first.get("SharedFunctionalGroupsSequence", [None])[0]
    measures = shared.PixelMeasuresSequence[0] if shared else first
    frames = (
        [frame.PlanePositionSequence[0] for frame in first.PerFrameFunctionalGroupsSequence]
        if shared
        else datasets
    )
    orientation = shared.PlaneOrientationSequence[0] if shared else first
    positions = np.array([frame.ImagePositionPatient for frame in frames], float)  # (n, 3)
    sizes = [path.stat().st_size for path in paths]
    found = {name: float(measures.get(name, first.get(name, 0)) or 0) for name in NUMBERS}
    found |= {
        "pixel": float(measures.PixelSpacing[0]),
        "files": len(paths),
        "bytes": sum(sizes),
        "largest": max(sizes),
        "frames": len(frames),
    }
    found |= {
        f"orientation {k}": float(value)
        for k, value in enumerate(orientation.ImageOrientationPatient)
    }
    found |= {
        f"{what} {k}": float(values[k])
        for k in range(3)
        for what, values in (("least", positions.min(0)), ("most", positions.max(0)))
    }
    numbers = [dataset.InstanceNumber for dataset in datasets]
    found["against"] = (
        float(np.polyfit(numbers, positions[:, 2], 1)[0] < 0) if len(numbers) > 1 else 0.0
    )
    for name in UIDS:
        digits = str(first[name].value)
        found |= {
            f"{name} length": len(digits),
            f"{name} last": int(digits[-1]),
            f"{name} last but one": int(digits[-2]),
        }
    return found


def _histogram(values: np.ndarray) -> np.ndarray:
    """Shares of the stored values between the 0.5th and the 99.9th percentile, then mean, spread, extremes (BINS + 5,)."""
    low, high = np.percentile(values, [0.5, 99.9])
    shares = np.histogram(values, BINS, (low, max(high, low + 1)))[0] / len(values)
    return np.array([*shares, values.mean(), values.std(), values.min(), values.max(), high])


if __name__ == "__main__":
    found = run_script(main, Config, __doc__)
    sys.exit(any(auc >= LIMIT for auc in found.values()))
