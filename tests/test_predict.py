import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import torch

import eval_end_to_end
from src.artifacts.calibration import CALIBRATED_POINTS, POINTS, Calibration, write_calibration
from src.artifacts.checkpoints import read_checkpoint, write_checkpoint
from src.artifacts.paths import ArtifactError, EncoderFolder, RunFolder
from src.artifacts.tables import read_fold
from src.dicom import open_all, open_series
from src.inference.ensemble import Predictor
from src.inference.findings import FindingRules
from src.inference.sources import from_folder
from src.labels import LABELS, MIRROR, PRESENT
from src.progress import Clock
from src.script import UserError
from tests.networks import ENCODER, write_both
from tests.test_predict_page import POINT
from tools import export_onnx, predict


@pytest.fixture(scope="module")
def networks(tiny, tmp_path_factory):
    model_dir = tmp_path_factory.mktemp("model")
    for fold in (0, 1):
        write_both(tiny, model_dir, fold, seed=fold, cut=7)
    return model_dir


@pytest.fixture
def held_out(tiny):
    """Folders of series of fold 0."""
    return [tiny.series(uid) for uid in read_fold(tiny, 0)[1].SeriesInstanceUID]


def run(networks, out, *folders, **options):
    return predict.main(
        predict.Config(tuple(map(Path, folders)), out, networks, ENCODER, device="cpu", **options)
    )


def test_nested_and_mixed_folders_give_one_row_a_series(tiny, networks, held_out, tmp_path, capsys):
    """Two series in one folder, a third one deeper, other files between, an empty folder."""
    study, empty = tmp_path / "study", tmp_path / "empty"
    study.mkdir(), empty.mkdir()
    for number, series in enumerate(held_out[:2]):
        for path in series.iterdir():
            shutil.copy(path, study / f"{number}-{path.name}")
    shutil.copytree(held_out[2], study / "deeper" / "still")
    (study / "notes.txt").write_text("not an image")
    archive = shutil.make_archive(tmp_path / "study", "gztar", study)
    predictions, failed = run(networks, tmp_path / "out", archive, empty)
    assert "1 file belongs to no series (not_dicom)" in capsys.readouterr().out
    assert sorted(predictions.SeriesInstanceUID) == sorted(folder.name for folder in held_out[:3])
    assert failed.reason.tolist() == ["no_dicom"]
    eval_end_to_end.main(eval_end_to_end.Config(tiny.root, networks, encoder=ENCODER, device="cpu"))
    expected = pd.read_csv(RunFolder(networks, ENCODER, 0).predictions("end_to_end")).set_index(
        "SeriesInstanceUID"
    )
    written = pd.read_csv(tmp_path / "out" / "predictions.csv").set_index("SeriesInstanceUID")
    np.testing.assert_allclose(
        written[list(LABELS)], expected.loc[written.index, list(LABELS)], atol=1e-5
    )
    studies = pd.read_csv(tmp_path / "out" / "studies.csv")
    assert studies.series.sum() == 3 and studies.highest.isin(written.index).all()
    assert studies["Aneurysm Present"].max() == written["Aneurysm Present"].max()
    for uid in written.index:
        facts = json.loads((tmp_path / "out" / f"{uid}.json").read_text())
        assert facts["probabilities"]["Aneurysm Present"] == pytest.approx(
            written.loc[uid, "Aneurysm Present"], abs=1e-6
        )
        assert len(facts["slices"]["slice"]) == len(facts["slices"]["probabilities"]["Basilar Tip"])
        assert f'href="{uid}.html"' in (tmp_path / "out" / "index.html").read_text()


def test_several_folds_are_their_mean(networks, held_out, tmp_path):
    tables = [
        run(networks, tmp_path / str(number), held_out[0], folds=folds)[0]
        for number, folds in enumerate([(0,), (1,), (0, 1)])
    ]
    values = [table[list(LABELS)].to_numpy() for table in tables]
    np.testing.assert_allclose(values[2], (values[0] + values[1]) / 2, atol=1e-6)
    assert np.abs(values[0] - values[1]).max() > 1e-3


def test_onnx_files_say_the_same(tiny, networks, held_out, tmp_path):
    export_onnx.main(export_onnx.Config(networks, 0, ENCODER))
    torch_, onnx = (
        run(networks, tmp_path / str(onnx), held_out[0], mirror=True, onnx=onnx)[0][list(LABELS)]
        for onnx in (False, True)
    )
    np.testing.assert_allclose(onnx, torch_, atol=1e-4)
    uid = held_out[0].name
    curves = [
        json.loads((tmp_path / str(onnx) / f"{uid}.json").read_text())["slices"]["probabilities"][
            "Aneurysm Present"
        ]
        for onnx in (False, True)
    ]
    np.testing.assert_allclose(*curves, atol=1e-4)


