"""A synthetic data set of 40 NIfTI scans, imported, and what the first stages make of it."""

from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

import create_folds
import preprocess_data
from src.artifacts.files import read_array
from src.artifacts.paths import DataFolder
from src.artifacts.tables import read_folds, read_spots
from src.labels import LABELS, NEGATIVE, PRESENT
from tests.nifti_trees import BRIGHT, bids
from tools import import_nifti

SIDE = 48  # pixels of prepared images


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return bids(tmp_path_factory.mktemp("bids") / "ds003949")


@pytest.fixture(scope="module")
def imported(source, tmp_path_factory) -> DataFolder:
    """The folder that the import makes; its tables are read only."""
    out = tmp_path_factory.mktemp("imported") / "data"
    config = import_nifti.Config(source, out=out, workers=2)
    outcome = import_nifti.main(config)
    assert [(name, reason) for name, reason, _ in outcome.failed] == [
        ("sub-031_ses-20110104", "not_3d")
    ]
    return DataFolder(out)


def check(data: DataFolder, source: Path) -> None:
    """Every aneurysm is a spot on its bright ball; patients stay together."""
    folds, spots = read_folds(data), read_spots(data)
    assert len(folds) == 39 and folds.patient_id.nunique() == 32
    assert (folds.groupby("patient_id").fold.nunique() == 1).all()
    assert set(folds.plane) == {"axial"} and set(folds.orientation.fillna("")) == {""}
    positive = spots[(spots.f >= 0) & (spots.class_id != NEGATIVE)]
    masks = list(source.glob("derivatives/manual_masks/*/*/*/*mask.nii.gz"))
    assert len(positive) == len(masks) - 1 == 39  # without that of the scan of two volumes
    for spot in positive.itertuples():
        images = read_array(data.sequence(spot.SeriesInstanceUID)).astype(np.float32)
        x, y = ((place + 0.5) * SIDE / 512 - 0.5 for place in (spot.x_512, spot.y_512))
        ball = images[spot.f, round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2]
        assert ball.mean() > 4.5 and np.median(images) < 2.6  # BRIGHT is 5
    assert BRIGHT > 1400


def test_what_is_imported(imported, source):
    train = pd.read_csv(imported.train, dtype=str, keep_default_na=False)
    assert Counter(train[LABELS[PRESENT]]) == {"1": 31, "0": 8}
    scans = pd.read_csv(imported.root / "imported_scans.csv")
    scaled = scans.notes.fillna("").str.contains("scaled to 16 bits")
    assert Counter(scaled) == {True: 19, False: 20}
    codes = {
        "".join(nib.aff2axcodes(nib.load(path).affine))
        for path in source.glob("sub-*/*/*/*_angio.nii.gz")
    }
    assert {"RAS", "LAS", "LPS"} < codes


def test_the_first_stages(imported, source):
    config = {"data_dir": imported.root, "image_size": SIDE, "write_slices": False, "workers": 1}
    assert preprocess_data.main(preprocess_data.Config(**config, check=True)).empty
    assert preprocess_data.main(preprocess_data.Config(**config)).empty
    create_folds.main(create_folds.Config(data_dir=imported.root, folds=4))
    check(imported, source)
