import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import timm.optim
import torch
from torch import nn

import src.training.run_folder
from src.artifacts.checkpoints import read_checkpoint
from src.artifacts.files import read_json_lines, temporary
from src.artifacts.paths import ArtifactError, RunFolder
from src.device import choose_device, precision
from src.labels import LOCATIONS
from src.script import UserError
from src.training.learner import MOST_BROKEN_STEPS, Learner, fit, scores_or_none
from src.training.run_folder import Run
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def one_thread():
    """So that results do not depend on the number of threads, which a forked process does not have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def scores(value):
    return {"score": value, "present": value, "locations": dict.fromkeys(LOCATIONS, value)}


class Batches(list):
    """A loader of fixed batches."""

    num_workers = 0

    class sampler:
        epoch = 0


def new_learner(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))
    return Learner(
        model, torch.device("cpu"), lr=1e-2, weight_decay=0.01, warmup_steps=3, ema_decay=0.99
    )


def batches():
    generator = torch.Generator().manual_seed(9)
    return Batches(torch.randn(8, 4, generator=generator) for _ in range(5))


def loss_of(model, batch):
    return (model(batch)[:, 0] - batch.sum(1)).square().mean()


def train(folder, epochs, values=(0.6, 0.7, 0.65, 0.8), resume=False, seed=3):
    learner = new_learner()
    run = Run(folder, "stage1", {"seed": seed}, Path(__file__), resume)
    best = fit(
        learner,
        run,
        batches(),
        epochs,
        1,
        loss_of,
        lambda _: (scores(values[run.epoch]) if values[run.epoch] else None, {"step": 1}),
    )
    return learner, best


def assert_same(first, second, where=""):
    """Nested states are equal bit for bit."""
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f"{where}/{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for place, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{where}/{place}")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first.nan_to_num(-1), second.nan_to_num(-1)), where
    else:
        assert first == second, where


def test_a_run_that_was_interrupted_ends_bit_for_bit_as_one_that_was_not(tmp_path):
    straight, stopped = RunFolder(tmp_path, "straight", 0), RunFolder(tmp_path, "stopped", 0)
    expected, _ = train(straight, 4)
    train(stopped, 2)
    resumed, _ = train(stopped, 4, resume=True)
    assert_same(expected.state_dict(), resumed.state_dict())
    rows = [
        [json.loads(line) for line in folder.metrics("stage1").read_text().splitlines()]
        for folder in (straight, stopped)
    ]
    assert [(row["epoch"], row["loss"], row["scores"]) for row in rows[0]] == [
        (row["epoch"], row["loss"], row["scores"]) for row in rows[1]
    ]


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


def test_a_run_does_not_go_on_with_other_settings(tmp_path):
    folder = RunFolder(tmp_path, "net", 0)
    train(folder, 1)
    with pytest.raises(ArtifactError, match="seed 3, not 4"):
        train(folder, 2, resume=True, seed=4)


def step(learner, batch, pieces=1):
    return learner.step(
        [lambda piece=piece: loss_of(learner.network, piece) for piece in batch.chunk(pieces)]
    )


def poisoned():
    batch = batches()[0].clone()
    batch[0, 0] = float("nan")
    return batch


def test_a_loss_that_is_not_finite_changes_nothing_and_is_counted():
    learner = new_learner()
    for batch in batches()[:2]:
        step(learner, batch)
    before = {
        name: value.clone()
        for name, value in learner.model.state_dict().items()
        if value.is_floating_point()
    }
    moments = [
        value.clone() for state in learner.optimizer.state.values() for value in state.values()
    ]
    assert step(learner, poisoned()).isnan()
    assert learner.broken == 1
    for name, value in before.items():  # batch norm's statistics, too
        assert torch.equal(value, learner.model.state_dict()[name]), name
    for value, now in zip(
        moments,
        [value for state in learner.optimizer.state.values() for value in state.values()],
        strict=True,
    ):
        assert torch.equal(value, now)
    for batch in batches():
        step(learner, batch)
    assert all(value.isfinite().all() for value in learner.average.module.state_dict().values())
    assert learner.broken == 1 and learner.broken_in_a_row == 0


def test_many_broken_losses_in_a_row_stop_the_run():
    learner = new_learner()
    with pytest.raises(UserError, match="not finite"):
        for _ in range(2 * MOST_BROKEN_STEPS):
            step(learner, poisoned())


def test_a_step_in_pieces_is_the_step_in_one():
    """Without batch norm and dropout, which see the pieces one by one."""
    learners = [
        Learner(nn.Linear(4, 1), torch.device("cpu"), 1e-2, 0.01, 3, 0.99) for _ in range(2)
    ]
    learners[1].model.load_state_dict(learners[0].model.state_dict())
    for batch in batches():
        losses = [
            step(learner, batch, pieces) for learner, pieces in zip(learners, (1, 4), strict=True)
        ]
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
    for first, second in zip(
        learners[0].model.parameters(), learners[1].model.parameters(), strict=True
    ):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)


def test_killed_while_saving_20_times_the_last_state_is_always_whole(tmp_path):
    """SIGKILL at the k-th write of the last state's bytes, in a process of its own; then the run goes on."""
    folder = RunFolder(tmp_path, "net", 0)
    train(folder, 1)
    process = multiprocessing.get_context("spawn").Process(
        target=be_killed_20_times, args=(folder,)
    )
    process.start()
    process.join()
    assert process.exitcode == 0
    train(folder, 4, resume=True)
    straight = RunFolder(tmp_path, "straight", 0)
    train(straight, 4)
    states = [
        read_checkpoint(one.last("stage1"), ("learner", "epoch")) for one in (folder, straight)
    ]
    assert_same(states[0]["learner"], states[1]["learner"])


