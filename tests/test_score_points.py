"""Findings and aneurysms in millimetres: pixels against coordinates by pydicom, written here."""

import ast
import json

import numpy as np
import pandas as pd
import pydicom
import pytest

from src.artifacts.paths import ArtifactError, DataFolder
from src.artifacts.tables import read_table
from src.evaluation.resampling import patient_numbers
from src.labels import LABELS, PRESENT
from src.script import UserError
from tests.dicom_files import AXES, SPACING, places, stored_as, tilted, volume, write_slices
from tools.scoring import cases
from tools.scoring.points import (
    COLUMNS,
    NoPlace,
    image_point,
    places_of,
    read_aneurysms,
    read_findings,
)
from tools.scoring.tables import UID


def patient_point(path, column, row):
    """Return the equation of DICOM PS3.3 C.7.6.2.1.1, by pydicom alone."""
    file = pydicom.dcmread(path, stop_before_pixels=True)
    origin, spacing = np.array(file.ImagePositionPatient, float), file.PixelSpacing
    across, down = np.split(np.array(file.ImageOrientationPatient, float), 2)
    return origin + across * float(spacing[1]) * column + down * float(spacing[0]) * row


@pytest.fixture(scope="module")
def truth(tiny_dicom):
    """(tables of labels and of localizers, with their place in the patient as a column)."""
    data = DataFolder(tiny_dicom)
    labels, localizers = read_table(data.train), read_table(data.localizers)
    found = []
    for row in localizers.itertuples():
        files = data.series(row.SeriesInstanceUID).iterdir()
        of_slice = [p for p in files if pydicom.dcmread(p).SOPInstanceUID == row.SOPInstanceUID]
        point = ast.literal_eval(row.coordinates)
        found.append(patient_point(of_slice[0], point["x"], point["y"]))
    return labels, localizers.assign(place=found)


def findings_at(localizers, offset, probability):
    """Return findings this many mm beside each aneurysm, in the patient."""
    step = np.array([2, -3, 6]) / 7 * offset
    points = np.stack(localizers.place) + step
    found = pd.DataFrame(points, columns=list("xyz"))
    return found.assign(probability=probability, **{UID: localizers[UID].to_numpy()})


def figures_of(labels, findings, localizers, root=None):
    """Return the FROC. findings: a table, or the folder of json."""
    table = labels.assign(PatientID="")
    if isinstance(findings, pd.DataFrame):
        path = localizers.parent / "findings_of_test.csv"
        findings.to_csv(path, index=False)
        findings = path
    found = read_findings(findings, table[UID].tolist())
    judged = cases.make_cases(table, found, read_aneurysms(localizers), root)
    return cases.froc_figures(judged, patient_numbers(table[UID]), 5)


@pytest.fixture
def data(tiny_dicom, tmp_path):
    """The localizers, where findings may be written beside them."""
    (tmp_path / "train_localizers.csv").write_bytes(DataFolder(tiny_dicom).localizers.read_bytes())
    return DataFolder(tmp_path)


def test_pixels_of_localizers_meet_millimetres_of_findings(truth, tiny_dicom, data):
    """9.99 mm beside each aneurysm is a hit, 10.01 mm is false."""
    labels, localizers = truth
    near, far = findings_at(localizers, 9.99, 0.9), findings_at(localizers, 10.01, 0.8)
    alone = localizers.groupby(UID)[UID].transform("size") == 1  # nothing else is near
    near, far = near[alone.to_numpy()], far[alone.to_numpy()]
    findings = pd.concat([near, far])
    found = figures_of(labels, findings, data.localizers, tiny_dicom / "series")
    (rule,) = found["rules"].values()
    assert rule["cases"] == len(labels) and rule["aneurysms"] == len(localizers)
    for row in rule["rows"]:
        assert row["hit"] == alone.sum()
        assert row["reached"] <= row["rate"]
    last = rule["rows"][-1]
    assert last["threshold"] == 0 and last["reached"] == pytest.approx(len(far) / len(labels))
    assert found["left_out"] == {}


