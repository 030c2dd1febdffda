"""The search for leaks in a demo set (tools/experiments/check_leaks.py) finds one, if any."""

import numpy as np
import pandas as pd
import pytest

from src.labels import LABELS, PRESENT
from src.script import UserError
from tools import make_demo_data
from tools.experiments import check_leaks


def test_a_leak_is_found_and_noise_is_not():
    rng = np.random.default_rng(0)
    present = rng.integers(0, 2, 400)
    features = {
        "leak": pd.DataFrame({"leaks": present + rng.normal(0, 0.5, 400)}),
        "noise": pd.DataFrame(rng.normal(size=(400, 5))),
    }
    aucs = check_leaks.score(features, present, np.arange(400), check_leaks.Config())
    assert all((auc > 0.8) == name.startswith("leak") for name, auc in aucs.items())
    assert max(auc for name, auc in aucs.items() if name.startswith("noise")) < check_leaks.LIMIT


def test_series_of_one_patient_stay_in_one_fold():
    rng = np.random.default_rng(0)
    groups = np.arange(400) // 2
    patient = rng.normal(size=(200, 3))[groups]  # features and labels are those of the patient
    present = rng.integers(0, 2, 200)[groups]
    features = {"patient": pd.DataFrame(patient)}
    aucs = check_leaks.score(features, present, groups, check_leaks.Config())
    assert max(aucs.values()) < 0.65


def test_it_reads_a_demo_set_of_every_kind(tmp_path):
    make_demo_data.main(
        make_demo_data.Config(tmp_path / "data", series=36, matrix=48, slices=8, seed=3)
    )
    train = pd.read_csv(tmp_path / "data" / "train.csv")
    assert train[LABELS[PRESENT]].nunique() == 2
    aucs = check_leaks.main(check_leaks.Config(tmp_path / "data", folds=3))
    assert len(aucs) == 4
    assert all(0 <= auc <= 1 for auc in aucs.values())


def test_a_missing_set_is_named(tmp_path):
    with pytest.raises(UserError, match=r"train\.csv is missing"):
        check_leaks.main(check_leaks.Config(tmp_path))
