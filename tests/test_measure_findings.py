import numpy as np
import pandas as pd
import pytest

from src import artifacts
from src.artifacts import RunFolder
from src.dicom import open_series
from src.findings import Finding
from src.labels import LABELS, LOCATIONS
from src.predictor import Prediction, Predictor
from src.runtime import UserError
from tests.networks import ENCODER, write_both
from tools import measure_findings
from tools.measure_findings import Config, aneurysms_of, distances, summary


def finding_at(slice_: int, x: float, y: float, probability: float, label: str = LOCATIONS[0]) -> Finding:
    return Finding(label, probability, slice_, "1.2", -1, x, y, None, None)


@pytest.fixture
def networks(tiny, tmp_path):
    return write_both(tiny, tmp_path).root.parents[1]


def positive(tiny) -> tuple:
    """A held-out series of fold 0 with an aneurysm, opened, and its localizers."""
    _, held_out = artifacts.read_fold(tiny, 0)
    localizers = artifacts.read_table(tiny.localizers)
    uid = next(uid for uid in held_out.SeriesInstanceUID if uid in set(localizers.SeriesInstanceUID))
    return uid, open_series(tiny.series(uid)), localizers[localizers.SeriesInstanceUID == uid]


def test_distances_are_millimetres_to_the_nearest_aneurysm(tiny):
    uid, series, localizers = positive(tiny)
    truth = aneurysms_of(series, localizers)
    assert [label for label, _ in truth] == localizers.location.tolist()
    slice_ = series.sop_uids.index(localizers.SOPInstanceUID.iloc[0])
    across, down, along = truth[0][1]
    assert along == pytest.approx(series.positions[slice_])
    x, y = across / series.spacing[2], down / series.spacing[1]
    other = slice_ - 1 if slice_ else 1
    rows = distances(uid, [finding_at(slice_, x + 3, y - 4, 0.9), finding_at(other, x, y, 0.5)], series, truth[:1])
    assert rows[0]["mm_in_plane"] == pytest.approx(np.hypot(3 * series.spacing[2], 4 * series.spacing[1]))
    assert rows[0]["mm_along"] == pytest.approx(0, abs=1e-9)
    assert rows[1]["mm_along"] == rows[1]["mm"] == pytest.approx(abs(series.positions[slice_] - series.positions[other]))


def test_the_froc_equals_counting():
    """Hits and false findings drawn at random; each rate against a threshold found by trying all."""
    generator = np.random.default_rng(0)
    found, aneurysms = [], []
    for series in range(40):
        uid = f"1.{series}"
        if series % 2:
            hit = generator.random() if generator.random() < 0.8 else 0.0
            aneurysms.append({"SeriesInstanceUID": uid, "location": LOCATIONS[3], "hit_by": hit})
            found.append(
                {"SeriesInstanceUID": uid, "rank": 0, "probability": hit, "label": LOCATIONS[3 if series % 4 == 1 else 2], "location": LOCATIONS[3], "mm": 5.0}
            )
        else:
            aneurysms.append({"SeriesInstanceUID": uid, "location": np.nan, "hit_by": np.nan})
        for rank in range(1, 4):
            found.append({"SeriesInstanceUID": uid, "rank": rank, "probability": generator.random() * 0.8, "label": LOCATIONS[0], "location": "", "mm": np.inf})
    found = pd.DataFrame(found).assign(mm_along=1.5, mm_in_plane=2.5)
    table = {row["name"]: row["value"] for row in summary(found, pd.DataFrame(aneurysms))}
    hits = np.array([row["hit_by"] for row in aneurysms if row["location"] == LOCATIONS[3]])
    wrong = found[found.mm > 10].probability.to_numpy()
    for rate in (0.25, 0.5, 1.0, 2.0):
        allowed = [t for t in (*wrong, 0.0) if (wrong > t).sum() <= rate * 40]
        expected = (hits > min(allowed)).mean()
        assert table[f"aneurysms hit at {rate:g} false findings a series"].startswith(f"{expected:.3f}")
    assert table["series, aneurysms in them"] == "40, 20"
    assert table["    median distance along the slices, in the plane"] == "1.5 mm, 2.5 mm"
    assert table["    location named rightly, of those within 10 mm"] == "0.500"


def test_perfect_findings_hit_everything_and_files_are_written(tiny, networks, monkeypatch, capsys):
    """Findings put on the localizers themselves, through the whole tool."""
    localizers = artifacts.read_table(tiny.localizers)

    def predict(self, prepared, batch_size, least):
        series, found = prepared.series, []
        for row in localizers[localizers.SeriesInstanceUID == series.slices[0].file.series_uid].itertuples():
            x, y, frame = measure_findings.parse_coordinates(row.coordinates)
            stored = zip(series.sop_uids, series.frames.tolist(), strict=True)
            slice_ = next(k for k, (uid, number) in enumerate(stored) if uid == row.SOPInstanceUID and number in (-1, frame))
            found.append(finding_at(slice_, x, y, 0.9, row.location))
        return Prediction(np.zeros(len(LABELS)), np.arange(1), np.zeros((1, 14)), None, found, 40)

    monkeypatch.setattr(Predictor, "predict", predict)
    _, held_out = artifacts.read_fold(tiny, 0)
    measure_findings.main(Config(tiny.root, networks, ENCODER, 0, "cpu"))
    shown = capsys.readouterr().out
    run = RunFolder(networks, ENCODER, 0)
    rows = artifacts.read_json(run.localisation)["rows"]
    assert all(f"{row['value']}" in shown for row in rows)
    assert rows[0]["value"].startswith(f"{len(held_out)}, ")
    assert rows[1]["value"].startswith("1.000 of") and rows[3]["value"] == "1.000"
    assert {row["value"] for row in rows[4:]} == {"1.000 (threshold 0.00)"}
    assert (pd.read_csv(run.findings).mm < 1e-6).all()


def test_without_any_finding_it_is_one_sentence(tiny, networks, monkeypatch):
    nothing = Prediction(np.zeros(len(LABELS)), np.arange(1), np.zeros((1, 14)), None, [], 40)
    monkeypatch.setattr(Predictor, "predict", lambda *_: nothing)
    with pytest.raises(UserError, match="no finding"):
        measure_findings.main(Config(tiny.root, networks, ENCODER, 0, "cpu"))
