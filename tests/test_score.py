"""tools/score.py as a whole: against tools/report.py, scikit-learn, and what it prints."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from src.artifacts.files import read_json
from src.artifacts.paths import DataFolder, RunFolder
from src.artifacts.tables import write_table
from src.evaluation.scoring import differences
from src.labels import LABELS, PRESENT
from src.script import UserError
from tests.conftest import ROOT
from tests.evaluations import evaluate, make_tables
from tools import report, score
from tools.pages import report_scores
from tools.pages.report_inputs import read_evaluations
from tools.pages.report_weights import WeightsCheck
from tools.scoring import cases, output
from tools.scoring.tables import UID

DRAWS = 40


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Made-up folds with two series a patient, evaluated: (report's Config, table of TRUTH)."""
    root = tmp_path_factory.mktemp("score")
    config = report.Config(root / "data", root / "model", "net", DRAWS)
    data = DataFolder(config.data_dir)
    series = make_tables(data)
    series.loc[series[LABELS[PRESENT]] == 0, list(LABELS[:PRESENT])] = 0
    series["patient_id"] = [f"p{k // 2}" for k in range(len(series))]
    write_table(data.folds(3), series)
    for fold in range(3):
        evaluate(config, series, fold, ("end_to_end",))
    return config, data.folds(3)


def predictions_of(config, tmp_path):
    runs = [RunFolder(config.model_dir, config.encoder, fold) for fold in range(3)]
    parts = [pd.read_csv(run.predictions("end_to_end"), dtype={UID: str}) for run in runs]
    path = tmp_path / "predictions.csv"
    pd.concat(parts).to_csv(path, index=False)
    return path


def test_scores_and_intervals_are_those_of_the_report(made, tmp_path, capsys):
    config, truth = made
    predictions = predictions_of(config, tmp_path)
    found = score.main(score.Config(truth, predictions, draws=DRAWS, out=tmp_path / "scores.json"))
    (pooled,) = read_evaluations(
        DataFolder(config.data_dir), config.model_dir, config.encoder, WeightsCheck()
    ).values()
    expected = report_scores.scores_of(pooled.table, DRAWS)
    assert found["intervals"] == expected["intervals"]
    assert found["locations"] == expected["locations"] and found["present"] == expected["present"]
    assert found["score"] == pytest.approx(expected["score"], abs=1e-12)  # sums in another order
    assert found["n_patients"] == 60 and found["n_series"] == 120
    for column, name in (("Modality", "Modality"), ("plane", "Plane")):
        for value, rows in pooled.table.groupby(column):
            name_, series, positives, weighted, presence, *_ = report_scores.group_row(
                value, rows, DRAWS
            )
            group = found["groups"][name][name_]
            assert (group["n_series"], group["positive"]) == (series, positives)
            if weighted:
                assert group["intervals"]["score"] == weighted.ends
                assert group["present"] == presence.value
                assert group["score"] == pytest.approx(weighted.value, abs=1e-12)
    assert read_json(tmp_path / "scores.json").keys() == found.keys()
    line = next(
        row for row in capsys.readouterr().out.splitlines() if row.startswith("weighted score")
    )
    low, high = found["intervals"]["score"]
    assert line.split()[2:] == [f"{found['score']:.3f}", f"{low:.3f}", "to", f"{high:.3f}"]


def test_the_report_draws_patients(made):
    """Two series a patient: without patients the same table has other intervals."""
    config, _ = made
    (pooled,) = read_evaluations(
        DataFolder(config.data_dir), config.model_dir, config.encoder, WeightsCheck()
    ).values()
    assert pooled.table.patient.nunique() == 60
    by_series = pooled.table.assign(patient=np.arange(120))
    both = [report_scores.scores_of(table, DRAWS) for table in (pooled.table, by_series)]
    assert both[0]["score"] == both[1]["score"]
    assert both[0]["intervals"] != both[1]["intervals"]


