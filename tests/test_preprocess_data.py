"""The whole stage: what it writes, what it does with broken series, and how it stops and goes on."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import preprocess_data
from preprocess_data import Config
from src import artifacts, workers
from src.artifacts import ArtifactError, DataFolder
from src.labels import LABELS
from src.runtime import UserError
from src.series_arrays import prepare_series
from tests.dicom_files import AXES, dataset, places, save, volume, write_axial, write_frames

SCRIPT = Path(__file__).resolve().parents[1] / "preprocess_data.py"
TEMPORARY = "**/.*.tmp"
SERIES = 500  # of a run that is interrupted


def write_train(root: Path, uids: list[str]) -> None:
    table = pd.DataFrame({"SeriesInstanceUID": uids, "PatientAge": 60, "PatientSex": "Female", "Modality": "MRA"})
    root.mkdir(parents=True, exist_ok=True)
    table.assign(**dict.fromkeys(LABELS, 0)).to_csv(root / "train.csv", index=False)


def make_data(root: Path, count: int, shape=(4, 16, 14)) -> list[str]:
    uids = [f"1.2.{k}" for k in range(1, count + 1)]
    for k, uid in enumerate(uids):
        write_axial(root / "series" / uid, volume(shape, seed=k), SeriesInstanceUID=uid, PatientID=f"patient {k // 2}")
    write_train(root, uids)
    return uids


def script(root: Path, *flags: str, **options) -> subprocess.Popen:
    command = [sys.executable, str(SCRIPT), "--data-dir", str(root), "--image-size", "20", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, **options)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file() and "series/" not in str(path)}


def run(root: Path, **options):
    return preprocess_data.main(Config(**{"data_dir": root, "image_size": 20} | options))


def test_what_it_writes(tmp_path):
    root = tmp_path / "data with spaces ü"
    uids = make_data(root, 3)
    axes = AXES["coronal"]
    frames = write_frames(root / "series" / "1.9" / "one", volume((4, 16, 14))[::-1], places(axes, 4)[::-1], [*axes[2], *axes[1]])
    write_train(root, [*uids, "1.9"])
    outcome = script(root, cwd=tmp_path)
    assert outcome.wait() == 0 and "4 of 4 series are ready" in outcome.stdout.read() and frames.exists()

    data = DataFolder(root)
    meta = artifacts.read_meta(data)
    assert meta.columns.tolist()[-10:] == list(preprocess_data.FACTS_IN_META) and meta.plane.tolist() == ["axial"] * 3 + ["coronal"]
    assert meta.patient_id.tolist() == ["patient 0", "patient 0", "patient 1", "p1"]
    for uid in meta.SeriesInstanceUID:
        array = artifacts.read_array(data.sequence(uid))
        assert array.shape == (4, 20, 20) and array.dtype == np.float16 and array.min() >= 0 and array.max() <= 5
        for k in range(4):
            assert np.array_equal(artifacts.read_array(data.slice(uid, k)), array[k])
    assert artifacts.read_pickle(data.slice_uids)["1.2.1"] == ["1.2.3.1", "1.2.3.2", "1.2.3.3", "1.2.3.4"]
    geometry = artifacts.read_pickle(data.geometry)
    assert geometry["1.2.1"]["positions"].tolist() == [10, 12.5, 15, 17.5] and geometry["1.9"]["frames"].tolist() == [3, 2, 1, 0]
    assert artifacts.read_json(data.array_settings) == {"image_size": 20, "mr_window": "percentile"}
    assert pd.read_csv(data.failed_series).empty and not list(root.glob(TEMPORARY))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory) -> Path:
    """One series of each kind of fault among good ones."""
    root = tmp_path_factory.mktemp("faulty")
    good = make_data(root, 4)
    faults = {"1.9.1": "missing", "1.9.2": "no_dicom", "1.9.3": "not_dicom", "1.9.4": "truncated", "1.9.5": "too_large", "1.9.6": "bad_rescale"}
    series = root / "series"
    (series / "1.9.2").mkdir()
    (series / "1.9.3").mkdir()
    (series / "1.9.3" / "page.dcm").write_text("<html>" * 100)
    path = save(dataset(volume()[0]), series / "1.9.4" / "cut.dcm")
    path.write_bytes(path.read_bytes()[:-50])
    many = dataset(volume()[0])
    many.compress("1.2.840.10008.1.2.5")
    many.NumberOfFrames = 500000
    save(many, series / "1.9.5" / "frames.dcm")
    save(dataset(volume()[0], RescaleSlope="1e38", RescaleIntercept=0), series / "1.9.6" / "slope.dcm")
    write_train(root, [*faults, *good])
    (root / "expected.csv").write_text("\n".join(f"{uid},{reason}" for uid, reason in faults.items()))
    return root


def test_broken_series_are_rows_and_the_rest_is_done(faulty):
    outcome = script(faulty)
    text = outcome.communicate()[0]
    assert outcome.returncode == 3 and "Traceback" not in text and "4 of 10 series are ready" in text
    failed = pd.read_csv(faulty / "failed_series.csv", dtype=str)
    assert sorted(f"{uid},{reason}" for uid, reason in zip(failed.SeriesInstanceUID, failed.reason, strict=True)) == sorted(
        (faulty / "expected.csv").read_text().split()
    )
    assert failed.detail.str.len().min() > 10
    assert sorted(artifacts.read_meta(DataFolder(faulty)).SeriesInstanceUID) == ["1.2.1", "1.2.2", "1.2.3", "1.2.4"]


def test_the_report_writes_no_arrays(faulty, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(faulty / "series", root / "series")
    shutil.copy(faulty / "train.csv", root)
    (root / "train_localizers.csv").write_text(
        "SeriesInstanceUID,SOPInstanceUID,coordinates,location\n"
        "1.2.1,1.2.3.2,\"{'x': 3.0, 'y': 4.0}\",Basilar Tip\n1.2.1,1.2.3.77,\"{'x': 3.0, 'y': 4.0}\",Basilar Tip\n"
    )
    failed = run(root, check=True)
    text = capsys.readouterr().out
    for line in ("4 of 10 series can be read, 16 slices", "mod                MR 4", "plane              axial 4", "size               16 x 14 4"):
        assert line in text
    for line in ("2, 2 of them with several series", "1 point to a slice; lost: SOPInstanceUID not in the series 1", "1 failed: too_large"):
        assert line in text
    report = pd.read_csv(root / "series_report.csv")
    assert len(report) == 10 and report.reason.notna().sum() == len(failed) == 6
    assert not (root / "npy_sequence").exists()


def test_all_series_broken_ends_with_an_error(tmp_path):
    write_train(tmp_path, ["1.1", "1.2"])
    with pytest.raises(ArtifactError, match="none of the 2 series"):
        run(tmp_path)
    assert len(pd.read_csv(tmp_path / "failed_series.csv")) == 2


def test_a_uid_that_leads_elsewhere_is_refused(tmp_path):
    write_train(tmp_path, ["../../etc"])
    with pytest.raises(ArtifactError, match="not a DICOM UID"):
        run(tmp_path)


def test_what_is_done_stays_and_other_settings_are_refused(tmp_path, capsys):
    uids = make_data(tmp_path, 3)
    run(tmp_path, write_slices=False)
    data = DataFolder(tmp_path)
    assert not data.slices.exists()
    before = {path: path.stat().st_mtime_ns for path in data.sequences.iterdir()}
    shutil.rmtree(tmp_path / "series")
    run(tmp_path, write_slices=False)
    assert before == {path: path.stat().st_mtime_ns for path in data.sequences.iterdir()}
    assert "3 of them done before" in capsys.readouterr().out
    for other in ({"image_size": 24}, {"mr_window": "fixed"}):
        with pytest.raises(ArtifactError, match=r"20, not 24|percentile, not fixed"):
            run(tmp_path, **other)
    make_data(tmp_path, 3)
    run(tmp_path)
    assert all(len(list(data.slice_folder(uid).iterdir())) == 4 for uid in uids)


def test_what_a_power_cut_left_short_is_made_again(tmp_path):
    uids = make_data(tmp_path, 5)
    run(tmp_path)
    data, whole = DataFolder(tmp_path), contents(tmp_path)
    os.truncate(data.sequence(uids[0]), 0)
    os.truncate(data.facts(uids[1]), 0)
    os.truncate(data.slice(uids[2], 1), 0)
    data.slice(uids[3], 2).unlink()
    untouched = data.sequence(uids[4]).stat().st_mtime_ns
    run(tmp_path)
    assert contents(tmp_path) == whole and data.sequence(uids[4]).stat().st_mtime_ns == untouched


def test_shards_make_the_same_files(tmp_path):
    make_data(tmp_path / "a", 5)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    run(tmp_path / "a", workers=1)
    for shard in ("1/2", "2/2"):
        run(tmp_path / "b", shard=shard)
        assert not (tmp_path / "b" / "train_meta.csv").exists()
    shutil.rmtree(tmp_path / "b" / "series")
    run(tmp_path / "b", workers=3)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    with pytest.raises(UserError, match="shard"):
        run(tmp_path / "a", shard="3/2")


def marked(job):
    """`prepare_series`, but a mark in the series' folder kills or hangs the worker."""
    folder = DataFolder(job.data_dir).series(job.uid)
    if (folder / "kill").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    if (folder / "hang").exists():
        signal.pause()
    return prepare_series(job)


