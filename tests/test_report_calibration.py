"""Findings in the report's calibration: what is read, which are unknown, how they are fitted."""

import os

import numpy as np
import pandas as pd
import pytest

from src.artifacts.calibration import read_calibration
from src.artifacts.paths import ArtifactError, DataFolder, EncoderFolder, RunFolder
from src.artifacts.tables import read_folds, write_table
from src.evaluation import calibration, platt
from src.labels import LABELS, PRESENT
from tests.evaluations import evaluate, make_tables
from tools import report
from tools.pages import report_calibration, report_figures
from tools.pages.report_inputs import UID
from tools.pages.report_weights import WeightsCheck

DRAWS = 30


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """(settings of a report, its series); pictures take no time."""
    monkeypatch.setattr(report_figures, "png", lambda draw, *content: b"\x89PNG no picture")
    config = report.Config(tmp_path / "data", tmp_path / "model", "net/small", DRAWS)
    return config, make_tables(DataFolder(config.data_dir))


def write_findings(config, series, fold, seed=0) -> pd.DataFrame:
    """Write three findings a series, as tools/measure_findings.py; hits are rarer than they say."""
    generator = np.random.default_rng(seed)
    held_out = series if fold == "all" else series[series.fold == fold]
    table = held_out[[UID, LABELS[PRESENT]]].loc[held_out.index.repeat(3)]
    table["probability"] = generator.random(len(table))
    near = np.where(generator.random(len(table)) < table.probability**2, 4.0, 40.0)
    table["mm"] = np.where(table[LABELS[PRESENT]] == 1, near, np.inf)
    run = RunFolder(config.model_dir, config.encoder, fold)
    write_table(run.findings, table[[UID, "probability", "mm"]])
    return table


def read(config) -> pd.DataFrame:
    folds = read_folds(DataFolder(config.data_dir))
    check = WeightsCheck()
    return report_calibration.read_findings(folds, config.model_dir, config.encoder, check)


def test_findings_are_fitted_on_hits_and_the_page_has_a_row(quick):
    config, series = quick
    for fold in (0, 1):
        evaluate(config, series, fold)
    table = write_findings(config, series, "all")
    page = report.main(config).read_text()
    hits = (table.mm <= 10).to_numpy(float)
    logits = calibration.logit(table.probability.to_numpy())
    found = read_calibration(EncoderFolder(config.model_dir, config.encoder))
    assert found.findings == pytest.approx(platt.fit_one(hits, logits), rel=1e-4)
    assert "a finding within 10 mm of an aneurysm" in page
    assert "Findings are not calibrated" not in page
    hit, before, after = report_calibration.crossfitted_findings(read(config))
    errors = [calibration.calibration_error(hit, calibration.sigmoid(x)) for x in (before, after)]
    assert errors[1] < errors[0] / 2
    for fold in range(3):  # one map a fold: the order of its findings stays
        inside = (read(config).fold == fold).to_numpy()
        np.testing.assert_array_equal(np.argsort(before[inside]), np.argsort(after[inside]))


def test_findings_of_a_fold_are_the_newer_of_its_own_and_those_of_all(quick):
    config, series = quick
    tables = {}
    for fold, seconds in ((0, 5), (1, 15), ("all", 10)):
        tables[fold] = write_findings(config, series, fold, seed=1 + seconds)
        path = RunFolder(config.model_dir, config.encoder, fold).findings
        os.utime(path, (1e9, 1e9 + seconds))
    found = read(config)
    assert len(found) == len(tables["all"])
    expected = set(tables[1].probability)
    assert expected <= set(found.probability) and found.fold.nunique() == 3
    assert not set(tables[0].probability) & set(found.probability)


def test_no_finding_is_a_miss_where_nobody_knows_the_place(quick):
    config, series = quick
    table = write_findings(config, series, 0)
    table.loc[table[LABELS[PRESENT]] == 1, "mm"] = np.inf
    run = RunFolder(config.model_dir, config.encoder, 0)
    write_table(run.findings, table[[UID, "probability", "mm"]])
    present = read(config).merge(series[[UID, LABELS[PRESENT]]], on=UID)
    assert present.hit[present[LABELS[PRESENT]] == 1].isna().all()
    assert (present.hit[present[LABELS[PRESENT]] == 0] == 0).all()


def test_without_files_there_are_no_findings(quick):
    assert read(quick[0]).empty


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [(UID, "9.9", "which is in no fold"), ("probability", 2.0, "holds no findings"),
     ("mm", -1.0, "holds no findings")],
)  # fmt: skip
def test_other_findings_are_refused(quick, column, value, said):
    config, series = quick
    table = write_findings(config, series, 0)
    table[column] = value
    run = RunFolder(config.model_dir, config.encoder, 0)
    write_table(run.findings, table[[UID, "probability", "mm"]])
    with pytest.raises(ArtifactError, match=said):
        read(config)