def written(tmp_path, rows=60, seed=0, **columns):
    """Write truth.csv with a tenth of the labels unknown, and two files of predictions."""
    generator = np.random.default_rng(seed)
    labels = (generator.random((rows, 14)) < 0.4).astype(float)
    labels[:, PRESENT] = np.maximum(labels[:, PRESENT], labels[:, :PRESENT].any(axis=1))
    labels[: rows // 3] = 0
    labels[generator.random((rows, 14)) < 0.1] = np.nan
    truth = pd.DataFrame(labels, columns=list(LABELS)).assign(**columns)
    truth.insert(0, UID, [f"1.{k:03d}" for k in range(rows)])
    truth.to_csv(tmp_path / "truth.csv", index=False)
    for name, noise in (("good", 0.5), ("bad", 1.5)):
        given = 1 / (1 + np.exp(-generator.normal(np.nan_to_num(labels), noise)))
        table = pd.DataFrame(given, columns=list(LABELS)).assign(**{UID: truth[UID]})
        table.sample(frac=1, random_state=1).to_csv(tmp_path / f"{name}.csv", index=False)
    return truth, tmp_path / "truth.csv", tmp_path / "good.csv"


def test_unknown_labels_are_masked(tmp_path):
    truth, *paths = written(tmp_path)
    found = score.main(score.Config(*paths, draws=5))
    given = pd.read_csv(paths[1], dtype={UID: str}).set_index(UID).loc[truth[UID]]
    areas = []
    for label in LABELS:
        known = truth[label].notna().to_numpy()
        areas.append(roc_auc_score(truth[label][known], given[label][known]))
        counts = found["labels"][label]
        assert counts == {"positive": truth[label].sum(), "negative": (truth[label] == 0).sum()}
        assert found["calibration"][label]["rows"] == known.sum()
    assert list(found["locations"].values()) == pytest.approx(areas[:PRESENT])
    expected = 0.5 * areas[PRESENT] + 0.5 * np.mean(areas[:PRESENT])
    assert found["score"] == pytest.approx(expected)


def test_presence_alone_is_scored(tmp_path, capsys):
    truth, path, predictions = written(tmp_path)
    truth[list(LABELS[:PRESENT])] = np.nan
    truth.to_csv(path, index=False)
    found = score.main(score.Config(path, predictions, draws=5))
    assert found["score"] == found["present"] > 0.5 and found["score_of"] == "present"
    assert found["intervals"]["score"] == found["intervals"]["present"]
    assert "is the AUC of Aneurysm Present alone: the rest is unknown" in capsys.readouterr().out


def test_two_predictions_are_compared_on_the_same_patients(tmp_path, capsys):
    _, *paths = written(tmp_path, PatientID=[f"p{k // 3}" for k in range(60)])
    found = score.main(score.Config(*paths, against=tmp_path / "bad.csv", draws=20))
    arrays = []
    truth = pd.read_csv(paths[0], dtype={UID: str})
    for name in ("good", "bad"):
        table = pd.read_csv(tmp_path / f"{name}.csv", dtype={UID: str}).set_index(UID)
        arrays.append(table.loc[truth[UID], list(LABELS)].to_numpy())
    patients = np.arange(60) // 3
    labels = truth[list(LABELS)].to_numpy()
    assert found["against"] == differences(labels, *arrays, patients, 20)
    assert found["against"]["score"] > 0
    assert "PREDICTIONS less --against" in capsys.readouterr().out


def test_predictions_of_other_series_to_compare_with_are_refused(tmp_path):
    _, *paths = written(tmp_path)
    other = pd.read_csv(tmp_path / "bad.csv", dtype={UID: str}).iloc[3:]
    other.to_csv(tmp_path / "bad.csv", index=False)
    with pytest.raises(UserError, match=r"bad\.csv has no row for 3 of 60 series"):
        score.main(score.Config(*paths, against=tmp_path / "bad.csv"))
    config = score.Config(*paths, against=tmp_path / "bad.csv", only_predicted=True, draws=2)
    assert score.main(config)["n_series"] == 57


def test_sensitivity_and_specificity_stand_at_the_thresholds_that_are_given(tmp_path):
    truth, *paths = written(tmp_path)
    found = score.main(score.Config(*paths, thresholds=(0.3, 0.6), draws=2))["thresholds"]
    given = pd.read_csv(paths[1], dtype={UID: str}).set_index(UID).loc[truth[UID]]
    for label in LABELS:
        for row, threshold in zip(found[label], (0.3, 0.6), strict=True):
            positive = (truth[label] == 1).to_numpy()
            assert row["threshold"] == threshold and row["positives"] == positive.sum()
            assert row["sensitivity"] == (given[label][positive] >= threshold).mean()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"draws": 0}, "--draws"),
        ({"thresholds": (0.5, 1.5)}, "--thresholds"),
        ({"rates": (0.0,)}, "--rates"),
        ({"rates": ()}, "--rates"),
        ({"sizes": (5.0, 3.0)}, "--sizes must rise"),
        ({"ages": (40.0, 40.0)}, "--ages must rise"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, changed, reason):
    with pytest.raises(UserError, match=reason):
        score.main(score.Config(tmp_path / "a", tmp_path / "b", **changed))


