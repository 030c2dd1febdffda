"""tools/predict.py --output: files beside the page; what a series cannot have is listed."""

import json

import nibabel as nib
import pandas as pd
import pytest
from pydicom import dcmread

from src.artifacts.tables import read_fold
from src.dicom import DicomError, open_all
from tests.networks import ENCODER, write_both
from tools import predict
from tools.outputs import nifti
from tools.outputs.source import OutputError
from tools.outputs.write import KINDS


@pytest.fixture(scope="module")
def networks(tiny, tmp_path_factory):
    model_dir = tmp_path_factory.mktemp("model")
    write_both(tiny, model_dir, cut=7)
    return model_dir


def test_all_outputs_of_a_series(tiny, networks, tmp_path, monkeypatch, capsys):
    first, second = read_fold(tiny, 0)[1].SeriesInstanceUID[:2]

    def write_of_the_first(out, name, *others):
        if name == second:
            raise OutputError("no grid")
        written(out, name, *others)

    written = nifti.write
    monkeypatch.setattr(nifti, "write", write_of_the_first)
    folders = tiny.series(first), tiny.series(second)
    config = predict.Config(folders, tmp_path, networks, ENCODER, device="cpu", output=KINDS)
    predictions, failed = predict.main(config)
    assert len(predictions) == 2
    assert "2 series, 0 failed, 1 outputs refused" in capsys.readouterr().out
    assert failed.to_numpy().tolist() == [[second, "no_nifti", "no grid"]]
    assert pd.read_csv(tmp_path / "failed_series.csv").reason.tolist() == ["no_nifti"]
    for uid in (first, second):
        findings = json.loads((tmp_path / f"{uid}.json").read_text())["findings"]
        [markups] = json.loads((tmp_path / f"{uid}.mrk.json").read_text())["markups"]
        assert [point["position"] for point in markups["controlPoints"]] == [
            finding["patient"] for finding in findings
        ]
        assert (tmp_path / f"{uid}.capture-1.dcm").is_file()
        report = dcmread(tmp_path / f"{uid}.sr.dcm")
        assert len(report.ContentSequence[-1].ContentSequence) == 1 + len(findings)
    heat = nib.load(tmp_path / f"{first}.nii.gz").get_fdata()
    slices = json.loads((tmp_path / f"{first}.json").read_text())["slices"]
    assert heat.shape[2] == len(slices["slice"]) and 0 <= heat.min() <= heat.max() <= 1
    assert not (tmp_path / f"{second}.nii.gz").exists()


def test_outputs_are_no_series_of_the_next_run(tiny, networks, tmp_path):
    [uid] = read_fold(tiny, 0)[1].SeriesInstanceUID[:1]
    config = predict.Config((tiny.series(uid),), tmp_path, networks, ENCODER, device="cpu")
    config.output = ("sr", "capture")
    predict.main(config)
    (tmp_path / "dicom").mkdir()
    for path in tmp_path.glob("*.dcm"):
        path.rename(tmp_path / "dicom" / path.name)
    with pytest.raises(DicomError) as caught:
        open_all(tmp_path / "dicom")
    assert caught.value.reason == "other_modality"