def test_all_ways_to_give_points_are_the_same(truth, tiny_dicom, data, tmp_path):
    """Localizers and findings as pixels or in mm; the folder of json."""
    labels, localizers = truth
    points = pd.DataFrame(np.stack(localizers.place), columns=list("xyz"))
    points[UID] = localizers[UID]
    points.to_csv(tmp_path / "mm.csv", index=False)
    folders = DataFolder(tiny_dicom)
    pixels = localizers[[UID, "SOPInstanceUID"]].copy()
    for name in "xy":
        pixels[name] = [ast.literal_eval(text)[name] for text in localizers.coordinates]
    pixels.to_csv(tmp_path / "pixels.csv", index=False)
    shifted = pixels.assign(x=pixels.x + 1, probability=np.linspace(0.2, 0.9, len(pixels)))
    in_mm = []
    for row in shifted.itertuples():
        files = folders.series(row.SeriesInstanceUID).iterdir()
        path = next(p for p in files if pydicom.dcmread(p).SOPInstanceUID == row.SOPInstanceUID)
        in_mm.append(patient_point(path, row.x, row.y))
    as_mm = shifted.drop(columns=["x", "y", "SOPInstanceUID"])
    as_mm[list("xyz")] = np.stack(in_mm)
    write_jsons(tmp_path / "jsons", labels[UID], shifted, in_mm)
    jsons, found = tmp_path / "jsons", []
    for name, findings in (
        ("train_localizers.csv", jsons),
        ("train_localizers.csv", as_mm),
        ("mm.csv", shifted),
        ("mm.csv", as_mm),
        ("pixels.csv", shifted),
    ):
        rules = figures_of(labels, findings, tmp_path / name, tiny_dicom / "series")["rules"]
        found.append(rules["within 10 mm"]["rows"])
    assert all(rows == found[0] for rows in found)
    assert [row["hit"] for row in found[0]] == [len(localizers)] * 4
    assert [row["reached"] for row in found[0]] == [0] * 4


def write_jsons(folder, uids, findings, in_mm):
    """Write the part of tools/predict.py's files that is read."""
    folder.mkdir()
    for uid in uids:
        rows = []
        for row, place in zip(findings.itertuples(), in_mm, strict=True):
            if row.SeriesInstanceUID == uid:
                pixel = {"sop_uid": row.SOPInstanceUID, "frame": -1, "x": row.x, "y": row.y}
                rows.append(pixel | {"patient": list(place), "probability": row.probability})
        (folder / f"{uid}.json").write_text(json.dumps({"series_uid": uid, "findings": rows}))


@pytest.mark.parametrize("code", ["", "X", "YT"])
def test_oblique_and_flipped_slices(tmp_path, code):
    axes = tilted(AXES["coronal"])
    images, points, orientation, spacing = stored_as(volume(), axes, places(axes, 7), code)
    folder = write_slices(tmp_path / "1.2.3", images, points, orientation, spacing)
    table = pd.DataFrame([["1.2.3", f"1.2.3.{k}", np.nan, 2.5, k] + [np.nan] * 3 for k in (1, 6)])
    (found,) = places_of("1.2.3", tmp_path, table.set_axis(COLUMNS, axis=1))
    for place, k in zip(found, (1, 6), strict=True):
        (path,) = [
            p for p in folder.iterdir() if pydicom.dcmread(p).SOPInstanceUID.endswith(f".{k}")
        ]
        np.testing.assert_allclose(place, patient_point(path, 2.5, k), atol=1e-4)


def test_a_series_without_places_is_measured_in_its_image(tmp_path):
    write_slices(tmp_path / "1.2.3", volume(), None, None)
    pixels = pd.DataFrame(
        [["1.2.3", f"1.2.3.{k}", np.nan, 2.0, 4.0] + [np.nan] * 3 for k in (1, 3)]
    )
    first, second = places_of(
        "1.2.3", tmp_path, *[pixels.set_axis(COLUMNS, axis=1)[k : k + 1] for k in (0, 1)]
    )
    np.testing.assert_allclose(second - first, [[0, 0, 2.0]])  # slices of unknown distance: 1 mm
    np.testing.assert_allclose(first[0, :2], [2 * SPACING[2], 4 * SPACING[1]])
    in_mm = pixels.set_axis(COLUMNS, axis=1).assign(x=1.0, y=2.0, z=3.0, column=np.nan)
    with pytest.raises(NoPlace, match="no place in the patient"):
        places_of("1.2.3", tmp_path, pixels.set_axis(COLUMNS, axis=1), in_mm)