def test_froc_and_exit_code(tmp_path, capsys):
    """3 if a series has points without a place."""
    truth, *paths = written(tmp_path, Modality="CTA", PatientAge="041Y")
    positive = truth[truth[LABELS[PRESENT]] == 1][UID].iloc[:2]
    localizers = pd.DataFrame({UID: positive, "x": 1.0, "y": 2.0, "z": 3.0, "radius_mm": 2})
    localizers.to_csv(tmp_path / "train_localizers.csv", index=False)
    findings = localizers[[UID, "x", "y", "z"]].assign(probability=0.9)
    findings.to_csv(tmp_path / "findings.csv", index=False)
    score.main(score.Config(*paths, tmp_path / "findings.csv", draws=2))
    shown = capsys.readouterr().out
    for text in ("FROC, a hit is within 10 mm", "own radius", "3 to 5 mm", "40 to 60 years", "CTA"):
        assert text in shown
    assert f"series: {cases.NO_POINT}" in shown
    beside = pd.concat([findings, findings.iloc[:1].assign(x=90.0)])
    beside.to_csv(tmp_path / "findings.csv", index=False)
    reached = []
    for _ in range(2):  # without treated aneurysms, and with one where a finding is false
        found = score.main(score.Config(*paths, tmp_path / "findings.csv", rates=(5.0,), draws=2))
        reached.append([rule["rows"][0]["reached"] > 0 for rule in found["froc"]["rules"].values()])
        treated = localizers.iloc[:1].assign(x=91.0)
        treated.to_csv(tmp_path / "train_ignored.csv", index=False)
    assert reached == [[True, True], [False, False]]

    pixels = findings.drop(columns="z").assign(SOPInstanceUID="1.2")
    pixels.iloc[:1].to_csv(tmp_path / "findings.csv", index=False)
    command = [sys.executable, ROOT / "tools" / "score.py", *paths, tmp_path / "findings.csv"]
    done = subprocess.run([*command, "--draws", "2"], capture_output=True, text=True)
    assert done.returncode == 3 and "1 series: its DICOM files cannot be read" in done.stdout

    with pytest.raises(UserError, match=r"none\.csv is missing: check --ignored"):
        score.main(score.Config(*paths, tmp_path / "findings.csv", ignored=tmp_path / "none.csv"))
    with pytest.raises(UserError, match=r"nothing\.csv is missing: check the path"):
        score.main(score.Config(*paths, tmp_path / "nothing.csv"))
    (tmp_path / "train_localizers.csv").unlink()
    with pytest.raises(UserError, match="name the csv of the aneurysms: --localizers"):
        score.main(score.Config(*paths, tmp_path / "findings.csv"))


def test_nothing_printed_runs_into_its_neighbour(tmp_path):
    """Each table's columns end where the next begin, also with long names and no interval."""
    _, *paths = written(tmp_path, Modality="an uncommonly long name of a modality")
    text = output.text(score.main(score.Config(*paths, draws=2)))
    line = next(row for row in text.splitlines() if row.startswith("an uncommonly"))
    assert line.split()[-1].count(".") == 1 and "..." in line
    assert max(map(len, text.splitlines())) < 130
