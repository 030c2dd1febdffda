"""Outputs that a series cannot have, and what they hold of the patient."""

import gzip
import sys
import warnings

import pytest
from pydicom import dcmread

from src.labels import LABELS, LOCATIONS
from src.script import UserError
from tests.predicted import STUDY, predicted
from tests.test_outputs import fiducials, items_of, written
from tools.outputs import sr
from tools.outputs.write import require_packages

FIELD = {  # what the codes are, by hand
    "Internal Carotid Artery": "86117002",
    "Middle Cerebral Artery": "17232002",
    "Anterior Communicating Artery": "8012006",
    "Anterior Cerebral Artery": "60176003",
    "Posterior Communicating Artery": "43119007",
    "Basilar Tip": "59011009",
    "Other Posterior Circulation": "51114001",
}


@pytest.mark.parametrize("irregular", [{"missing": 2}, {"tilt": 0.6}])
def test_irregular_slices_have_no_heatmap_but_the_rest(irregular, tmp_path):
    case = predicted(tmp_path / "1.2.3", **irregular)
    refused = written(tmp_path / "out", case)
    assert list(refused) == ["nifti"] and "no grid fits its slices" in refused["nifti"]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"a.mrk.json", "a.sr.dcm", "a.capture-1.dcm"}


def test_slices_that_are_nearly_even_have_one(tmp_path):
    case = predicted(tmp_path / "1.2.3", tilt=0.01)
    assert written(tmp_path / "out", case, ["nifti"]) == {}


def test_networks_without_heatmap(tmp_path):
    refused = written(tmp_path / "out", predicted(tmp_path / "1.2.3", localised=False))
    assert set(refused) == {"slicer", "nifti"} and "no heatmap" in refused["slicer"]


def test_a_series_without_findings(tmp_path):
    case = predicted(tmp_path / "1.2.3")
    case.prediction.findings.clear()
    assert written(tmp_path / "out", case) == {}
    assert len(fiducials(tmp_path / "out")) == 0
    items = list(items_of(dcmread(tmp_path / "out" / "a.sr.dcm")))
    texts = [item.TextValue for item in items if "TextValue" in item]
    assert f"Series: {LABELS[-1]}" in texts
    assert not [item for item in items if item.ValueType == "SCOORD"]
    assert [item.MeasuredValueSequence[0].NumericValue for item in items
            if item.ValueType == "NUM"] == [90]  # fmt: skip
    assert len(list((tmp_path / "out").glob("*.capture-*"))) == 1


def test_a_finding_beyond_the_image_is_reported_at_its_edge(tmp_path):
    case = predicted(tmp_path / "1.2.3")
    case.prediction.findings[0].x, case.prediction.findings[0].y = -3.0, 99.0
    assert written(tmp_path / "out", case, ["sr", "capture"]) == {}
    items = items_of(dcmread(tmp_path / "out" / "a.sr.dcm"))
    [point] = [item.GraphicData for item in items if item.ValueType == "SCOORD"]
    assert point == [0, 40]  # the phantom has 40 rows


def test_captures_of_an_earlier_run_go(tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("a.capture-1.dcm", "a.capture-7.dcm", "b.capture-1.dcm"):
        (tmp_path / "out" / name).touch()
    written(tmp_path / "out", predicted(tmp_path / "1.2.3"), ["capture"])
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["a.capture-1.dcm", "b.capture-1.dcm"]


def test_a_series_without_places_in_the_patient(tmp_path):
    case = predicted(tmp_path / "1.2.3", placed=False)
    refused = written(tmp_path / "out", case)
    assert set(refused) == {"slicer", "nifti"}
    assert "does not say where" in refused["slicer"] and refused["nifti"] == refused["slicer"]
    assert "ImagePositionPatient" not in dcmread(tmp_path / "out" / "a.capture-1.dcm")


@pytest.mark.parametrize("tags", [{"StudyInstanceUID": None}, {"StudyDate": "Jane Doe"}])
def test_files_that_no_dicom_object_can_refer_to(tags, tmp_path):
    case = predicted(tmp_path / "1.2.3", **tags)
    refused = written(tmp_path / "out", case)
    assert "sr" in refused and not {"slicer", "nifti"} & set(refused)
    assert "Jane" not in str(refused)


def test_what_the_outputs_say_of_the_patient(tmp_path):
    """A PACS files by patient and study: these are the source's. Nothing else of it is copied."""
    case = predicted(tmp_path / "1.2.3")
    out = tmp_path / "out"
    assert written(out, case) == {}
    nifti = gzip.decompress((out / "a.nii.gz").read_bytes())
    for content in ((out / "a.mrk.json").read_bytes(), nifti):
        assert not [word for word in (b"Jane", b"Doe", b"p1", b"1950") if word in content]
    for name in ("a.sr.dcm", "a.capture-1.dcm"):
        content, data = (out / name).read_bytes(), dcmread(out / name)
        for tag, value in STUDY.items():
            if tag not in ("SpecificCharacterSet", "PatientComments", "FrameOfReferenceUID"):
                assert data[tag].value == value, tag
        assert data.PatientID == "p1" and content.count(b"Jane") == 1
        assert b"baker" not in content and data.SeriesInstanceUID != "1.2.3"
        assert "not for diagnosis" in data.SeriesDescription
    assert dcmread(out / "a.capture-1.dcm").FrameOfReferenceUID == STUDY["FrameOfReferenceUID"]


@pytest.mark.parametrize("name", ["Doe", "Jane Doe", "J" * 70, "", "a=b=c=d", "\x1b$B"])
def test_no_warning_quotes_the_patient(name, tmp_path, capfd):
    case = predicted(tmp_path / "1.2.3", PatientName=name)
    capfd.readouterr()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert written(tmp_path / "out", case, ["sr", "capture"]) == {}
    assert not caught and capfd.readouterr() == ("", "")


def test_codes_of_all_locations():
    for label in LOCATIONS:
        site = sr.site_of(label)
        [code] = [code for ending, code in FIELD.items() if label.endswith(ending)]
        assert site.ConceptCodeSequence[0].CodeValue == code
        sides = [item.ConceptCodeSequence[0].CodeValue for item in site.get("ContentSequence", [])]
        expected = {"Left": ["7771000"], "Right": ["24028007"]}
        assert sides == expected.get(label.split()[0], [])


@pytest.mark.parametrize("kind, package", [("nifti", "nibabel"), ("sr", "highdicom")])
def test_missing_packages_are_named(kind, package, monkeypatch):
    require_packages(["slicer", kind, "capture"])
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(UserError, match=f"--output {kind} needs .*pip install {package}=="):
        require_packages(["slicer", kind])
    require_packages(["slicer", "capture"])
