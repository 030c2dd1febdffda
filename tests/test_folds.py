import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.labels import LABELS, MODALITIES, PRESENT
from src.sampling.folds import deal, patients
from src.script import UserError


def table(rows=300, seed=0, patients_share=0.1):
    generator = np.random.default_rng(seed)
    labels = np.zeros((rows, len(LABELS)), int)
    for row in np.flatnonzero(generator.random(rows) < 0.43):
        labels[row, [generator.integers(PRESENT), PRESENT]] = 1
    series = pd.DataFrame(labels, columns=list(LABELS))
    series["SeriesInstanceUID"] = [f"1.2.{seed}.{k}" for k in range(rows)]
    series["Modality"] = generator.choice(MODALITIES, rows)
    series["PatientSex"] = generator.choice(["Female", "Male"], rows)
    shared = generator.random(rows) < patients_share
    series["patient_id"] = np.where(
        shared, "P" + (np.arange(rows) // 2).astype(str), series.SeriesInstanceUID
    )
    return series


def test_folds_are_disjoint_and_stratified():
    series = table()
    fold = deal(series, 10, 42)
    assert np.bincount(fold).tolist() == pytest.approx([30] * 10, abs=3)
    present = series.groupby(fold)[LABELS[PRESENT]].sum()
    assert present.max() - present.min() <= 3
    for modality in MODALITIES:
        counts = (series.Modality == modality).groupby(fold).sum()
        assert counts.max() - counts.min() <= 5


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 100), st.integers(2, 10))
def test_folds_do_not_depend_on_the_order_of_rows_and_keep_patients_together(seed, folds):
    series = table(60, seed, 0.4)
    first = pd.Series(deal(series, folds, 1), series.SeriesInstanceUID)
    shuffled = series.sample(frac=1, random_state=seed)
    second = pd.Series(deal(shuffled, folds, 1), shuffled.SeriesInstanceUID)
    assert (first == second.reindex(first.index)).all()
    assert set(first) == set(range(folds))
    by_patient = pd.Series(first.to_numpy()).groupby(series.patient_id.to_numpy()).nunique()
    assert (by_patient == 1).all()


def test_another_seed_deals_equal_series_differently():
    series = table()
    assert (deal(series, 10, 1) != deal(series, 10, 2)).any()


def test_a_placeholder_is_nobody():
    series = table(100)
    series["patient_id"] = "ANONYMOUS"
    assert patients(series, 10).nunique() == 100
    series["patient_id"] = ""
    assert patients(series, 10).nunique() == 100


def test_fewer_series_than_folds_is_said():
    with pytest.raises(UserError, match="--folds"):
        deal(table(5), 10, 42)
