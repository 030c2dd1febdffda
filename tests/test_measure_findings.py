import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from src.artifacts.files import read_json
from src.artifacts.paths import DataFolder, EncoderFolder, RunFolder
from src.artifacts.tables import read_fold, read_table
from src.dicom import open_series
from src.inference.ensemble import Prediction, Predictor
from src.inference.findings import Finding
from src.labels import LABELS, LOCATIONS, PRESENT
from src.sampling.spots import parse_coordinates
from src.sampling.view import view_of
from src.script import UserError
from tests.dicom_files import AXES, SPACING, places, volume, write_slices
from tests.networks import ENCODER, write_both
from tools import measure_findings
from tools.measure_findings import Config, finding_row, place, radii_of_spots
from tools.scoring.localisation import summary

VIEW = view_of(np.ones(2), 48, 40)
IGNORED = pd.DataFrame(columns=["SeriesInstanceUID", "x", "y", "z", "radius"])


def finding_at(
    slice_: int, x: float, y: float, probability: float, label: str = LOCATIONS[0]
) -> Finding:
    return Finding(label, probability, slice_, "1.2", -1, x, y, None, None)


@pytest.fixture
def networks(tiny, tmp_path):
    return write_both(tiny, tmp_path).root.parents[1]


def test_places_are_millimetres_of_the_stored_image(tmp_path):
    """Spacings that all differ, and a series that tells none."""
    axes = AXES["axial"]
    folder = write_slices(
        tmp_path / "a", volume((3, 12, 10)), places(axes, 3), [*axes[2], *axes[1]]
    )
    np.testing.assert_allclose(
        place(open_series(folder), 1, 4.0, 6.0), [4 * SPACING[2], 6 * SPACING[1], 10 + SPACING[0]]
    )
    bare = write_slices(tmp_path / "b", volume((3, 12, 10)), None, None, PixelSpacing=None)
    np.testing.assert_allclose(place(open_series(bare), 1, 4.0, 6.0), [4 * 0.5, 6 * 0.5, 1.0])


@pytest.mark.parametrize(("plane", "left"), [("axial", 1.5), ("sagittal", 2 * SPACING[0])])
def test_left_of_the_middle_of_the_head(plane, left, tmp_path):
    """The view shows the middle of 10 columns; of 7 sagittal slices the middle one is number 3."""
    axes = AXES[plane]
    folder = write_slices(tmp_path, volume(), places(axes, 7), [*axes[2], *axes[1]])
    series = open_series(folder)
    at = (4.5 + 3, 5.5)  # 3 columns of 0.5 mm from the middle, to the left or to the back
    finding = replace(finding_at(5, *at, 0.9), patient=series.patient_point(5, *at))
    nothing = np.zeros(14), np.arange(7), np.zeros((7, 14)), None
    prediction = Prediction(*nothing, [finding], view_of(np.ones(2), 48, 40))
    assert measure_findings.mm_left(series, prediction) == pytest.approx([left])


def test_a_finding_is_judged_by_the_nearest_aneurysm():
    truth = [(LOCATIONS[1], np.array([0.0, 0.0, 0.0])), (LOCATIONS[2], np.array([30.0, 0.0, 0.0]))]
    row = finding_row("1.2", 0, finding_at(0, 0, 0, 0.9), np.array([27.0, 4.0, 12.0]), truth)
    assert (row["location"], row["mm"], row["mm_along"], row["mm_in_plane"]) == (
        LOCATIONS[2],
        13.0,
        12.0,
        5.0,
    )
    assert finding_row("1.2", 0, finding_at(0, 0, 0, 0.9), np.zeros(3), [])["mm"] == np.inf


def test_the_froc_equals_counting():
    """Random hits and false findings; each rate against a threshold found by trying all."""
    generator = np.random.default_rng(0)
    found, aneurysms, everything, hits = [], [], [], []
    for series in range(40):
        uid = f"1.{series}"
        everything.append({"SeriesInstanceUID": uid, "read": True, LABELS[PRESENT]: series % 2})
        if series % 2:
            hit = generator.random() if generator.random() < 0.8 else 0.0
            hits.append(hit)
            true = {"SeriesInstanceUID": uid, "location": LOCATIONS[3], "radius": np.nan}
            aneurysms.append(true | {"x": 7.0, "y": 1.0, "z": -4.0})
            found.append(
                {
                    "SeriesInstanceUID": uid,
                    "rank": 0,
                    "probability": hit,
                    "label": LOCATIONS[3 if series % 4 == 1 else 2],
                    "location": LOCATIONS[3],
                    "mm": 5.0,
                    "x": 10.0,
                    "y": 1.0,
                    "z": -8.0,
                }
            )
        for rank in range(1, 4):
            found.append(
                {
                    "SeriesInstanceUID": uid,
                    "rank": rank,
                    "probability": generator.random() * 0.8,
                    "label": LOCATIONS[0],
                    "location": "",
                    "mm": np.inf,
                    "x": 50.0 * rank,
                    "y": 1.0,
                    "z": -4.0,
                }
            )
    found = pd.DataFrame(found).assign(mm_along=1.5, mm_in_plane=2.5, mm_left=np.nan)
    found.loc[found.index[:4], "mm_left"] = [
        10.1,
        -10.1,
        -9.9,
        40.0,
    ]  # 3 named left, 1 right
    unread = {"SeriesInstanceUID": "1.99", "read": False, LABELS[PRESENT]: 1}
    table = {
        row["name"]: row["value"]
        for row in summary(
            found,
            pd.DataFrame([*everything, unread]),
            pd.DataFrame(aneurysms),
            IGNORED,
        )
    }
    hits = np.array(hits)
    wrong = found[found.mm > 10].probability.to_numpy()
    for rate in (0.25, 0.5, 1.0, 2.0):
        allowed = [t for t in (*wrong, 0.0) if (wrong > t).sum() <= rate * 40]
        expected = (hits > min(allowed)).mean()
        name = f"aneurysms hit within 10 mm at {rate:g} false findings a series"
        assert table[name].startswith(f"{expected:.3f} ({expected * 20:.0f} of 20, ")
    assert table["series, how many could be read; aneurysms in these"] == "41, 40; 20"
    assert table["    median distance along the slices, in the plane"] == "1.5 mm, 2.5 mm"
    assert table["    location named rightly, of those within 10 mm"].startswith("0.500 (")
    other_side = "    named on the other side than the aneurysm, of those that both have one"
    assert table[other_side].startswith("0.500 (") and table[other_side].endswith("; 10 of 20)")
    wrong_side = table["findings with a side that are over 10 mm on the other one"]
    assert wrong_side == "0.667 (0.208 to 0.939; 2 of 3)"  # 0.2077 to 0.9385 by hand