def test_calibrated_probabilities_are_those_of_scaled_and_moved_logits(
    tiny, networks, held_out, tmp_path
):
    made = Calibration(0.5 + np.arange(14), np.linspace(-1, 1, 14), (0.5, 1.0))
    model = shutil.copytree(networks, tmp_path / "model")
    points = {POINTS: [POINT], CALIBRATED_POINTS: [POINT | {"threshold": 0.5}]}
    write_calibration(EncoderFolder(model, ENCODER), made, points, [0, 1])
    tables, pages = [], []
    for calibrate in (False, True):
        out = tmp_path / str(calibrate)
        table, _ = run(model, out, held_out[0], calibrate=calibrate, threshold=0.0, peaks=1)
        tables.append(table[list(LABELS)].to_numpy())
        pages.append(json.loads((out / f"{held_out[0].name}.json").read_text()))
    plain, calibrated = tables
    logits = np.log(plain / (1 - plain))
    expected = 1 / (1 + np.exp(-(logits * made.scales + made.offsets)))
    np.testing.assert_allclose(calibrated[:, :PRESENT], expected[:, :PRESENT], atol=1e-5)
    below = plain[:, :PRESENT] <= plain[:, PRESENT:]  # presence stays above these
    raised = np.where(below, expected[:, :PRESENT], 0).max(axis=1)
    highest = np.maximum(expected[:, PRESENT], raised)
    np.testing.assert_allclose(calibrated[:, PRESENT], highest, atol=1e-5)

    before, after = (page["findings"] for page in pages)
    assert len(before) == len(after) > 0
    for first, second in zip(before, after, strict=True):
        logit = np.log(first["probability"] / (1 - first["probability"]))
        assert second["probability"] == pytest.approx(1 / (1 + np.exp(-0.5 * logit - 1)))
        assert first["sop_uid"] == second["sop_uid"]  # in the same order
    assert [page["calibrated"] for page in pages] == [[], ["series", "findings"]]
    thresholds = [page["networks"]["operating_points"][0]["threshold"] for page in pages]
    assert thresholds == [0.25, 0.5]
    write_both(tiny, model, 1, seed=7, cut=7)  # another fold, of which it is, too, trained again
    with pytest.raises(ArtifactError, match=r"other weights than .*fold-1/weights_inference\.pth"):
        run(model, tmp_path / "out", held_out[0], calibrate=True)
    assert from_folder(model, ENCODER, (0,)).operating_points(calibrated=False) == []


def test_a_missing_calibration_is_asked_for_in_one_sentence(networks, held_out, tmp_path):
    said = r"calibration\.json is missing: run tools/report\.py first"
    with pytest.raises(UserError, match=said):
        run(networks, tmp_path, held_out[0], calibrate=True)


def test_folds_with_and_without_heatmap_are_not_mixed(tiny, networks, held_out, tmp_path):
    shutil.copytree(networks, tmp_path / "model")
    other = RunFolder(tmp_path / "model", ENCODER, 1).inference
    joined = read_checkpoint(other, ())
    settings = joined["stage1_settings"] | {"heatmap_weight": 0.7}
    write_checkpoint(other, joined | {"stage1_settings": settings})
    with pytest.raises(UserError, match="heatmap_weight"):
        run(tmp_path / "model", tmp_path / "out", held_out[0], folds=(0, 1))