def test_killed_and_hanging_workers_cost_one_series_each(tmp_path, monkeypatch):
    uids = make_data(tmp_path, 6)
    (tmp_path / "series" / uids[1] / "kill").touch()
    (tmp_path / "series" / uids[3] / "hang").touch()
    monkeypatch.setattr(preprocess_data, "prepare_series", marked)
    failed = run(tmp_path, time_limit=1)
    assert dict(zip(failed.SeriesInstanceUID, failed.reason, strict=True)) == {uids[1]: "crashed", uids[3]: "timeout"}
    assert len(artifacts.read_meta(DataFolder(tmp_path))) == 4


def killed_run(root: Path, after: int, delay: float) -> bool:
    """Run the stage in a session of its own and kill all of it once `after` more files are there; whether it was still running."""
    child = os.fork()
    if child == 0:
        os.setsid()
        workers.clean_context = lambda module: multiprocessing.get_context("fork")  # starts 20 times faster than the script
        run(root, image_size=128)
        os._exit(0)
    wanted = len(list(root.glob("npy_*/*"))) + after
    ended, deadline = 0, time.monotonic() + 60
    while not ended and time.monotonic() < deadline and len(list(root.glob("npy_*/*"))) < wanted:
        ended = os.waitpid(child, os.WNOHANG)[0]
        time.sleep(0.002)
    time.sleep(delay)
    if not ended:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return not ended


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_any_moment_and_run_again(tmp_path):
    make_data(tmp_path / "whole", 60, (3, 40, 30))
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    run(tmp_path / "whole", image_size=128)
    kills = sum(killed_run(tmp_path / "killed", after=1 + k % 3, delay=0.002 * (k % 5)) for k in range(20))
    assert kills >= 5
    run(tmp_path / "killed", image_size=128)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(number, code, tmp_path):
    [uid] = make_data(tmp_path, 1, (20, 60, 50))
    uids = [uid, *(f"1.3.{k}" for k in range(SERIES - 1))]  # seconds of work
    for other in uids[1:]:
        (tmp_path / "series" / other).symlink_to(uid, target_is_directory=True)
    write_train(tmp_path, uids)
    child = script(tmp_path, "--image-size", "256")
    while not list(tmp_path.glob("npy_sequence/1*.json")):
        assert child.poll() is None
        time.sleep(0.01)
    patience = 5 * max(1, os.getloadavg()[0] / os.cpu_count())
    start = time.monotonic()
    os.kill(child.pid, number)
    text = child.communicate()[0]
    assert child.returncode == code and "Traceback" not in text
    while running := processes_of_session(child.pid):
        assert time.monotonic() < start + patience, running
        time.sleep(0.05)
    assert len(list(tmp_path.glob("npy_sequence/1*.json"))) < SERIES


def processes_of_session(session: int) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
            found += [path.parent.name] if int(its_session) == session and state != "Z" else []
    return found


def test_a_full_disk(tmp_path):
    import resource

    make_data(tmp_path, 2)
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))  # noqa: E731
    child = script(tmp_path, preexec_fn=limit)
    text = child.communicate()[0]
    assert child.returncode == 1 and "Traceback" not in text and "npy_sequence/1.2." in text and "free space" in text
    assert not list(tmp_path.glob("npy_sequence/1*")) and not list(tmp_path.glob(TEMPORARY)) and not list(tmp_path.glob("npy_slice/*/*"))


def test_a_folder_that_cannot_be_written(tmp_path):
    make_data(tmp_path, 1)
    (tmp_path / "npy_sequence").write_text("in the way")
    with pytest.raises(ArtifactError, match="npy_sequence"):
        run(tmp_path)
