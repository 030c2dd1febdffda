"""Several processes train what one would (torchrun with gloo on the CPU), and share the series."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pytest
import tyro
from hypothesis import given
from hypothesis import strategies as st

import train_stage1
import train_stage2
from src import distributed
from src.artifacts.files import read_json_lines
from src.artifacts.paths import RunFolder
from src.sampling.loader import EpochSampler, make_loader
from src.script import UserError
from tests.conftest import CROP, ROOT
from tests.networks import write_random_features
from tests.test_train_stage1 import small

ENCODERS = {"stage1": "test_convnext", "stage2": "made_up"}
RUNS = {
    "train_stage1": f"--encoder test_convnext --no-pretrained --crop-size {CROP} --workers 0 "
    "--batch-size 32 --epochs 4",
    "train_stage2": "--encoder made_up --width 16 --attention-dropout 0 --batch-size 16 --epochs 4",
}
ENDLESS = "--encoder made_up --width 16 --attention-dropout 0 --batch-size 4 --epochs 1000"


def words_of(tiny, model_dir, script: str, flags: str) -> list[str]:
    """Return a script and its flags on the tiny set; no dropout: masks are drawn rank by rank."""
    place = ["--data-dir", str(tiny.root), "--model-dir", str(model_dir)]
    return [script, *place, *flags.split(), *"--lr 1e-3 --dropout 0 --device cpu".split()]


def start_node(port: str, runs: list[list[str]]) -> subprocess.Popen:
    """Start one of two nodes of one rank by torchrun, as docs/scale.md does on two machines."""
    meet = ["--nnodes=2", "--rdzv-backend=c10d", "--rdzv-id=7", f"--rdzv-endpoint=localhost:{port}"]
    start = ["-m", "torch.distributed.run", *meet, "--nproc-per-node=1"]
    return subprocess.Popen(
        [sys.executable, *start, str(ROOT / "tests/ranks.py"), json.dumps(runs)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def children_of(process: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(process)], capture_output=True, text=True)
    return [int(child) for child in found.stdout.split()]


def metrics_of(model_dir, stage="stage1"):
    encoder = ENCODERS[stage]
    return read_json_lines(RunFolder(model_dir, encoder, 0).metrics(stage))


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


@pytest.fixture(scope="module")
def nodes(tiny, tmp_path_factory) -> Iterator[tuple[Path, list[subprocess.Popen]]]:
    """Two nodes that train both stages and then, without an end, stage 2 once more.

    A batch is an epoch of the first two runs, so that each epoch's loss is that of one step.
    """
    root = tmp_path_factory.mktemp("nodes")
    runs = [words_of(tiny, root / "two", *run) for run in RUNS.items()]
    runs.append(words_of(tiny, root / "endless", "train_stage2", ENDLESS))
    for name in ("one", "two", "endless"):
        write_random_features(tiny, root / name, ENCODERS["stage2"])
    with ExitStack() as free:
        servers = [free.enter_context(socket.create_server(("localhost", 0))) for _ in runs]
        ports = [str(server.getsockname()[1]) for server in servers]
    runs = [[port, *words] for port, words in zip(ports, runs, strict=True)]
    processes = [start_node(ports[0], runs) for _ in range(2)]
    yield root, processes
    for process in processes:
        for running in (*children_of(process.pid), process.pid):
            with suppress(ProcessLookupError):
                os.kill(running, signal.SIGKILL)
        process.wait()  # its output may have been read


def wait_until_endless(root: Path, processes: list[subprocess.Popen]) -> None:
    """Wait until the nodes have finished their first two runs and begun the last."""
    endless = RunFolder(root / "endless", ENCODERS["stage2"], 0).metrics("stage2")
    while not endless.exists():
        for process in processes:
            assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def test_two_nodes_train_as_one_process(tiny, nodes):
    root, processes = nodes
    for module in (train_stage1, train_stage2):
        name = module.__name__
        words = words_of(tiny, root / "one", name, RUNS[name])[1:]
        module.main(tyro.cli(module.Config, args=words))
    wait_until_endless(root, processes)
    for stage in ENCODERS:
        assert_alike(metrics_of(root / "one", stage), metrics_of(root / "two", stage))
    assert RunFolder(root / "two", ENCODERS["stage2"], 0).inference.exists()


def test_a_rank_that_dies_ends_the_others(nodes):
    """Those of other nodes, too, and rank 0 alone has printed."""
    root, processes = nodes
    wait_until_endless(root, processes)
    ranks = [children_of(process.pid) for process in processes]
    assert [len(children) for children in ranks] == [1, 1]
    os.kill(ranks[1][0], signal.SIGKILL)
    texts = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [1, 1]
    assert not any(os.path.exists(f"/proc/{child}") for [child] in ranks)
    for said, runs in (("2 x cpu", 3), ("kept epoch", 2), ("epoch   4/4", 2)):
        assert sorted(text.count(said) for text in texts) == [0, runs]


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
