"""Several processes train what one would (torchrun with gloo on the CPU), and share the series."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import train_stage1
from src import distributed
from src.artifacts.paths import RunFolder
from src.sampling.loader import EpochSampler, make_loader
from src.script import UserError
from tests.conftest import CROP, ROOT
from tests.networks import write_random_features
from tests.test_train_stage1 import small

ENCODER = "test_convnext"


def words_of(tiny, model_dir, *flags) -> list[str]:
    """Return train_stage1.py's flags on the tiny set; no dropout: masks are drawn rank by rank."""
    network = f"--encoder {ENCODER} --no-pretrained --crop-size {CROP} --dropout 0 --lr 1e-3"
    place = ["--data-dir", tiny.root, "--model-dir", model_dir]
    words = [*place, *network.split(), "--workers", 0, "--device", "cpu", *flags]
    return [str(word) for word in words]


def torchrun(script, processes, words, meet=("--standalone",), **options):
    """Start a script by torchrun.

    meet: how the ranks find each other.
    """
    start = ["-m", "torch.distributed.run", *meet, f"--nproc-per-node={processes}"]
    return subprocess.Popen(
        [sys.executable, *start, str(ROOT / f"{script}.py"), *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def finished(process):
    text = process.communicate()[0]
    assert process.returncode == 0, text
    return text


def metrics_of(model_dir):
    return [
        json.loads(line)
        for line in RunFolder(model_dir, ENCODER, 0).metrics("stage1").read_text().splitlines()
    ]


def assert_alike(first: list[dict], second: list[dict]) -> None:
    assert [row["loss"] for row in first] == pytest.approx(
        [row["loss"] for row in second], abs=1e-4
    )
    assert [row["scores"]["score"] for row in first] == pytest.approx(
        [row["scores"]["score"] for row in second], abs=0.02
    )
    assert len(first) == len(second) == 4


def test_two_pieces_of_a_batch_train_as_one(tiny, tmp_path):
    for name, options in {"pieces": {"accumulate": 2}, "whole": {}}.items():
        fixed = {"batch_size": 32, "epochs": 4, "dropout": 0.0, "heatmap_weight": 0}
        train_stage1.main(small(tiny, tmp_path / name, **fixed, **options))
    assert_alike(metrics_of(tmp_path / "whole"), metrics_of(tmp_path / "pieces"))


def test_two_nodes_train_as_one_process(tiny, tmp_path):
    """Two launches meet at a port, as docs/scale.md starts them on two machines.

    A batch is an epoch here, so that each epoch's loss is that of one step.
    """
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    meet = ["--nnodes=2", "--rdzv-backend=c10d", "--rdzv-id=7", f"--rdzv-endpoint=localhost:{port}"]
    words = words_of(tiny, tmp_path / "two", "--batch-size", 32, "--epochs", 4)
    nodes = [torchrun("train_stage1", 1, words, meet) for _ in range(2)]
    train_stage1.main(small(tiny, tmp_path / "one", batch_size=32, epochs=4, dropout=0.0))
    texts = [finished(node) for node in nodes]
    assert_alike(metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two"))
    for said in ("2 x cpu", "epoch   4"):  # rank 0 alone prints
        assert sorted(text.count(said) for text in texts) == [0, 1]


def test_a_rank_that_dies_ends_the_others(tiny, tmp_path):
    """Of stage 2, which starts sooner."""
    metrics = write_random_features(tiny, tmp_path).metrics("stage2")
    flags = "--encoder made_up --device cpu --width 16 --batch-size 4 --epochs 1000"
    words = ["--data-dir", str(tiny.root), "--model-dir", str(tmp_path), *flags.split()]
    process = torchrun("train_stage2", 2, words, start_new_session=True)
    while not metrics.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True
    ).stdout.split()
    assert len(children) == 2
    os.kill(int(children[-1]), signal.SIGKILL)
    start = time.monotonic()
    process.communicate(timeout=60)
    assert process.returncode == 1 and time.monotonic() - start < 60
    assert all(not os.path.exists(f"/proc/{child}") for child in children)


@pytest.mark.parametrize("length", [8, 32, 75])
def test_ranks_deal_the_batches_of_one_process(length, monkeypatch):
    alone = EpochSampler(length, batch_size=8, seed=3)
    alone.epoch = 2
    expected, parts = alone.rows(), []
    monkeypatch.setenv("WORLD_SIZE", "4")
    for rank in range(4):
        monkeypatch.setenv("RANK", str(rank))
        sampler = EpochSampler(length, batch_size=8, seed=3)
        sampler.epoch = 2
        parts.append(sampler.rows())
        assert len(sampler) == len(list(sampler)) == len(parts[-1])
    assert len(expected) == length // 8 * 8
    for batch in range(length // 8):
        mine = np.concatenate([part[batch * 2 : (batch + 1) * 2] for part in parts])
        assert sorted(mine) == sorted(expected[batch * 8 : (batch + 1) * 8])


@given(st.integers(0, 50), st.integers(1, 8))
def test_shares_are_disjoint_and_complete(count, shards):
    items = list(range(count))
    assert (
        sorted(
            item for k in range(1, shards + 1) for item in distributed.share(items, f"{k}/{shards}")
        )
        == items
    )


@pytest.mark.parametrize(("batch_size", "accumulate"), [(5, 2), (8, 100)])
def test_a_batch_that_cannot_be_dealt_evenly_is_refused(batch_size, accumulate):
    with pytest.raises(UserError, match="--batch-size"):
        make_loader(range(20), batch_size, workers=0, shuffle_seed=1, accumulate=accumulate)


@pytest.mark.parametrize("which", ["0/2", "3/2", "1", "a/b", "1/-2"])
def test_a_share_that_does_not_exist_is_refused(which):
    with pytest.raises(UserError, match="i/n"):
        distributed.share([1, 2], which)
