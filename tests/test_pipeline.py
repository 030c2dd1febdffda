"""The eight scripts on a tiny set, as a user runs them."""

import importlib
import json
import shutil
import subprocess
import sys
from hashlib import sha256

import numpy as np
import pandas as pd
import pytest
import tyro

import create_folds
import eval_end_to_end
import eval_stage1
import eval_stage2
import extract_features
import train_stage1
import train_stage2
from src.artifacts.checkpoints import read_checkpoint, read_joined, write_checkpoint
from src.artifacts.paths import DataFolder, RunFolder
from src.artifacts.provenance import fingerprint, keep_features_of
from src.artifacts.tables import read_folds, read_meta, read_spots
from src.labels import LABELS, LOCATIONS
from src.sampling.regions import learn
from src.script import UserError
from tests.conftest import CROP, FOLDS, IMAGE_SIZE, ROOT, help_of

SCRIPTS = (
    "preprocess_data create_folds train_stage1 eval_stage1 "
    "extract_features train_stage2 eval_stage2 eval_end_to_end"
).split()
WITHOUT_TORCH = ("preprocess_data", "create_folds")
ENCODER = "test_convnext"


def run(script, *flags, cwd=ROOT):
    command = [sys.executable, ROOT / f"{script}.py", *map(str, flags)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def flags_of_all():
    """The flags of each script, in order; the model is small and trained for two epochs."""
    data = ["--data-dir", "my data"]
    network = [*data, "--model-dir", "my model", *f"--fold 0 --encoder {ENCODER}".split()]
    stage1 = f"--no-pretrained --crop-size {CROP} --epochs 2 --batch-size 8 --lr 1e-3 --workers 0"
    stage2 = "--width 32 --epochs 2 --lr 1e-3 --batch-size 4 --cut 4"  # subsamples the 14 slices
    return {
        "preprocess_data": [*data, *f"--image-size {IMAGE_SIZE} --workers 1".split()],
        "create_folds": [*data, "--folds", FOLDS],
        "train_stage1": [*network, *stage1.split()],
        "eval_stage1": [*network, "--workers", 0],
        "extract_features": network,
        "train_stage2": [*network, *stage2.split()],
        "eval_stage2": network,
        "eval_end_to_end": network,
    }


@pytest.fixture(scope="module")
def walked(tiny_dicom, tmp_path_factory, clean_process):
    """All eight scripts in order, from another folder whose path has a space; what they printed."""
    cwd = tmp_path_factory.mktemp("else where")
    data, model = cwd / "my data", cwd / "my model"
    shutil.copytree(tiny_dicom, data)
    shutil.rmtree(next((data / "series").iterdir()))  # one series is missing
    flags, results = flags_of_all(), {}
    for script in SCRIPTS:
        start = run if script in WITHOUT_TORCH else clean_process.run
        done = results[script] = start(script, *flags[script], cwd=cwd)
        assert done.returncode in (0, 3), f"{script}: {done.stdout}\n{done.stderr}"
    return DataFolder(data), RunFolder(model, ENCODER, 0), results, flags, cwd


def test_a_missing_series_is_a_row_and_all_others_are_done(walked):
    data, _, results, _, _ = walked
    failed = pd.read_csv(data.failed_series)
    assert failed.reason.tolist() == ["missing"]
    assert results["preprocess_data"].returncode == 3
    assert len(read_meta(data)) == 23


def test_all_artifacts_have_the_promised_names_and_shapes(walked):
    data, run_folder, *_ = walked
    meta = read_folds(data)
    for row in meta.itertuples():
        uid, size = row.SeriesInstanceUID, (row.length, IMAGE_SIZE, IMAGE_SIZE)
        sequence = np.load(data.root / "npy_sequence" / f"{uid}.npy")
        assert (sequence.shape, sequence.dtype) == (size, np.float16)
        assert 0 <= sequence.min() <= sequence.max() <= 5
        last = np.load(data.root / "npy_slice" / uid / f"{row.length - 1:04d}.npy")
        np.testing.assert_array_equal(last, sequence[-1])
        features = np.load(run_folder.root / "features" / f"{uid}.npy")
        logits = np.load(run_folder.root / "logits" / f"{uid}.npy")
        assert (features.shape[:2], features.dtype) == ((2, row.length), np.float16)
        assert logits.shape == (2, row.length, 14)
    tables = f"train_meta.csv train_{FOLDS}_folds.csv train_stage1_{FOLDS}_folds.csv"
    pickles = "slice_uids_dict.pkl label_dict.pkl f_dict_sample.pkl"
    for name in (*tables.split(), *pickles.split()):
        assert (data.root / name).exists()
    for stage in ("stage1", "stage2"):
        for name in (f"best_{stage}.pth", f"log_{stage}.txt", f"train_{stage}.py"):
            assert (run_folder.root / name).exists()
    settings = read_joined(run_folder)["stage1_settings"]
    sizes = [settings[name] for name in ("image_size", "crop_size", "view_mm")]
    places = learn(meta[meta.fold != 0], read_spots(data), *sizes)
    assert settings["regions"] == places and places["left"]


@pytest.mark.parametrize("evaluation", ["stage1", "stage2", "end_to_end"])
def test_scores_and_predictions_have_the_promised_form(walked, evaluation):
    _, run_folder, results, _, _ = walked
    scores = json.loads((run_folder.root / f"scores_{evaluation}.json").read_text())
    spots = evaluation == "stage1"
    of_series = set() if spots else {"intervals", "groups", "chosen"}
    assert set(scores) == {"score", "present", "locations", "n_series"} | of_series
    assert list(scores["locations"]) == list(LOCATIONS)
    predictions = pd.read_csv(run_folder.predictions(evaluation))
    keys = ["SeriesInstanceUID", "slice"] if spots else ["SeriesInstanceUID"]
    assert list(predictions.columns) == [*keys, *LABELS]
    assert predictions[list(LABELS)].stack().between(0, 1).all()
    files = {
        "stage1": ["best_stage1.pth"],
        "stage2": ["best_stage1.pth", "best_stage2.pth"],
        "end_to_end": ["weights_inference.pth"],
    }
    made_by = {}
    for name in files[evaluation]:
        made_by[name] = sha256((run_folder.root / name).read_bytes()).hexdigest()
    mark = (run_folder.root / f"predictions_{evaluation}.weights.json").read_text()
    assert json.loads(mark) == {"weights": {"0": made_by}}
    printed = results[f"eval_{evaluation}"].stdout
    *_, score, wrote, following = printed.splitlines()
    assert f"{scores['score']:.3f}" in score
    assert wrote.startswith("wrote ") and str(run_folder.scores(evaluation).name) in wrote
    assert following.startswith("next: python ")
    for label in LABELS:
        assert label in printed


def test_each_stage_ends_with_what_it_wrote_and_the_next_command(walked):
    """Typed as it stands, with the flags of the stage before, the command runs."""
    _, run_folder, results, _, cwd = walked
    place = f"--data-dir 'my data' --model-dir 'my model' --encoder {ENCODER}"
    after = [f"{script}.py" for script in SCRIPTS[1:]] + ["tools/report.py"]
    for script, following in zip(SCRIPTS, after, strict=True):
        flags = "--data-dir 'my data'" if script in WITHOUT_TORCH else place
        *_, wrote, last = results[script].stdout.splitlines()
        assert wrote.startswith("kept epoch" if script == "train_stage1" else "wrote ")
        assert last == f"next: python {ROOT}/{following} {flags}"
    kept = results["train_stage1"].stdout.splitlines()[-2]
    assert str(run_folder.best("stage1").relative_to(cwd)) in kept and " of 2" in kept


def test_end_to_end_equals_stage_2(walked):
    _, run_folder, *_ = walked
    stage2 = pd.read_csv(run_folder.predictions("stage2"), index_col=0)
    end_to_end = pd.read_csv(run_folder.predictions("end_to_end"), index_col=0)
    np.testing.assert_allclose(end_to_end.loc[stage2.index], stage2, atol=2e-3)
    assert stage2.std().max() > 0


def test_what_does_not_belong_together_is_refused(walked, tmp_path):
    """Folds dealt again, a stage 1 trained anew, a fold that was never dealt."""
    data, run_folder, *_ = walked
    other, others_model = tmp_path / "data", tmp_path / "model"
    shutil.copytree(data.root, other)
    shutil.copytree(run_folder.root.parents[1], others_model)
    place = ["--data-dir", other, "--model-dir", others_model, "--encoder", ENCODER]
    never_dealt = refusal(train_stage1, *place, "--fold", 7)
    assert "fold 7" in never_dealt and "0 to 2" in never_dealt

    best = RunFolder(others_model, ENCODER, 0).best("stage1")
    whole = best.read_bytes()
    checkpoint = read_checkpoint(best, ("weights",))
    write_checkpoint(best, checkpoint | {"epoch": 99})
    assert "extract_features.py" in refusal(eval_stage2, *place)
    keep_features_of(RunFolder(others_model, ENCODER, 0), fingerprint(best))
    assert "train_stage2.py" in refusal(eval_stage2, *place)
    best.write_bytes(whole)

    create_folds.main(create_folds.Config(other, folds=FOLDS, seed=1))
    for script in (eval_stage1, extract_features, train_stage2, eval_stage2, eval_end_to_end):
        assert "the folds have changed" in refusal(script, *place)


def refusal(script, *flags) -> str:
    """The one sentence with which a script refuses, run in this process."""
    with pytest.raises(UserError) as caught:
        script.main(tyro.cli(script.Config, args=[str(flag) for flag in flags]))
    return str(caught.value)


def test_finished_work_is_not_done_again(walked, clean_process):
    data, run_folder, _, flags, cwd = walked
    paths = [*data.sequences.glob("*.npy"), *run_folder.features.glob("*.npy")]
    before = {path: path.stat().st_mtime_ns for path in paths}
    assert run("preprocess_data", *flags["preprocess_data"], cwd=cwd).returncode == 3  # the missing
    assert (
        clean_process.run("extract_features", *flags["extract_features"], cwd=cwd).returncode == 0
    )
    assert before == {path: path.stat().st_mtime_ns for path in before}
    refused = clean_process.run("train_stage1", *flags["train_stage1"], cwd=cwd)
    assert refused.returncode == 1
    assert "--resume" in refused.stderr


def test_other_settings_are_refused_with_both_values(walked):
    _, _, _, flags, cwd = walked
    refused = run("preprocess_data", *flags["preprocess_data"][:2], "--image-size", 64, cwd=cwd)
    assert refused.returncode == 1
    assert "48" in refused.stderr
    assert "64" in refused.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_what_a_script_reads(script):
    shown = help_of(f"{script}.py")
    assert "Reads" in shown
    assert "--data-dir" in shown


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_is_missing_is_said(script, tmp_path, monkeypatch):
    """Without arguments, in a folder where there is nothing."""
    monkeypatch.chdir(tmp_path)
    sentence = refusal(importlib.import_module(script))
    assert ".py first" in sentence or "put the challenge's tables" in sentence


def test_a_refusal_is_one_sentence_and_exit_code_1(tmp_path, clean_process):
    failed = clean_process.run("eval_stage2", cwd=tmp_path)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: ") and failed.stderr.count("\n") == 1