def be_killed_20_times(folder):
    """In a process of its own, which has computed nothing: its forks can."""
    torch.set_num_threads(1)
    src.training.run_folder.draw_progress = lambda *_: None  # half a second in each of them
    for k in range(20):
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            die_in_write(folder.last("stage1"), k)
            train(folder, 4, resume=True)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code == -signal.SIGKILL, f"kill {k} came too late"
        state = read_checkpoint(folder.last("stage1"), ("learner", "epoch"))
        assert 1 <= state["epoch"] < 4


def die_in_write(path, after):
    """From now on, writing the file at `path` ends the process: after so many kilobytes, or right before or after it gets its name."""
    real_save, real_replace = torch.save, os.replace

    def save(content, file):
        if temporary(path).name not in str(getattr(file, "name", "")):
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


def test_each_epoch_leaves_a_picture_and_a_line(tmp_path):
    folder = RunFolder(tmp_path, "net", 0)
    train(folder, 3, (0.5, None, 0.7))
    assert folder.curves("stage1").read_bytes().startswith(b"\x89PNG")
    assert len(folder.metrics("stage1").read_text().splitlines()) == 3


def test_cpu_runs_in_float32_and_a_missing_gpu_is_said(monkeypatch):
    assert precision(torch.device("cpu")) == torch.float32
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    with pytest.raises(UserError, match="--device"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((9, 0), torch.bfloat16), ((8, 0), torch.bfloat16), ((7, 5), torch.float16)],
)
def test_gpus_run_in_the_half_precision_that_they_have(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert precision(torch.device("cuda")) == dtype


def test_scores_or_none():
    truth = np.zeros((4, 14), int)
    assert scores_or_none(truth, np.full((4, 14), 0.5)) is None
    truth[:2] = 1
    assert scores_or_none(truth, np.full((4, 14), 0.5))["score"] == 0.5


def test_the_learner_does_what_the_method_says():
    """Against a slow loop: AutoClip, timm's Mars, warm-up, EMA of every third step from the first on."""
    learner = Learner(
        nn.Linear(4, 1),
        torch.device("cpu"),
        lr=1e-2,
        weight_decay=0.1,
        warmup_steps=5,
        ema_decay=0.9,
    )
    plain = nn.Linear(4, 1)
    plain.load_state_dict(learner.model.state_dict())
    optimizer = timm.optim.Mars(plain.parameters(), lr=1e-2, weight_decay=0.1)
    norms, average, updates = [], None, 0
    for step_number in range(80):
        batch = batches()[step_number % 5] * (1 + step_number % 7)
        step(learner, batch)
        optimizer.zero_grad()
        loss_of(plain, batch).backward()
        limit = 5.0 if step_number < 50 else min(max(median(norms), 1.0), 100.0)
        norms.append(nn.utils.clip_grad_norm_(plain.parameters(), limit).item())
        optimizer.param_groups[0]["lr"] = 1e-2 * min(1, (step_number + 1) / 5)
        optimizer.step()
        if step_number % 3 == 0:
            decay = min(0.9, (1 + updates) / (10 + updates))
            weight = plain.weight.detach().clone()
            average = weight if average is None else decay * average + (1 - decay) * weight
            updates += 1
    torch.testing.assert_close(learner.model.weight, plain.weight, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(learner.average.module.weight, average, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(average, plain.weight, atol=1e-4)


def test_the_average_is_what_is_evaluated_and_kept(tmp_path):
    folder, learner, seen = RunFolder(tmp_path, "net", 0), new_learner(), []
    run = Run(folder, "stage1", {"seed": 3}, Path(__file__), resume=False)
    fit(
        learner,
        run,
        batches(),
        1,
        1,
        loss_of,
        lambda model: (seen.append(model) or scores(0.5), {}),
    )
    assert seen == [learner.average.module] and not seen[0].training
    kept = read_checkpoint(folder.best("stage1"), ("weights",))["weights"]
    assert_same(kept, learner.average.module.state_dict())
    assert not torch.equal(kept["0.weight"], learner.model.state_dict()["0.weight"])


def test_a_refused_resume_leaves_the_folder_as_it_was(tmp_path):
    folder = RunFolder(tmp_path, "net", 0)
    train(folder, 1)
    before = {path.name: path.read_bytes() for path in folder.root.iterdir()}
    with pytest.raises(ArtifactError, match="seed 3, not 4"):
        train(folder, 2, resume=True, seed=4)
    assert before == {path.name: path.read_bytes() for path in folder.root.iterdir()}


def test_a_full_disk_ends_training_with_a_sentence_and_a_whole_state(tmp_path, monkeypatch):
    """At the log, the metrics, the state (what torch makes of it) and the picture."""
    folder = RunFolder(tmp_path, "net", 0)
    train(folder, 1)
    folder.log("stage1").unlink()
    for path in (
        folder.log("stage1"),
        temporary(folder.metrics("stage1")),
        temporary(folder.curves("stage1")),
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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is the GNU C library's")
@pytest.mark.parametrize("kept", [True, False])
def test_freed_memory_is_kept_for_the_next_batch(kept):
    """Counted by the pages that the system makes anew. A block of 24 MiB has 6,144 of them."""
    program = f"""
import resource, torch
from src.device import choose_device
torch.set_num_threads(1)
choose_device("cpu") if {kept} else None
for turn in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(6 << 20) for _ in range(8)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (int(done.stdout) < 1000) == kept, done.stdout
