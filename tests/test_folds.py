import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.labels import LABELS, MODALITIES, PRESENT
from src.sampling.folds import deal, patients, seeded_order
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


@pytest.mark.parametrize("folds", [2, 3, 10])
@pytest.mark.parametrize("sex", ["Female", None, np.nan, "absent"])
def test_folds_are_dealt_round_robin_down_the_sorted_table(folds, sex):
    """By the slow definition: sort keys as tuples, then one patient after the other."""
    series = table(40, 3, 0.5).sample(frac=1, random_state=0)
    if sex == "absent":
        series = series.drop(columns="PatientSex")
    else:
        series.loc[series.index % 3 == 0, "PatientSex"] = sex

    def key(row):
        given = row.get("PatientSex")
        known = given if isinstance(given, str) else ""
        locations = [row[label] for label in LABELS[:PRESENT]]
        tie = seeded_order(row["SeriesInstanceUID"], 7)
        return row[LABELS[PRESENT]], row["Modality"], known, *locations, tie

    order, fold_of = sorted(series.to_dict("records"), key=key), {}
    for row in order:
        fold_of.setdefault(row["patient_id"], len(fold_of) % folds)
    assert len(fold_of) < len(series)
    assert deal(series, folds, 7).tolist() == [fold_of[name] for name in series.patient_id]


def test_the_order_of_ties_is_a_hash_that_never_changes():
    """Folds must stay what they are from one version to the next."""
    assert seeded_order("1.2.3", 42) == 11010472224404344365
    assert seeded_order("1.2.3", 43) != seeded_order("1.2.3", 42)


@pytest.mark.parametrize(
    ("count", "rows", "is_one_patient"),
    [(1, 4, True), (2, 4, True), (3, 20, False), (3, 30, True), (4, 30, False), (3, 29, False)],
)
def test_an_id_of_more_than_a_fold_of_all_series_is_a_placeholder(count, rows, is_one_patient):
    """Of 10 folds; an id of 1 or 2 series is always a patient."""
    names = [" P "] * count + [f"other {k}" for k in range(rows - count)]
    uids = [f"1.{k}" for k in range(rows)]
    found = patients(pd.DataFrame({"patient_id": names, "SeriesInstanceUID": uids}), 10)
    assert found[:count].tolist() == (["P"] * count if is_one_patient else uids[:count])
    assert found[count:].tolist() == names[count:]


def test_series_without_an_id_are_patients_of_their_own():
    table = pd.DataFrame({"patient_id": [None, " ", np.nan], "SeriesInstanceUID": ["1", "2", "3"]})
    assert patients(table, 3).tolist() == ["1", "2", "3"]


def test_as_many_patients_as_folds_are_enough():
    assert sorted(deal(table(5, patients_share=0), 5, 42)) == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="5 series of 3 patients cannot fill 4 folds"):
        deal(table(5, patients_share=1), 4, 42)
