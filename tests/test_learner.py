from pathlib import Path
from statistics import median

import numpy as np
import pytest
import timm.optim
import torch
from torch import nn

from src.artifacts.checkpoints import read_checkpoint
from src.artifacts.files import read_json_lines
from src.artifacts.paths import RunFolder
from src.script import UserError
from src.training.learner import MOST_BROKEN_STEPS, fit, scores_or_none
from src.training.run_folder import RunLog
from tests.small_run import (
    Batches,
    assert_same,
    batches,
    loss_of,
    new_learner,
    one_thread,  # noqa: F401
    scores,
)


def step(learner, batch, pieces=1):
    return learner.step(
        [lambda piece=piece: loss_of(learner.network, piece) for piece in batch.chunk(pieces)]
    )


def poisoned():
    batch = batches()[0].clone()
    batch[0, 0] = float("nan")
    return batch


def floating(state):
    """Copies of the floating-point tensors of a state, a dict of tensors."""
    return {name: value.clone() for name, value in state.items() if value.is_floating_point()}


def test_a_loss_that_is_not_finite_changes_nothing_and_is_counted():
    learner = new_learner()
    for batch in batches()[:2]:
        step(learner, batch)
    before = floating(learner.model.state_dict())  # with the statistics of batch norm
    moments = [floating(state) for state in learner.optimizer.state.values()]
    assert step(learner, poisoned()).isnan()
    assert learner.broken == 1
    assert_same(before, floating(learner.model.state_dict()))
    assert_same(moments, [floating(state) for state in learner.optimizer.state.values()])
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
    learners = [new_learner(nn.Linear(4, 1)) for _ in range(2)]
    learners[1].model.load_state_dict(learners[0].model.state_dict())
    for batch in batches():
        whole, pieces = step(learners[0], batch), step(learners[1], batch, pieces=4)
        assert whole.item() == pytest.approx(pieces.item(), rel=1e-5)
    for name, value in learners[0].model.state_dict().items():
        other = learners[1].model.state_dict()[name]
        torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-6)


def test_scores_or_none():
    truth = np.zeros((4, 14), int)
    assert scores_or_none(truth, np.full((4, 14), 0.5)) is None
    truth[:2] = 1
    assert scores_or_none(truth, np.full((4, 14), 0.5))["score"] == 0.5


def test_the_learner_does_what_the_method_says():
    """Against a slow loop: AutoClip, timm's Mars, warm-up, EMA of every third step."""
    learner = new_learner(nn.Linear(4, 1), weight_decay=0.1, warmup_steps=5, ema_decay=0.9)
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
    run = RunLog(folder, "stage1", {"seed": 3}, Path(__file__), resume=False)

    def evaluate(model):
        seen.append(model)
        return scores(0.5), {}

    fit(learner, run, batches(), 1, 1, loss_of, evaluate)
    assert seen == [learner.average.module] and not seen[0].training
    kept = read_checkpoint(folder.best("stage1"), ("weights",))["weights"]
    assert_same(kept, learner.average.module.state_dict())
    assert not torch.equal(kept["0.weight"], learner.model.state_dict()["0.weight"])


@pytest.mark.parametrize("every", [1, 2])
def test_the_average_is_updated_at_the_first_step_and_every_nth_after_it(every):
    learner = new_learner()
    learner.ema_every = every
    for batch in batches():
        step(learner, batch)
    assert learner.state_dict()["average"]["updates"] == {1: 5, 2: 3}[every]


def fit_batches(tmp_path, chosen):
    """One epoch of these batches; returns the folder."""
    folder = RunFolder(tmp_path, "net", 0)
    run = RunLog(folder, "stage1", {"seed": 3}, Path(__file__), resume=False)
    fit(new_learner(), run, Batches(chosen), 1, 1, loss_of, lambda _: (scores(0.5), {}))
    return folder


def test_broken_steps_of_an_epoch_are_said_on_screen_and_in_the_log(tmp_path, capsys):
    good = batches()
    folder = fit_batches(tmp_path, [good[0], poisoned(), good[1], poisoned() * torch.inf])
    said = "epoch 1: the loss or its gradient was not finite in 2 of 4 steps, which were skipped"
    assert said in capsys.readouterr().out
    assert said in folder.log("stage1").read_text()
    (row,) = read_json_lines(folder.metrics("stage1"))
    assert row["broken_steps"] == 2 and np.isfinite(row["loss"])


def test_an_epoch_without_broken_steps_says_nothing_of_them(tmp_path, capsys):
    fit_batches(tmp_path, batches())
    assert "finite" not in capsys.readouterr().out


def test_an_epoch_in_which_every_step_is_broken_ends_the_run(tmp_path):
    with pytest.raises(UserError, match="not finite in 3 of 3 steps: lower --lr, or look"):
        fit_batches(tmp_path, [poisoned()] * 3)
    assert not RunFolder(tmp_path, "net", 0).last("stage1").exists()