def test_perfect_findings_hit_everything_and_files_are_written(tiny, networks, monkeypatch, capsys):
    """Findings put on the localizers themselves, through the whole tool."""
    localizers = read_table(tiny.localizers)

    def explain(self, prepared, batch_size, rules):
        series, found = prepared.series, []
        for row in localizers[
            localizers.SeriesInstanceUID == series.slices[0].file.series_uid
        ].itertuples():
            x, y, frame = parse_coordinates(row.coordinates)
            stored = zip(series.sop_uids, series.frames.tolist(), strict=True)
            slice_ = next(
                k
                for k, (uid, number) in enumerate(stored)
                if uid == row.SOPInstanceUID and number in (-1, frame)
            )
            found.append(finding_at(slice_, x, y, 0.9, row.location))
        return Prediction(np.zeros(len(LABELS)), np.arange(1), np.zeros((1, 14)), None, found, VIEW)

    monkeypatch.setattr(Predictor, "explain", explain)
    _, held_out = read_fold(tiny, 0)
    measure_findings.main(Config(tiny.root, networks, ENCODER, 0, "cpu"))
    shown = capsys.readouterr().out
    run = RunFolder(networks, ENCODER, 0)
    held_out_folds, *rows = read_json(EncoderFolder(networks, ENCODER).localisation)["rows"]
    assert held_out_folds["value"] == "0"
    assert all(f"{row['value']}" in shown for row in rows)
    assert rows[0]["value"].startswith(f"{len(held_out)}, ")
    assert rows[1]["value"].startswith("1.000 of") and rows[3]["value"].startswith("1.000 (")
    assert rows[4]["value"].startswith("0.000 (")  # all sides are those of the aneurysms
    froc = [row["value"] for row in rows[6:]]
    assert len(froc) == 4 and len(set(froc)) == 1  # without sizes there is one rule
    assert re.match(r"1\.000 \((\d+) of \1, threshold 0\.00, all findings: 0\.00; 0\.", froc[0])
    assert (pd.read_csv(run.findings).mm < 1e-6).all()


def test_sizes_of_localizers_reach_the_rules(tmp_path):
    """A radius, a volume, none; found again by the text of the coordinates."""
    texts = [f"{{'x': {k}.5, 'y': 2.0}}" for k in range(3)]
    localizers = pd.DataFrame({"SeriesInstanceUID": "1.2", "SOPInstanceUID": ["1.3", "1.4", "1.3"]})
    localizers = localizers.assign(coordinates=texts, location=LOCATIONS[0])
    localizers["radius_mm"], localizers["volume_mm3"] = [2.5, "", ""], ["", 4 / 3 * np.pi, ""]
    data = DataFolder(tmp_path)
    localizers.to_csv(data.localizers, index=False)
    spots = localizers.drop(columns=["radius_mm", "volume_mm3"]).iloc[[2, 1, 0, 0]]
    np.testing.assert_allclose(radii_of_spots(data, spots), [np.nan, 1, 2.5, 2.5])
    places = {"y": 0.0, "z": 0.0, "location": LOCATIONS[0]}
    aneurysms = pd.DataFrame({"SeriesInstanceUID": "1.2", "x": [0.0, 40.0], "radius": [2.5, 1.0]})
    found = pd.DataFrame({"SeriesInstanceUID": "1.2", "x": [2.0, 43.0], "probability": [0.9, 0.8]})
    found = found.assign(
        rank=[0, 1], mm=[2.0, 3.0], mm_along=0, mm_in_plane=0, label="", mm_left=0, **places
    )
    series = pd.DataFrame([{"SeriesInstanceUID": "1.2", "read": True, LABELS[PRESENT]: 1}])
    rows = summary(found, series, aneurysms.assign(**places), IGNORED)
    table = {row["name"]: row["value"] for row in rows}
    assert table["aneurysms hit within 10 mm at 1 false findings a series"].startswith("1.000 (2 ")
    radius = "aneurysms hit within the aneurysm's own radius at 0.25 false findings a series"
    assert table[radius].startswith("0.500 (1 of 2, threshold 0.80;")
    assert table["    of diameter under 3 mm, within 10 mm, at 1"].startswith("1.000 (1 of 1")
    assert table["    of diameter 5 to 10 mm, within 10 mm, at 1"].startswith("1.000 (1 of 1")


def test_without_any_finding_it_is_one_sentence(tiny, networks, monkeypatch):
    nothing = Prediction(np.zeros(len(LABELS)), np.arange(1), np.zeros((1, 14)), None, [], VIEW)
    monkeypatch.setattr(Predictor, "explain", lambda *_: nothing)
    with pytest.raises(UserError, match="no finding"):
        measure_findings.main(Config(tiny.root, networks, ENCODER, 0, "cpu"))