def test_series_that_cannot_be_judged_are_left_out_and_counted(truth, tiny_dicom, tmp_path):
    """A localizer that points nowhere; a positive without localizer; an unknown presence."""
    labels, localizers = truth
    single = localizers[localizers.groupby(UID)[UID].transform("size") == 1][UID]
    nowhere, without = single.iloc[0], single.iloc[1]
    negative = labels[labels[LABELS[PRESENT]] == 0][UID].iloc[0]
    table = localizers.drop(columns="place")
    table.loc[table[UID] == nowhere, "SOPInstanceUID"] = "1.2.3"
    table = table[table[UID] != without]
    table.to_csv(tmp_path / "some.csv", index=False)
    labels = labels.astype({LABELS[PRESENT]: float})
    labels.loc[labels[UID] == negative, LABELS[PRESENT]] = np.nan
    findings = findings_at(localizers, 0.0, 0.9)
    found = figures_of(labels, findings, tmp_path / "some.csv", tiny_dicom / "series")
    assert found["left_out"] == {cases.NO_POINT: 2, "SOPInstanceUID not in the series": 1}
    (rule,) = found["rules"].values()
    assert rule["cases"] == len(labels) - 3
    assert {row["reached"] for row in rule["rows"]} == {0.0}


def test_radius_and_size(tmp_path):
    """Two aneurysms of 4 and 12 mm; findings 3 mm beside each; one of unknown size elsewhere."""
    labels = pd.DataFrame(0, range(4), LABELS).assign(**{UID: ["1.1", "1.2", "1.3", "1.4"]})
    labels[LABELS[PRESENT]] = [1, 1, 1, 0]
    points = pd.DataFrame({UID: ["1.1", "1.2", "1.3"], "x": 1.0, "y": 2.0, "z": 3.0})
    points["radius_mm"], points["volume_mm3"] = ["2", "", ""], ["", 4 / 3 * np.pi * 216, ""]
    points.to_csv(tmp_path / "points.csv", index=False)
    findings = points[[UID, "x", "y"]].assign(z=6.0, probability=[0.9, 0.8, 0.7])
    found = figures_of(labels, findings, tmp_path / "points.csv")
    within, radius = found["rules"].values()
    assert (within["cases"], radius["cases"], radius["aneurysms"]) == (4, 3, 2)
    assert [row["hit"] for row in within["rows"]] == [3] * 4
    assert [row["hit"] for row in radius["rows"]] == [0, 1, 1, 1]  # 1 false one in 3 series
    assert list(found["sizes"]) == ["3 to 5 mm", "10 mm or more", "unknown"]
    assert [rows[0]["hit"] for rows in found["sizes"].values()] == [1, 1, 1]


