import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch

import src.training.run_folder
from src.artifacts import atomic
from src.artifacts.checkpoints import read_checkpoint
from src.artifacts.files import read_json_lines
from src.artifacts.paths import ArtifactError, RunFolder
from src.progress import duration
from src.training.run_folder import RunLog, epoch_line
from tests.small_run import assert_same, new_learner, one_thread, scores, train  # noqa: F401


def test_a_run_that_was_interrupted_ends_bit_for_bit_as_one_that_was_not(tmp_path):
    straight, stopped = RunFolder(tmp_path, "straight", 0), RunFolder(tmp_path, "stopped", 0)
    expected, _ = train(straight, 4)
    train(stopped, 2)
    resumed, _ = train(stopped, 4, resume=True)
    assert_same(expected.state_dict(), resumed.state_dict())
    histories = [read_json_lines(folder.metrics("stage1")) for folder in (straight, stopped)]
    for row in histories[0] + histories[1]:
        del row["seconds"]
    assert histories[0] == histories[1]


@pytest.mark.parametrize("left", [None, "", "one", "one and a half"])
def test_whatever_a_kill_left_of_the_json_lines_each_epoch_has_its_own(tmp_path, left):
    folder = RunFolder(tmp_path, "net", 0)
    train(folder, 2)
    path = folder.metrics("stage1")
    expected = path.read_text()
    first, second = expected.splitlines(keepends=True)
    path.unlink()
    if left is not None:
        path.write_text({"": "", "one": first, "one and a half": first + second[:20]}[left])
    train(folder, 2, resume=True)
    assert path.read_text() == expected
    train(folder, 4, resume=True)
    assert path.read_text().startswith(expected)
    assert [row["epoch"] for row in read_json_lines(path)] == [1, 2, 3, 4]


def test_the_best_epoch_is_the_best_and_not_the_last(tmp_path):
    folder = RunFolder(tmp_path, "net", 0)
    _, best = train(folder, 4, (0.6, 0.9, 0.7, 0.8))
    assert best == {"score": 0.9, "epoch": 2}
    checkpoint = read_checkpoint(folder.best("stage1"), ("weights", "settings"))
    assert checkpoint["epoch"] == 2
    assert checkpoint["settings"] == {"seed": 3, "step": 1}


def test_a_missing_score_never_wins_and_never_loses_the_weights(tmp_path):
    folder = RunFolder(tmp_path, "net", 0)
    assert train(folder, 4, (None, 0.4, None, 0.3))[1]["epoch"] == 2
    other = RunFolder(tmp_path, "other", 0)
    learner, best = train(other, 2, (None, None))
    assert best["epoch"] == 2  # the latest
    assert_same(
        read_checkpoint(other.best("stage1"), ("weights",))["weights"],
        learner.average.module.state_dict(),
    )


def test_a_folder_with_a_run_is_not_taken_unasked(tmp_path):
    folder = RunFolder(tmp_path, "net", 0)
    train(folder, 1)
    with pytest.raises(ArtifactError, match="--resume"):
        train(folder, 1)


def test_a_resume_with_other_settings_is_refused_and_leaves_the_folder_as_it_was(tmp_path):
    folder = RunFolder(tmp_path, "net", 0)
    train(folder, 1, lr=0.003, compile=False)
    before = {path.name: path.read_bytes() for path in folder.root.iterdir()}
    with pytest.raises(ArtifactError, match=r"lr 0\.003, not 0\.01; give --lr 0\.003, or delete"):
        train(folder, 2, resume=True, lr=0.01, compile=True)
    assert before == {path.name: path.read_bytes() for path in folder.root.iterdir()}
    train(folder, 2, resume=True, lr=0.003, compile=True)


@pytest.mark.parametrize(
    ("setting", "remedy"),
    [({"pretrained": False}, "give --no-pretrained"), ({"held_out": "ab"}, "artifacts")],
)
def test_a_refused_resume_says_how_to_get_the_value_back(tmp_path, setting, remedy):
    folder = RunFolder(tmp_path, "net", 0)
    train(folder, 1, **setting)
    with pytest.raises(ArtifactError, match=f"{remedy}.*, or delete"):
        train(folder, 1, resume=True, **dict.fromkeys(setting, True))


def test_a_run_from_before_a_setting_existed_can_be_resumed(tmp_path):
    """Its state has the layout that is promised: the average under `module` and `updates`."""
    folder = RunFolder(tmp_path, "net", 0)
    train(folder, 1)
    average = read_checkpoint(folder.last("stage1"), ())["learner"]["average"]
    assert average.keys() == {"module", "updates"} and average["updates"] == 2  # of 5 steps
    with pytest.raises(ArtifactError, match="give --ema-every 3"):
        train(folder, 2, resume=True, ema_every=1)
    train(folder, 2, resume=True, ema_every=3)
    assert read_checkpoint(folder.last("stage1"), ())["epoch"] == 2


def test_a_resume_says_whether_anything_is_left_to_do(tmp_path, capsys):
    folder = RunFolder(tmp_path, "net", 0)
    train(folder, 1)
    train(folder, 2, resume=True)
    assert "resuming after epoch 1 of 2" in capsys.readouterr().out
    train(folder, 2, resume=True)
    *_, finished, kept = capsys.readouterr().out.splitlines()
    assert finished == "already finished: 2 of 2 epochs are done"
    assert kept == f"kept epoch 2 of 2, score 0.7000: {folder.best('stage1')}"


