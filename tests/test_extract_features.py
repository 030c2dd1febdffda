import io
import multiprocessing
import os
import shutil
import signal
from collections import Counter
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import extract_features
from src.artifacts.checkpoints import read_checkpoint
from src.artifacts.files import read_array, write_array, write_json
from src.artifacts.paths import DataFolder, RunFolder
from src.artifacts.tables import read_folds, write_table
from src.inference.encode import CACHED_IMAGES, encode_series
from src.labels import LABELS
from src.networks.slice_cnn import SliceCNN, build_slice_cnn
from src.sampling.slices import centre_crop, neighbours
from tests.conftest import CROP
from tests.networks import ENCODER, write_stage1


def extract(data, model_dir, **options) -> int:
    return extract_features.main(
        extract_features.Config(data.root, model_dir, encoder=ENCODER, device="cpu", **options)
    )


def files_of(run: RunFolder) -> dict[str, bytes]:
    return {
        f"{path.parent.name}/{path.name}": path.read_bytes()
        for folder in (run.features, run.logits)
        for path in sorted(folder.glob("*.npy"))
    }


@pytest.fixture(scope="module")
def extracted(tiny, tmp_path_factory):
    """All features of the tiny data set by one fold's network."""
    model_dir = tmp_path_factory.mktemp("model")
    run = write_stage1(tiny, model_dir)
    extract(tiny, model_dir)
    return run


@pytest.fixture
def another(extracted, tmp_path) -> RunFolder:
    """A copy of the network and its features, in the folder `model`, to spoil."""
    shutil.copytree(extracted.root.parents[1], tmp_path / "model")
    return RunFolder(tmp_path / "model", ENCODER, 0)


def test_features_are_those_of_each_slice_and_its_neighbours(tiny, extracted):
    """Against the network itself, slice by slice."""
    checkpoint = read_checkpoint(extracted.best("stage1"), ())
    model = build_slice_cnn(checkpoint["settings"], checkpoint["weights"], torch.device("cpu"))
    for row in read_folds(tiny).head(3).itertuples():
        prepared = np.load(tiny.sequence(row.SeriesInstanceUID)).astype(np.float32)
        features, logits = (
            np.load(extracted.feature(row.SeriesInstanceUID)),
            np.load(extracted.logit(row.SeriesInstanceUID)),
        )
        for k, step in enumerate((1, 2)):
            for slice_ in range(row.length):
                three = prepared[
                    [max(slice_ - step, 0), slice_, min(slice_ + step, row.length - 1)]
                ]
                with torch.inference_mode():
                    out = model(
                        torch.from_numpy(np.ascontiguousarray(centre_crop(three, CROP)))[None]
                    )
                np.testing.assert_allclose(
                    features[k, slice_], out.features[0], rtol=2e-3, atol=2e-3
                )
                np.testing.assert_allclose(logits[k, slice_], out.logits[0], rtol=2e-3, atol=2e-3)


def test_each_array_is_read_once(tiny, tmp_path, monkeypatch):
    read = Counter()
    real = read_array
    monkeypatch.setattr(
        extract_features, "read_array", lambda path: read.update([path.stem]) or real(path)
    )
    write_stage1(tiny, tmp_path)
    extract(tiny, tmp_path)
    assert read == Counter(read_folds(tiny).SeriesInstanceUID)


