"""Numbers that are none, in any file between the stages: one sentence with series and file."""

from dataclasses import replace

import numpy as np
import pydicom
import pytest
import torch

import eval_end_to_end
import eval_stage1
import eval_stage2
import extract_features
import train_stage1
import train_stage2
from src.artifacts.checkpoints import read_checkpoint, write_checkpoint
from src.artifacts.files import (
    read_array,
    read_pickle,
    write_array,
    write_json,
)
from src.artifacts.paths import ArtifactError, DataFolder, RunFolder
from src.artifacts.provenance import fingerprint
from src.artifacts.tables import read_fold, read_folds, read_table
from src.inference.ensemble import Predictor
from src.inference.probabilities import NotFinite
from src.networks.sequence_transformer import SequenceTransformer
from src.preprocess.images import PreparedSeries
from src.progress import Clock
from src.script import UserError
from tests.conftest import CROP
from tests.dicom_files import volume, write_axial
from tests.networks import ENCODER, write_both, write_random_features, write_stage1
from tools import mine_hard_negatives, predict

MADE_UP = "made_up"


def uids_of(data, fold=0):
    """A series that is trained on, and one that is held out."""
    series, held_out = read_fold(data, fold)
    return series[series.fold != fold].SeriesInstanceUID.iloc[3], held_out.SeriesInstanceUID.iloc[2]


def train1(data, model_dir, **options):
    fixed = {"encoder": ENCODER, "pretrained": False, "crop_size": CROP, "epochs": 1}
    fixed |= {"batch_size": 8, "workers": 0, "device": "cpu"}
    return train_stage1.main(train_stage1.Config(data.root, model_dir, **fixed | options))


def train2(data, model_dir):
    fixed = {"encoder": MADE_UP, "width": 16, "epochs": 1, "device": "cpu"}
    return train_stage2.main(train_stage2.Config(data.root, model_dir, **fixed))


def spoil(path, value, place=-1):
    array = read_array(path)
    array.flat[place] = value
    write_array(path, array)


@pytest.mark.parametrize("far", [1e38, 3.4e38, np.inf, np.nan])
def test_no_position_is_beyond_the_transformer(far):
    """Neither an IndexError nor a number that is taken for a result."""
    torch.manual_seed(0)
    model = SequenceTransformer(6, 8, 1, 1, 0.0, 0.0).eval()
    positions = torch.tensor([[0.0, 1.0, far, -far]])
    present = torch.ones(1, 4, dtype=torch.bool)
    out = model(torch.randn(1, 4, 6), positions, present)
    assert out.isfinite().all() == np.isfinite(far)


@pytest.mark.parametrize(
    ("value", "kind", "held_out"),
    [
        (np.inf, "feature", False),
        (np.nan, "feature", True),
        (np.nan, "logit", False),
        (np.inf, "logit", True),
    ],
)
def test_features_and_logits_that_are_not_finite_are_refused(
    copied, tmp_path, value, kind, held_out
):
    run = write_random_features(copied, tmp_path / "model", MADE_UP)
    uid = uids_of(copied)[held_out]
    path = getattr(run, kind)(uid)
    spoil(path, value)
    with pytest.raises(ArtifactError, match=f"series {uid}: {path} holds .* not finite: .*extract"):
        train2(copied, tmp_path / "model")
    assert not run.last("stage2").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_array_that_is_not_finite_is_refused_from_a_loader_process_too(
    copied, tmp_path, workers
):
    uid = uids_of(copied)[0]
    path = copied.sequence(uid)
    write_array(path, np.full_like(read_array(path), np.nan))
    with pytest.raises(ArtifactError) as refused:
        train1(copied, tmp_path / "model", workers=workers)
    said = f"series {uid}: {path} holds values that are not finite: delete it and "
    assert str(refused.value) == f"{said}run preprocess_data.py first"


def test_a_script_says_it_in_one_line(copied, tmp_path, clean_process):
    uid = uids_of(copied)[1]
    spoil(copied.sequence(uid), np.nan, place=slice(None))
    write_stage1(copied, tmp_path / "model")
    flags = ["--data-dir", copied.root, "--model-dir", tmp_path / "model"]
    flags += ["--encoder", ENCODER, "--device", "cpu", "--workers", 1]
    ended = clean_process.run("eval_stage1", *flags)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: series {uid}: {copied.sequence(uid)} holds values")
    assert len(ended.stderr.splitlines()) == 1


def test_arrays_are_checked_before_their_features_are_written(copied, tmp_path):
    run = write_stage1(copied, tmp_path / "model")
    uid = uids_of(copied)[0]
    spoil(copied.sequence(uid), np.inf)
    with pytest.raises(ArtifactError, match=f"series {uid}: {copied.sequence(uid)} holds"):
        extract(copied, tmp_path / "model")
    assert not run.logit(uid).exists() and not run.feature(uid).exists()


def extract(data, model_dir):
    extract_features.main(
        extract_features.Config(data.root, model_dir, encoder=ENCODER, device="cpu")
    )


def overflow(path, part, name):
    """Let a weight be finite, but so large that the network's numbers are not."""
    content = read_checkpoint(path, ())
    content[part][name].fill_(3e38)
    write_checkpoint(path, content)


def test_features_that_float16_cannot_hold_are_not_written(copied, tmp_path):
    run = write_stage1(copied, tmp_path / "model")
    weights = read_checkpoint(run.best("stage1"), ())["weights"]
    overflow(run.best("stage1"), "weights", next(name for name in weights if "head" in name))
    uid = read_folds(copied).SeriesInstanceUID[0]
    with pytest.raises(NotFinite, match=f"series {uid}: .*{uid}.npy would not be finite"):
        extract(copied, tmp_path / "model")
    assert not any(run.logits.glob("*.npy")) and not any(run.features.glob("*.npy"))


