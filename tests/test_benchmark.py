"""The benchmarks (tools/benchmark.py) run each stage in all ways, and compare them fairly."""

import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from src.script import UserError
from tools.benchmarks import all_stages, case
from tools.benchmarks.all_stages import All, exponent, measure_all, open_case, peak_memory
from tools.benchmarks.case import FLOOR, OURS, PLAIN, Case, measure, ratio
from tools.benchmarks.flops import flops_of
from tools.benchmarks.inference import EndToEnd, Extract
from tools.benchmarks.memory import resident
from tools.benchmarks.preprocess import Preprocess
from tools.benchmarks.training import Loader, Stage2, Train

IMAGES = {"image_size": 64, "crop_size": 64}
NETWORK = IMAGES | {"encoder": "test_resnet", "device": "cpu"}
TINY = {
    "preprocess": Preprocess(matrix=64, series=2, slices=4, workers=1),
    "loader": Loader(series=2, slices=48, samples=16, **IMAGES),
    "train": Train(series=2, slices=24, samples=4, batch_size=4, workers=0, **NETWORK),
    "extract": Extract(series=2, slices=4, **NETWORK),
    "stage2": Stage2(channels=8, width=8, series=2, slices=6, batch_size=1, device="cpu"),
    "end_to_end": EndToEnd(series=2, slices=6, **NETWORK),
}
WORK = {"preprocess": 8, "loader": 32, "train": 8, "extract": 8, "stage2": 2, "end_to_end": 12}


@pytest.fixture(autouse=True)
def known_peak(monkeypatch):
    """Do not spend a second on measuring it, nor much on looking at the memory."""
    monkeypatch.setattr(case, "measured_peak", lambda device: 1e12)
    monkeypatch.setattr(all_stages, "PERIOD", 0.2)


@pytest.mark.parametrize("name", TINY)
def test_every_stage_is_measured_in_all_ways(name, tmp_path):
    with open_case(replace(TINY[name], folder=tmp_path)) as case:
        times = measure(case.turns(), 1)
    assert {OURS, PLAIN, FLOOR} <= set(times)
    assert all(seconds > 0 for [seconds] in times.values())
    assert case.work == WORK[name]
    assert not list(tmp_path.iterdir())


def test_ways_are_timed_in_turn_and_the_first_round_is_not_counted():
    done = []
    ways = {OURS: lambda: done.append("ours"), PLAIN: lambda: done.append("plain")}
    case = Case("", ways, 1, "slices", "", clear=lambda: done.append("clear"))
    assert [len(times) for times in measure(case.turns(), 2).values()] == [2, 2, 2]
    assert done == ["clear", "ours", "clear", "clear", "plain", "clear"] * 3


def test_a_phase_in_which_the_machine_is_slow_does_not_change_a_ratio():
    assert ratio([2.0, 6.0, 2.0], [1.0, 3.0, 1.0]) == 2.0
    assert exponent([[1.0, 3.0, 1.0], [2.0, 6.0, 2.0], [4.0, 12.0, 4.0]]) == 1


@pytest.mark.parametrize("expected", [0.0, 1.0, 2.0])
def test_growth_is_the_slope_of_the_logarithms(expected):
    assert exponent([[0.3 * size**expected] for size in (10, 20, 40)]) == expected


def test_flops_are_those_of_the_products_forward_and_backward():
    layer, x = nn.Linear(30, 50, bias=False), torch.ones(7, 30, requires_grad=True)
    assert flops_of(lambda: layer(x)) == 2 * 7 * 30 * 50
    assert flops_of(lambda: layer(x).sum().backward()) == 3 * 2 * 7 * 30 * 50


def test_flops_of_a_depthwise_convolution_know_its_groups():
    layer = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
    x = torch.ones(1, 8, 5, 5, requires_grad=True)
    forward = flops_of(lambda: layer(x))
    assert forward == 2 * 8 * 5 * 5 * 9
    assert flops_of(lambda: layer(x).sum().backward()) == 3 * forward


def test_memory_counts_all_processes_of_a_group():
    hold = (
        "import sys; x = b'1' * (50 << 20); print('ready', flush=True); sys.stdin.read()"  # 50 MiB
    )
    both = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {hold!r}])\n{hold}"
    with subprocess.Popen(
        [sys.executable, "-c", both],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert [process.stdout.readline() for _ in range(2)] == [b"ready\n"] * 2
        assert 100 << 20 < resident(process.pid) < 200 << 20
        assert resident(os.getpgid(0)) > 0
        process.stdin.close()
    while resident(process.pid):  # the grandchild ends on its own, or this test by its time limit
        time.sleep(0.01)


def test_all_stages_in_one_table(monkeypatch, capsys):
    """A second takes as long as there are series, and the first round is cold."""
    names = ("loader", "stage2")
    monkeypatch.setattr(
        all_stages, "stages_of", lambda config: {name: TINY[name] for name in names}
    )
    monkeypatch.setattr(all_stages, "open_case", Made)
    monkeypatch.setattr(all_stages, "peak_memory", lambda stage: 7 * stage.series)
    table = measure_all(All(repeats=2)).set_index("stage")
    assert table.index.tolist() == list(names)
    assert table["a second"].tolist() == ["1 series"] * 2
    assert table["x plain loop"].tolist() == ["4.00"] * 2
    assert table["x floor"].tolist() == ["2.00"] * 2
    assert table["peak MiB"].tolist() == [14, 14]
    assert table["MiB with series"].tolist() == ["7 14 28"] * 2
    assert table["growth with series"].tolist() == [1.0, 1.0]
    assert table["growth with slices"].tolist() == [0.0, 0.0]
    assert "loader" in capsys.readouterr().out


class Made(Case):
    """A case whose times are made up."""

    def __init__(self, stage):
        super().__init__("", dict.fromkeys((OURS, PLAIN)), work=2, unit="series", floor="")
        self.series = stage.series
        self.timed = set()

    def seconds(self, name):
        cold = name not in self.timed
        self.timed.add(name)
        return 1000.0 if cold else self.series * {OURS: 1, PLAIN: 4, FLOOR: 0.5}[name]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        assert OURS in self.timed


def test_peak_memory_is_that_of_a_fresh_process():
    assert 50 < peak_memory(TINY["loader"]) < 2000


def test_a_stage_that_cannot_be_measured_is_one_sentence(clean_process):
    said = clean_process.submit(refusal_in_fork, replace(TINY["extract"], encoder="no_such"))
    assert "could not be measured" in said


def refusal_in_fork(stage) -> str:
    """Run this in the clean process: measure a stage in a fork; return what is said instead."""
    fork = multiprocessing.get_context("fork")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(all_stages.multiprocessing, "get_context", lambda _: fork)
        with pytest.raises(UserError) as caught:
            peak_memory(stage)
    return str(caught.value)


def test_a_measurement_that_fails_is_one_sentence(clean_process):
    result = clean_process.run("tools/benchmark", "extract", "--encoder", "no_such")
    assert result.returncode == 1
    assert "timm knows no encoder" in result.stderr
    assert "Traceback" not in result.stderr
