"""How preprocess_data.py resumes, and what it does if workers, the script or the disk fail."""

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

import preprocess_data
from src import worker_pool
from src.artifacts.paths import ArtifactError, DataFolder
from src.artifacts.tables import read_meta
from src.preprocess.series_job import prepare_series
from src.script import UserError
from tests.data_folders import contents, make_data, run, script, write_train
from tests.processes import processes_of_session

SCRIPT = Path(__file__).resolve().parents[1] / "preprocess_data.py"
TEMPORARY = "**/.*.tmp"
SERIES = 500  # of a run that is interrupted


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
    failed = run(tmp_path, time_limit=2)  # s; a series needs 0.01
    assert dict(zip(failed.SeriesInstanceUID, failed.reason, strict=True)) == {
        uids[1]: "crashed",
        uids[3]: "timeout",
    }
    assert len(read_meta(DataFolder(tmp_path))) == 4


def killed_run(root: Path, after: int, delay: float) -> bool:
    """Kill the stage, in a session of its own, after `after` more files; was it still running?"""
    child = os.fork()
    if child == 0:
        os.setsid()
        worker_pool.clean_context = lambda module: multiprocessing.get_context(
            "fork"
        )  # starts 20 times faster than the script
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
    killed, kills, finished = tmp_path / "killed", 0, {}
    for k in range(20):
        kills += killed_run(killed, after=1 + k % 3, delay=0.002 * (k % 5))
        for facts in killed.glob("npy_sequence/1*.json"):
            finished.setdefault(facts, written(facts))
    assert kills >= 5 and len(finished) >= 5
    run(killed, image_size=128)
    assert contents(killed) == contents(tmp_path / "whole")
    assert finished == {facts: written(facts) for facts in finished}  # none was done twice


def written(facts: Path) -> list[tuple[int, int]]:
    """When, and as which files, a series' facts and array were written."""
    return [
        (status.st_ino, status.st_mtime_ns)
        for status in (facts.stat(), facts.with_suffix(".npy").stat())
    ]


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("send", "number", "code"),
    [
        (os.kill, signal.SIGTERM, 143),  # the script alone
        (os.killpg, signal.SIGTERM, 143),
        (os.killpg, signal.SIGINT, 130),  # all its processes, as a terminal does
    ],
)
def test_interrupted(send, number, code, tmp_path):
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
    send(child.pid, number)
    text = child.communicate()[0]
    assert child.returncode == code and "Traceback" not in text
    assert time.monotonic() < start + patience
    while running := processes_of_session(child.pid):
        assert time.monotonic() < start + patience, running
        time.sleep(0.05)
    assert len(list(tmp_path.glob("npy_sequence/1*.json"))) < SERIES


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_interrupted_while_workers_start(tmp_path):
    make_data(tmp_path, 1)
    child = script(tmp_path)
    while (
        len(processes_of_session(child.pid)) < 3
    ):  # it has a tracker of resources and a server that forks workers
        assert child.poll() is None
        time.sleep(0.005)
    time.sleep(0.2)  # the server imports
    os.killpg(child.pid, signal.SIGINT)
    text = child.communicate()[0]
    assert child.returncode == 130 and "Traceback" not in text, text


def test_a_full_disk(tmp_path):
    import resource

    make_data(tmp_path, 2)
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))  # noqa: E731
    child = script(tmp_path, preexec_fn=limit)
    text = child.communicate()[0]
    assert (
        child.returncode == 1
        and "Traceback" not in text
        and "npy_sequence/1.2." in text
        and "free space" in text
    )
    assert (
        not list(tmp_path.glob("npy_sequence/1*"))
        and not list(tmp_path.glob(TEMPORARY))
        and not list(tmp_path.glob("npy_slice/*/*"))
    )


def test_a_folder_that_cannot_be_written(tmp_path):
    make_data(tmp_path, 1)
    (tmp_path / "npy_sequence").write_text("in the way")
    with pytest.raises(ArtifactError, match="npy_sequence"):
        run(tmp_path)