def test_stage_2_names_the_series_that_gets_no_numbers(copied, tmp_path):
    run = write_both(copied, tmp_path / "model")
    for row in read_folds(copied).itertuples():
        width = read_checkpoint(run.best("stage2"), ())["settings"]["channels"]
        write_array(run.logit(row.SeriesInstanceUID), np.zeros((2, row.length, 14), np.float16))
        ones = np.ones((2, row.length, width), np.float16)
        write_array(run.feature(row.SeriesInstanceUID), ones)
    write_json(run.feature_settings, {"weights": fingerprint(run.best("stage1"))})
    overflow(run.best("stage2"), "weights", "project.0.weight")
    _, held_out = read_fold(copied, 0)
    config = eval_stage2.Config(copied.root, tmp_path / "model", encoder=ENCODER, device="cpu")
    first = held_out.SeriesInstanceUID[0]
    said = f"series {first}: its probabilities are not finite, as are those of 8 of 8 held-out"
    with pytest.raises(NotFinite, match=said):
        eval_stage2.main(config)
    assert not run.predictions("stage2").exists()


def test_stage_1_names_the_series_that_gets_no_numbers(copied, tmp_path):
    run = write_stage1(copied, tmp_path / "model")
    weights = read_checkpoint(run.best("stage1"), ())["weights"]
    overflow(run.best("stage1"), "weights", next(name for name in weights if "stem" in name))
    config = eval_stage1.Config(
        copied.root, tmp_path / "model", encoder=ENCODER, device="cpu", workers=0
    )
    with pytest.raises(NotFinite, match=r"series .*: its probabilities are not finite"):
        eval_stage1.main(config)
    assert not run.predictions("stage1").exists()


@pytest.fixture
def one_dark_series(tiny, monkeypatch) -> str:
    """The UID of a held-out series whose images become NaN on their way to the networks."""
    dark, real = uids_of(tiny)[1], PreparedSeries.in_memory

    def spoilt(self):
        prepared = real(self)
        if self.series.slices[0].file.series_uid != dark:
            return prepared
        return replace(prepared, images=np.full_like(prepared.images, np.nan))

    monkeypatch.setattr(PreparedSeries, "in_memory", spoilt)
    return dark


def test_end_to_end_the_others_are_scored(tiny, tmp_path, one_dark_series):
    run = write_both(tiny, tmp_path)
    config = eval_end_to_end.Config(tiny.root, tmp_path, encoder=ENCODER, device="cpu")
    _, failed = eval_end_to_end.main(config)
    assert failed.SeriesInstanceUID.tolist() == [one_dark_series]
    assert failed.reason.tolist() == ["no_prediction"]
    predictions = read_table(run.predictions("end_to_end"))
    assert len(predictions) == 7 and np.isfinite(predictions.iloc[:, 1:]).all(axis=None)


@pytest.mark.parametrize("far", ["1e39", "-1e39", "1e300", "1e37"])
def test_a_slice_beyond_all_bounds_does_not_end_the_evaluation(tiny, tmp_path, far):
    """The series is refused, or predicted without that slice."""
    write_both(tiny, tmp_path / "model")
    data = DataFolder(tmp_path / "data")
    write_axial(data.series("1.2"), volume((6, 12, 12)))
    path = max(data.series("1.2").iterdir())
    slice_ = pydicom.dcmread(path)
    slice_.ImagePositionPatient = ["0", "0", far]
    slice_.save_as(path)
    predictor = Predictor(tmp_path / "model", ENCODER, (0,), torch.device("cpu"))
    failed = {}
    found = eval_end_to_end.predict_all(predictor, data, ["1.2"], 64, Clock(), failed)
    assert len(found) + len(failed) == 1
    assert all(np.isfinite(probabilities).all() for _, probabilities in found)


def test_predict_goes_on_with_the_others(tiny, tmp_path, one_dark_series):
    write_both(tiny, tmp_path)
    folders = tuple(tiny.series(uid) for uid in read_fold(tiny, 0)[1].SeriesInstanceUID[:4])
    predictions, failed = predict.main(
        predict.Config(folders, tmp_path / "out", tmp_path, ENCODER, device="cpu")
    )
    assert len(predictions) == 3 and len(failed) == 1
    assert failed.reason.tolist() == ["no_prediction"]
    assert one_dark_series in failed.detail[0]
    with pytest.raises(UserError, match="no series could be predicted"):
        predict.main(
            predict.Config(
                (tiny.series(one_dark_series),), tmp_path / "none", tmp_path, ENCODER, device="cpu"
            )
        )


def test_mining_does_not_pass_over_logits_that_are_not_finite(copied, tmp_path):
    for row in read_folds(copied).itertuples():
        run = RunFolder(tmp_path / "model", ENCODER, row.fold)
        write_array(run.logit(row.SeriesInstanceUID), np.ones((2, row.length, 14), np.float16))
    uid = next(iter(read_pickle(copied.safe_slices)))
    fold = read_folds(copied).set_index("SeriesInstanceUID").fold[uid]
    path = RunFolder(tmp_path / "model", ENCODER, fold).logit(uid)
    spoil(path, np.nan)
    with pytest.raises(ArtifactError, match=f"series {uid}: {path} holds"):
        mine_hard_negatives.main(
            mine_hard_negatives.Config(copied.root, tmp_path / "model", ENCODER, montage=0)
        )