def test_an_epoch_has_its_number_of_all_and_the_time_left():
    row = {"epoch": 3, "loss": 0.25, "seconds": 90.0, "scores": scores(0.5)}
    said = "epoch   3/9  loss 0.2500  best 0.500  present 0.500  locations 0.500  9 min left"
    assert epoch_line(row, 9, is_best=True) == said
    none = epoch_line(row | {"epoch": 12, "scores": None}, 12, is_best=True)
    assert none == "epoch  12/12  loss 0.2500"
    assert [duration(seconds) for seconds in (99, 100, 5940, 9000)] == [
        "99 s",
        "2 min",
        "99 min",
        "2.5 h",
    ]


def test_a_run_that_is_refused_leaves_nothing(tmp_path):
    """Before its first epoch: a run that is new, and one that has other layers than its state."""
    new, old = RunFolder(tmp_path, "new", 0), RunFolder(tmp_path, "old", 0)
    new.root.mkdir(parents=True)
    new.inference.write_bytes(b"of an earlier run")
    run = RunLog(new, "stage1", {"seed": 3}, Path(__file__), resume=False)
    run.say("and then its arrays are refused")
    assert list(new.root.iterdir()) == [new.inference]
    train(old, 1)
    before = {path.name: path.read_bytes() for path in old.root.iterdir()}
    other = new_learner(torch.nn.Linear(4, 1))
    run = RunLog(old, "stage1", {"seed": 3}, Path(__file__), resume=True)
    run.say("4 series")
    with pytest.raises(ArtifactError, match="does not fit this network"):
        run.start(other, 2)
    assert before == {path.name: path.read_bytes() for path in old.root.iterdir()}


def test_killed_while_saving_20_times_the_last_state_is_always_whole(tmp_path, clean_process):
    """SIGKILL at the k-th write of the last state's bytes, in its own process; then a resume."""
    folder = RunFolder(tmp_path, "net", 0)
    train(folder, 1)
    clean_process.submit(be_killed_20_times, folder)
    train(folder, 4, resume=True)
    straight = RunFolder(tmp_path, "straight", 0)
    train(straight, 4)
    states = [read_checkpoint(run.last("stage1"), ("learner",)) for run in (folder, straight)]
    assert_same(states[0]["learner"], states[1]["learner"])


def be_killed_20_times(folder):
    """Run in the clean process, so that its forks can compute."""
    fork = multiprocessing.get_context("fork")
    for k in range(20):
        process = fork.Process(target=die_in_training, args=(folder, k))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, f"kill {k} came too late"
        state = read_checkpoint(folder.last("stage1"), ("learner", "epoch"))
        assert 1 <= state["epoch"] < 4


def die_in_training(folder, k):
    signal.alarm(60)
    torch.set_num_threads(1)
    src.training.run_folder.draw_progress = lambda *_: None  # half a second in each of them
    die_in_write(folder.last("stage1"), k)
    train(folder, 4, resume=True)


def die_in_write(path, after):
    """Let the next write of the file at `path` kill the process.

    after: kilobytes that are written first; 18: before the file gets its name; 19: after.
    """
    real_save, real_replace = torch.save, os.replace

    def save(content, file):
        if f".{path.name}." not in str(getattr(file, "name", "")):
            return real_save(content, file)
        if after < 18:
            import io

            whole = io.BytesIO()
            real_save(content, whole)
            file.write(whole.getvalue()[: after * 1000])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return real_save(content, file)

    def replace(source, target):
        if Path(target) == path and after == 18:
            os.kill(os.getpid(), signal.SIGKILL)
        real_replace(source, target)
        if Path(target) == path:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save, os.replace = save, replace


def test_each_epoch_leaves_a_picture_and_a_line(tmp_path, pictures):
    folder = RunFolder(tmp_path, "net", 0)
    train(folder, 3, (0.5, None, 0.7))
    assert folder.curves("stage1").read_bytes().startswith(b"\x89PNG")
    assert len(folder.metrics("stage1").read_text().splitlines()) == 3


def test_a_full_disk_ends_training_with_a_sentence_and_a_whole_state(
    tmp_path, monkeypatch, pictures
):
    """At the log, the metrics, the state (what torch makes of it) and the picture."""
    folder = RunFolder(tmp_path, "net", 0)
    train(folder, 1)
    folder.log("stage1").unlink()
    monkeypatch.setattr(atomic, "temporary", lambda path: path.with_name(f".{path.name}.tmp"))
    for path in (
        folder.log("stage1"),
        atomic.temporary(folder.metrics("stage1")),
        atomic.temporary(folder.curves("stage1")),
    ):
        path.symlink_to("/dev/full")
        with pytest.raises(ArtifactError, match="No space left"):
            train(folder, 3, resume=True)
        path.unlink(missing_ok=True)
        assert read_checkpoint(folder.last("stage1"), ("learner",))["epoch"] == 1

    def full(*_):
        raise RuntimeError("PytorchStreamWriter failed writing file data/3")

    before = folder.last("stage1").read_bytes()
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ArtifactError, match="cannot be written"):
        train(folder, 4, resume=True)
    assert folder.last("stage1").read_bytes() == before and not list(folder.root.glob(".*"))