def test_batches_are_full_across_series():
    """Each batch but the last has the size asked for, and the results do not depend on it."""
    torch.manual_seed(0)
    model = SliceCNN(ENCODER, heatmap=True).eval()
    series = [
        (k, torch.rand(length, CROP, CROP).half() * 5, neighbours(np.arange(length), 2, length))
        for k, length in enumerate((1, 9, 2, 5, 30, 1, 1))
    ]
    sizes = []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    expected = list(encode_series(model, series, 1))
    assert [len(features) for _, features, _ in expected] == [
        len(volume) for _, volume, _ in series
    ]
    for batch_size in (7, 64):
        sizes.clear()
        for first, second in zip(expected, encode_series(model, series, batch_size), strict=True):
            assert first[0] == second[0]
            torch.testing.assert_close(second[1:], first[1:], atol=1e-5, rtol=1e-5)
        most = min(batch_size, CACHED_IMAGES)
        assert sizes == [most] * (49 // most) + [49 % most] * (49 % most > 0)


def test_two_shards_make_the_same_files(tiny, extracted, tmp_path):
    run = write_stage1(tiny, tmp_path)
    for shard in ("1/2", "2/2"):
        extract(tiny, tmp_path, shard=shard)
    assert files_of(run) == files_of(extracted)


def test_features_of_other_weights_are_made_anew(tiny, tmp_path, another, capsys):
    before = files_of(another)
    assert extract(tiny, tmp_path / "model") == 0
    write_stage1(tiny, tmp_path / "model", seed=1)
    assert extract(tiny, tmp_path / "model") == 24
    assert "they are replaced" in capsys.readouterr().out
    assert all(before[name] != content for name, content in files_of(another).items())


def test_a_feature_file_that_a_power_cut_left_short_is_made_again(tiny, tmp_path, another):
    before = files_of(another)
    first, second = sorted(another.features.glob("*.npy"))[:2]
    first.write_bytes(first.read_bytes()[:-1])
    another.logit(second.stem).write_bytes(b"")
    assert extract(tiny, tmp_path / "model") == 2
    assert files_of(another) == before


def in_fork(function, *arguments) -> tuple[int, int]:
    """Run this in the clean process: call a function in a fork; return exit code and peak kB."""
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    _, status, used = os.wait4(process.pid, 0)
    return os.waitstatus_to_exitcode(status), used.ru_maxrss


def extract_in_fork(data_dir: Path, model_dir: Path, kill_at: str = "", after: int = 0) -> None:
    """Extract; kill_at: write or name, the part of the file number `after` that is the last."""
    signal.alarm(120)
    torch.set_num_threads(1)
    if kill_at:
        die_in_file(kill_at, after)
    extract(DataFolder(data_dir), model_dir, batch_size=16)


def die_in_file(part: str, after: int) -> None:
    """Let SIGKILL come when so many arrays are there, and another one is half written or named."""
    left, save, replace = count(after, -1), np.save, os.replace

    def half_save(file, array, **options):
        if next(left) == 0:
            whole = io.BytesIO()
            save(whole, array, **options)
            file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        save(file, array, **options)

    def last_replace(source, target):
        replace(source, target)
        if str(target).endswith(".npy") and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    if part == "write":
        np.save = half_save
    else:
        os.replace = last_replace


def test_killed_at_9_moments_and_run_again_the_features_are_the_same(tiny, tmp_path, clean_process):
    """Each time with some files more, in the middle of one or after the first of two."""
    killed, straight = (write_stage1(tiny, tmp_path / name) for name in ("killed", "straight"))
    for k in range(9):
        job = (tiny.root, tmp_path / "killed", ("write", "name")[k % 2], k // 2)
        code, _ = clean_process.submit(in_fork, extract_in_fork, *job)
        assert code == -signal.SIGKILL
        assert len(list(killed.root.rglob("*.npy"))) < 48
    assert list(killed.root.rglob(".*.tmp"))
    for name in ("killed", "straight"):
        job = (tiny.root, tmp_path / name)
        assert clean_process.submit(in_fork, extract_in_fork, *job)[0] == 0
    assert files_of(killed) == files_of(straight) and len(files_of(killed)) == 48
    assert not list(killed.root.rglob(".*.tmp"))


def test_memory_does_not_grow_with_the_number_of_series(tmp_path, clean_process):
    """5 and 45 series of 1.5 MB; to keep them would show."""
    peaks = []
    for number in (5, 45):
        data = made_up(tmp_path / str(number), number)
        write_stage1(data, tmp_path / str(number))
        job = (data.root, tmp_path / str(number))
        code, peak = clean_process.submit(in_fork, extract_in_fork, *job)
        assert code == 0
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 20_000  # kB


def made_up(root: Path, number: int) -> DataFolder:
    """Prepared arrays and the table of folds of so many series."""
    data, length, side = DataFolder(root), 12, 256
    rows = [
        {"SeriesInstanceUID": f"1.2.{k}", "fold": k % 2, "length": length}
        | dict.fromkeys(LABELS, k % 2)
        for k in range(number)
    ]
    columns = {"h": side, "w": side, "slice_spacing": 1, "row_spacing": 1, "column_spacing": 1}
    table = pd.DataFrame(rows).assign(**columns, orientation="", patient_id="")
    write_table(data.folds(2), table)
    write_json(data.array_settings, {"image_size": side, "mr_window": "percentile"})
    for row in rows:
        write_array(
            data.sequence(row["SeriesInstanceUID"]), np.zeros((length, side, side), np.float16)
        )
    return data