def judged_cases(count, seed=0):
    """A case of two has an aneurysm; some of each kind have a treated one, of unknown radius."""
    generator = np.random.default_rng(seed)
    uids = [f"1.{k}" for k in range(count)]
    table = pd.DataFrame({UID: uids, LABELS[PRESENT]: np.arange(count) % 2})
    aneurysms = pd.DataFrame(generator.uniform(0, 25, (count // 2, 3)), columns=list("xyz"))
    aneurysms = aneurysms.assign(radius=generator.uniform(1, 9, count // 2), **{UID: uids[1::2]})
    treated = pd.DataFrame(generator.uniform(0, 25, (count // 3, 3)), columns=list("xyz"))
    treated = treated.assign(radius=np.nan, counted=False, **{UID: uids[: count // 3]})
    aneurysms = pd.concat([aneurysms.assign(counted=True), treated], ignore_index=True)
    findings = pd.DataFrame(generator.uniform(0, 25, (5 * count, 3)), columns=list("xyz"))
    chosen = generator.choice(uids, 5 * count)
    findings = findings.assign(probability=generator.random(5 * count), **{UID: chosen})
    return table, findings, aneurysms


def test_both_rules_equal_counting(tmp_path):
    table, findings, aneurysms = judged_cases(60)
    found = cases.make_cases(table, findings, aneurysms, tmp_path)
    figures = cases.froc_figures(found, patient_numbers(table[UID]), 5)
    assert {rule["aneurysms"] for rule in figures["rules"].values()} == {30}
    for name, reaches in ((cases.WITHIN, [10.0] * 50), (cases.RADIUS, aneurysms.radius.fillna(10))):
        hit_by, false = dict.fromkeys(aneurysms[UID][:30], 0.0), []
        for finding in findings.to_dict("records"):
            hits = False
            for true, reach in zip(aneurysms.to_dict("records"), reaches, strict=True):
                apart = sum((finding[axis] - true[axis]) ** 2 for axis in "xyz") ** 0.5
                if true[UID] == finding[UID] and apart <= reach:
                    hits = True
                    if true["counted"]:
                        hit_by[true[UID]] = max(hit_by[true[UID]], finding["probability"])
            false += [] if hits else [finding["probability"]]
        for row in figures["rules"][name]["rows"]:
            fine = [t for t in (0.0, *false) if sum(p > t for p in false) <= row["rate"] * 60]
            assert row["hit"] == sum(p > min(fine) for p in hit_by.values())
        assert 0 < sum(map(bool, hit_by.values())) < 30


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("SeriesInstanceUID,x,y\n1.2,1,2\n", "no places: name columns x, y, z"),
        ("SeriesInstanceUID,x,y,z\n1.2,1,two,3\n", "column 'y', line 2: what is written there"),
        ("SeriesInstanceUID,x,y,z,radius_mm\n1.2,1,2,3,-1\n", "line 2: -1 is no number from 0"),
        ("Series,x,y,z\n1.2,1,2,3\n", "no column 'SeriesInstanceUID'"),
        ("SeriesInstanceUID,SOPInstanceUID,coordinates\n1.2,1.3,here\n", "line 2: coordinates are"),
        ("SeriesInstanceUID,SOPInstanceUID,x,y\n1.2,1.3E+10,1,1\n", "UID before a spreadsheet"),
    ],
)
def test_a_table_of_aneurysms_that_is_none_is_one_sentence(tmp_path, content, reason):
    path = tmp_path / "points.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=reason):
        read_aneurysms(path)


@pytest.mark.parametrize(
    "change",
    [
        {"y": "a"},
        {"x": None},
        {"patient": [1, 2]},
        {"patient": [1, 2, "c"]},
        {"patient": 3},
        {"probability": 1.5},
        {"probability": None},
    ],
)
def test_a_json_of_another_program_is_refused(tmp_path, change):
    fine = {"sop_uid": "1", "frame": -1, "x": 1, "y": 2, "patient": None, "probability": 1}
    path = tmp_path / "1.2.json"
    path.write_text(json.dumps({"findings": [fine]}))
    assert read_findings(tmp_path, ["1.2"]).column.tolist() == [1.0]
    for finding in (fine | change, {}, 7, {"x": 1}):
        path.write_text(json.dumps({"findings": [fine, finding]}))
        with pytest.raises(ArtifactError, match=r"1\.2\.json holds a finding that is none of"):
            read_findings(tmp_path, ["1.2"])


def test_missing_or_empty_findings_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"1\.2\.json is missing: run tools/predict.py"):
        read_findings(tmp_path, ["1.2"])
    (tmp_path / "1.2.json").write_text('{"series_uid": "1.2", "findings": []}')
    with pytest.raises(UserError, match="no finding of any series"):
        read_findings(tmp_path, ["1.2"])


def test_the_place_in_the_image_has_its_axes_in_order(tmp_path):
    class Series:
        spacing, positions = (3.0, 2.0, 0.5), None

    assert image_point(Series, 2, 4.0, 5.0).tolist() == [2.0, 10.0, 6.0]
