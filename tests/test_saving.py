"""Checkpoints that are written beside the next epoch, as on a GPU."""

import threading

import pytest
import torch

from src.artifacts.checkpoints import read_checkpoint
from src.artifacts.paths import ArtifactError, RunFolder
from src.training import saving
from tests import small_run
from tests.small_run import assert_same, one_thread, train  # noqa: F401


@pytest.fixture
def beside(monkeypatch):
    """Write in the thread on the CPU, too."""
    really = saving.Saver.save
    monkeypatch.setattr(
        saving.Saver, "save", lambda self, files, beside: really(self, files, beside=True)
    )


def states(folder: RunFolder) -> list[dict]:
    return [read_checkpoint(path("stage1"), ()) for path in (folder.last, folder.best)]


def test_a_run_leaves_the_same_files(tmp_path, monkeypatch, request):
    before, after = RunFolder(tmp_path, "before", 0), RunFolder(tmp_path, "after", 0)
    train(before, 4, (0.6, 0.9, 0.7, 0.8))
    request.getfixturevalue("beside")
    train(after, 2, (0.6, 0.9, 0.7, 0.8))
    train(after, 4, (0.6, 0.9, 0.7, 0.8), resume=True)
    for one, other in zip(states(before), states(after), strict=True):
        one.pop("lines", None), other.pop("lines", None)  # they have seconds
        assert_same(one, other)


def test_the_next_epoch_is_computed_meanwhile_and_its_files_come_after(
    tmp_path, monkeypatch, beside
):
    """The first epoch's state is written once the second has begun, and as it was."""
    folder, begun, written = RunFolder(tmp_path, "net", 0), threading.Event(), []
    really, loss_of = saving.write_checkpoint, small_run.loss_of

    def slow(path, content):
        assert begun.wait(60)
        really(path, content)
        written.append((path, content["epoch"]))

    def loss(model, batch):
        if folder.log("stage1").exists() and "epoch   1" in folder.log("stage1").read_text():
            begun.set()
        return loss_of(model, batch)

    monkeypatch.setattr(saving, "write_checkpoint", slow)
    monkeypatch.setattr(small_run, "loss_of", loss)
    train(folder, 2, (0.6, 0.7))
    best, last = folder.best("stage1"), folder.last("stage1")
    assert written == [(best, 1), (last, 1), (best, 2), (last, 2)]


def test_a_full_disk_ends_the_run_with_its_sentence(tmp_path, monkeypatch, beside):
    folder = RunFolder(tmp_path, "net", 0)
    train(folder, 1)
    before = folder.last("stage1").read_bytes()

    def full(*_):
        raise RuntimeError("PytorchStreamWriter failed writing file data/3")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ArtifactError, match="cannot be written"):
        train(folder, 2, resume=True)  # the last epoch's, too
    assert folder.last("stage1").read_bytes() == before


def test_an_interrupt_leaves_whole_files(tmp_path, monkeypatch, beside):
    folder, stopped = RunFolder(tmp_path, "net", 0), threading.Event()
    really, loss_of, savers = saving.write_checkpoint, small_run.loss_of, []

    def slow(path, content):
        assert stopped.wait(60)
        really(path, content)

    def loss(model, batch):
        if folder.log("stage1").exists() and "epoch   1" in folder.log("stage1").read_text():
            raise KeyboardInterrupt
        return loss_of(model, batch)

    start = saving.Saver.__init__
    monkeypatch.setattr(saving.Saver, "__init__", lambda s: (start(s), savers.append(s))[0])
    monkeypatch.setattr(saving, "write_checkpoint", slow)
    monkeypatch.setattr(small_run, "loss_of", loss)
    with pytest.raises(KeyboardInterrupt):
        train(folder, 3)
    assert not folder.last("stage1").exists()
    stopped.set()
    savers[0].thread.shutdown()  # as Python does when it ends
    assert [state["epoch"] for state in states(folder)] == [1, 1]
