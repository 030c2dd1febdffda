import numpy as np
import pandas as pd
import pytest

from src.artifacts.files import read_json
from src.artifacts.paths import RunFolder
from src.evaluation import metrics
from src.evaluation.score_report import group_table, report_series, score_table
from src.labels import LABELS, LOCATIONS, PRESENT


@pytest.fixture
def tables():
    """60 series: truth with modality and plane, and predictions in another order."""
    generator = np.random.default_rng(0)
    labels = (generator.random((60, len(LABELS))) < 0.4).astype(int)
    labels[:, 4] = 0  # a location that never occurs
    probabilities = np.clip(0.3 * labels + 0.7 * generator.random(labels.shape), 0, 1)
    truth = pd.DataFrame(
        {
            "SeriesInstanceUID": [f"1.{k}" for k in range(60)],
            "Modality": ["CTA", "MRA"] * 30,
            "plane": ["axial"] * 58 + ["sagittal"] * 2,
        }
    )
    truth = pd.concat([truth, pd.DataFrame(labels, columns=list(LABELS))], axis=1)
    truth.loc[58:, LABELS[PRESENT]] = 1  # no contrast in the sagittal series
    predictions = pd.DataFrame(probabilities, columns=list(LABELS))
    predictions.insert(0, "SeriesInstanceUID", truth.SeriesInstanceUID)
    return truth, predictions.sample(frac=1, random_state=0)


def test_scores_of_series_are_written_shown_and_split(tables, tmp_path, capsys):
    truth, predictions = tables
    run = RunFolder(tmp_path, "net", "all")
    scores = report_series(run, "stage2", truth, predictions, "title")
    assert read_json(run.scores("stage2")) == scores
    assert scores["n_series"] == 60
    cta = truth[truth.Modality == "CTA"]
    theirs = predictions.set_index("SeriesInstanceUID").loc[cta.SeriesInstanceUID]
    expected = metrics.weighted_score(cta[list(LABELS)].to_numpy(), theirs.to_numpy())
    assert scores["groups"]["Modality"]["CTA"] == expected | {"n_series": 30}
    assert scores["groups"]["plane"]["sagittal"] == {"n_series": 2}
    low, high = scores["intervals"]["score"]
    assert low < scores["score"] < high
    assert scores["intervals"]["locations"][LOCATIONS[4]] is None
    shown = capsys.readouterr().out
    assert f"{scores['score']:.3f}  {low:.3f} to {high:.3f}" in shown.splitlines()[-2]
    assert len(pd.read_csv(run.predictions("stage2"))) == 60


def test_tables_say_what_is_not_known():
    scores = {"score": 0.5, "present": 0.5, "locations": dict.fromkeys(LOCATIONS)}
    rows = [line.split("  ") for line in score_table(scores, "title").splitlines()]
    assert [LABELS[4], "n/a"] in [[row[0], row[-1].strip()] for row in rows]
    row = group_table({"axial": {"n_series": 2}}, "plane").splitlines()[1]
    assert row.split() == ["axial", "2", "n/a", "n/a", "n/a"]