def test_what_the_mirrored_view_says_is_mirrored_back(networks, held_out):
    """Mirrored images, mirrored answers: slices' labels exchanged, heat on the other side."""
    predictor = Predictor(networks, ENCODER, (0,), torch.device("cpu"), mirror=True)
    axial = next(series for series in map(open_series, held_out) if series.plane == "axial")
    prepared = predictor.prepare(axial)
    other_side = replace(prepared, images=np.ascontiguousarray(prepared.images[..., ::-1]))
    rules = FindingRules(threshold=0.15, peaks=3, reach=12.0)
    plain = predictor.explain(prepared, 32, rules)
    mirrored = predictor.explain(other_side, 32, rules)
    np.testing.assert_allclose(mirrored.slices[:, list(MIRROR)], plain.slices, atol=1e-5)
    torch.testing.assert_close(mirrored.heat.flip(-1), plain.heat, atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(mirrored.probabilities[list(MIRROR)], plain.probabilities, atol=1e-5)
    ((_, alone),) = predictor.predict([("", prepared)], 32, Clock())
    np.testing.assert_allclose(alone, plain.probabilities, atol=1e-6)


def test_all_bad_is_an_error_and_the_reasons_are_there(networks, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"predicted: .*empty holds no files.*failed_series\.csv"):
        run(networks, tmp_path / "out", tmp_path / "empty", tmp_path / "nowhere")
    failed = pd.read_csv(tmp_path / "out" / "failed_series.csv")
    assert failed.reason.tolist() == ["no_dicom", "missing"]
    assert pd.read_csv(tmp_path / "out" / "predictions.csv").empty


def test_exit_code_3_where_some_failed(networks, held_out, tmp_path, clean_process):
    flags = ["--out", tmp_path / "out", "--model-dir", networks, "--encoder", ENCODER]
    series = [held_out[0], tmp_path / "nowhere"]
    done = clean_process.run("tools/predict", *series, *flags, "--device", "cpu")
    assert done.returncode == 3, done.stderr
    assert "1 series, 1 failed" in done.stdout


@pytest.fixture
def nasty(held_out, tmp_path):
    """A series whose texts are hostile and private."""
    folder = tmp_path / "nasty <b>"
    shutil.copytree(held_out[0], folder)
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.SeriesDescription = '<script>alert(1)</script> "TOF" & more'
        dataset.PatientName, dataset.PatientBirthDate, dataset.PatientID = (
            "Roe^Jane",
            "19610203",
            "SECRET7",
        )
        dataset.save_as(path)
    (folder / "<img src=x onerror=alert(1)>.dcm").write_text("no image")
    return folder


def test_hostile_text_does_nothing_and_the_patient_stays_unnamed(networks, nasty, tmp_path):
    for descriptions in (False, True):
        out = tmp_path / str(descriptions)
        run(networks, out, nasty, descriptions=descriptions)
        with pytest.raises(UserError, match="holds series of an earlier run: delete it or name"):
            run(networks, out, nasty)
        written = "".join(path.read_text() for path in out.iterdir())
        assert (
            "&lt;script&gt;alert(1)&lt;/script&gt; &#34;TOF&#34; &amp; more" in written
        ) == descriptions
        assert "1 (not_dicom)" in written
        assert written.count("<script") == 1  # the page's own
        for secret in ("<img src=x", "Roe", "Jane", "19610203", "SECRET7"):
            assert secret not in written


def test_a_series_that_fails_in_the_middle_costs_only_itself(
    networks, held_out, tmp_path, monkeypatch
):
    real, calls = Predictor.explain, []

    def explain(self, prepared, batch_size, rules):
        calls.append(prepared)
        if len(calls) == 2:
            raise ValueError("a bug")
        return real(self, prepared, batch_size, rules)

    monkeypatch.setattr(Predictor, "explain", explain)
    predictions, failed = run(networks, tmp_path / "out", *held_out[:3])
    assert (len(predictions), failed.reason.tolist(), failed.name.tolist()) == (
        2,
        ["unexpected"],
        [held_out[1].name],
    )
    assert len(list((tmp_path / "out").glob("1.*.html"))) == 2


def test_stopped_in_the_middle_the_tables_hold_what_was_done(
    networks, held_out, tmp_path, monkeypatch
):
    real, calls = Predictor.explain, []

    def explain(self, prepared, batch_size, rules):
        calls.append(prepared)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, prepared, batch_size, rules)

    monkeypatch.setattr(Predictor, "explain", explain)
    with pytest.raises(KeyboardInterrupt):
        run(networks, tmp_path / "out", *held_out[:3])
    assert pd.read_csv(tmp_path / "out" / "predictions.csv").SeriesInstanceUID.tolist() == [
        held_out[0].name
    ]
    assert held_out[0].name in (tmp_path / "out" / "index.html").read_text()


def test_names_that_are_no_utf_8_and_folders_that_are_locked(networks, held_out, tmp_path):
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/st\xfcdy"))
    odd.mkdir()
    predictions, failed = run(networks, tmp_path / "out", held_out[0], odd)
    assert len(predictions) == 1
    assert failed.name.tolist()[0].endswith("st\\udcfcdy")
    assert "udcfcdy" in (tmp_path / "out" / "failed_series.csv").read_text()


def test_files_without_a_uid_are_one_series_a_folder_and_patients_are_never_mixed(
    held_out, tmp_path
):
    for number, name in enumerate(("a", "b", "c", "d")):
        folder = shutil.copytree(held_out[0], tmp_path / "all" / name)
        for path in folder.iterdir():
            dataset = pydicom.dcmread(path)
            dataset.PatientID = f"patient {number}"
            dataset.SeriesInstanceUID = "" if number < 2 else "1.2.3"
            dataset.save_as(path)
    found, strangers = open_all(tmp_path / "all")
    assert [uid for uid, _ in found] == ["", "", "1.2.3", "1.2.3"] and strangers == []
    folders = [{piece.file.path.parent for piece in series.slices} for _, series in found]
    assert [len(names) for names in folders] == [1, 1, 1, 1]
    length = len(list(held_out[0].iterdir()))
    assert {len({piece.file.path for piece in series.slices}) for _, series in found} == {length}
