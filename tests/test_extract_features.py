import subprocess
import sys
from collections import Counter
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
from tests.conftest import CROP, ROOT
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


def test_features_of_other_weights_are_made_anew(tiny, tmp_path, capsys):
    run = write_stage1(tiny, tmp_path)
    extract(tiny, tmp_path)
    before = files_of(run)
    assert extract(tiny, tmp_path) == 0
    write_stage1(tiny, tmp_path, seed=1)
    assert extract(tiny, tmp_path) == 24
    assert "they are replaced" in capsys.readouterr().out
    assert all(before[name] != content for name, content in files_of(run).items())


def test_a_feature_file_that_a_power_cut_left_short_is_made_again(tiny, tmp_path):
    run = write_stage1(tiny, tmp_path)
    extract(tiny, tmp_path)
    before = files_of(run)
    first, second = sorted(run.features.glob("*.npy"))[:2]
    first.write_bytes(first.read_bytes()[:-1])
    run.logit(second.stem).write_bytes(b"")
    assert extract(tiny, tmp_path) == 2
    assert files_of(run) == before


FORKING = """
import os, random, resource, signal, sys, time
from pathlib import Path
import torch
import extract_features
from tests.networks import ENCODER
torch.set_num_threads(1)
folders = Path(sys.argv[1]), Path(sys.argv[2])
config = extract_features.Config(*folders, encoder=ENCODER, device="cpu", batch_size=16)


def child(run):
    pid = os.fork()
    if pid == 0:
        signal.alarm(120)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        run()
        os._exit(0)
    return pid
"""

KILLER = f"""{FORKING}
generator = random.Random(0)
start = time.monotonic()
assert os.waitpid(child(lambda: extract_features.main(config)), 0)[1] == 0
whole = time.monotonic() - start
import shutil
shutil.rmtree(sys.argv[3]), shutil.rmtree(sys.argv[4])
killed = 0
for _ in range(9):
    pid = child(lambda: extract_features.main(config))
    time.sleep(generator.uniform(0.1, 0.5) * whole)
    os.kill(pid, signal.SIGKILL)
    killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
assert os.waitpid(child(lambda: extract_features.main(config)), 0)[1] == 0
print(killed)
"""


def python(code: str, *arguments) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_killed_at_9_moments_and_run_again_the_features_are_the_same(tiny, tmp_path):
    run = write_stage1(tiny, tmp_path / "killed")
    straight = write_stage1(tiny, tmp_path / "straight")
    killed = int(python(KILLER, tiny.root, tmp_path / "killed", run.features, run.logits))
    assert killed >= 3
    extract(tiny, tmp_path / "straight", batch_size=16)
    assert files_of(run) == files_of(straight)
    assert not list(run.root.rglob(".*.tmp"))


MEASURER = f"""{FORKING}
print(os.wait4(child(lambda: extract_features.main(config)), 0)[2].ru_maxrss)
"""


def test_memory_does_not_grow_with_the_number_of_series(tmp_path):
    """20 and 200 series of 220 kB; to keep them would show."""
    peaks = []
    for count in (20, 200):
        data = made_up(tmp_path / str(count), count)
        write_stage1(data, tmp_path / str(count))
        peaks.append(int(python(MEASURER, data.root, tmp_path / str(count))))
    assert peaks[1] < 1.05 * peaks[0]


def made_up(root: Path, count: int) -> DataFolder:
    """Prepared arrays and the table of folds of so many series."""
    data, length = DataFolder(root), 12
    rows = [
        {"SeriesInstanceUID": f"1.2.{k}", "fold": k % 2, "length": length}
        | dict.fromkeys(LABELS, k % 2)
        for k in range(count)
    ]
    columns = {"h": 96, "w": 96, "slice_spacing": 1, "row_spacing": 1, "column_spacing": 1}
    table = pd.DataFrame(rows).assign(**columns, orientation="", patient_id="")
    write_table(data.folds(2), table)
    write_json(data.array_settings, {"image_size": 96, "mr_window": "percentile"})
    for row in rows:
        write_array(data.sequence(row["SeriesInstanceUID"]), np.zeros((length, 96, 96), np.float16))
    return data
