import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from src.artifacts.files import read_json
from src.script import UserError
from tests.conftest import ROOT
from tools.benchmarks import all_stages, case
from tools.benchmarks.all_stages import All, growth_of, measure_all, sizes_of
from tools.benchmarks.case import FLOOR, OURS, PLAIN, Case, measure, ratio
from tools.benchmarks.flops import flops_of
from tools.benchmarks.inference import EndToEnd, Extract
from tools.benchmarks.memory import resident
from tools.benchmarks.own_process import CASES, Apart
from tools.benchmarks.preprocess import Preprocess
from tools.benchmarks.training import Loader, Stage2, Train

IMAGES = {"image_size": 64, "crop_size": 64}
TINY = {
    "preprocess": Preprocess(matrix=64, series=2, slices=4, workers=1),
    "loader": Loader(series=2, slices=48, samples=16, **IMAGES),
    "train": Train(
        "test_resnet",
        series=2,
        slices=24,
        samples=4,
        batch_size=4,
        workers=0,
        device="cpu",
        **IMAGES,
    ),
    "extract": Extract("test_resnet", series=2, slices=4, device="cpu", **IMAGES),
    "stage2": Stage2(channels=8, width=8, series=2, slices=6, batch_size=1, device="cpu"),
    "end_to_end": EndToEnd("test_resnet", series=2, slices=6, device="cpu", **IMAGES),
}


@pytest.fixture(autouse=True)
def known_peak(monkeypatch):
    """It takes a second to measure."""
    monkeypatch.setattr(case, "measured_peak", lambda device: 1e12)


@pytest.mark.parametrize("stage", TINY.values(), ids=TINY)
def test_every_stage_is_measured_in_all_ways(stage, tmp_path):
    with CASES[type(stage)](replace(stage, folder=tmp_path)) as case:
        times = measure(case, 1)
    assert {OURS, PLAIN, FLOOR} <= set(times)
    assert all(seconds > 0 for [seconds] in times.values())
    assert (
        case.work
        == (
            stage.series * getattr(stage, "samples", 1)
            if isinstance(stage, (Loader, Train))
            else case.work
        )
        > 0
    )
    assert not list(tmp_path.iterdir())


def test_ways_are_timed_in_turn_and_the_first_round_is_not_counted():
    done = []
    case = Case(
        "",
        {OURS: lambda: done.append("ours"), PLAIN: lambda: done.append("plain")},
        1,
        "slices",
        "",
        clear=lambda: done.append("clear"),
    )
    assert [len(times) for times in measure(case, 2).values()] == [2, 2, 2]
    assert done == ["clear", "ours", "clear", "clear", "plain", "clear"] * 3


def test_a_phase_in_which_the_machine_is_slow_does_not_change_a_ratio():
    assert ratio([2.0, 6.0, 2.0], [1.0, 3.0, 1.0]) == 2.0
    assert growth_of([1, 2], [[1.0, 3.0, 1.0], [2.0, 6.0, 2.0]])["exponent"] == pytest.approx(1)


def test_flops_are_those_of_the_products_forward_and_backward():
    layer, x = nn.Linear(30, 50, bias=False), torch.ones(7, 30, requires_grad=True)
    assert flops_of(lambda: layer(x)) == 2 * 7 * 30 * 50
    assert flops_of(lambda: layer(x).sum().backward()) == 3 * 2 * 7 * 30 * 50


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_growth_is_the_slope_of_the_logarithms(exponent):
    sizes = [10, 20, 40]
    growth = growth_of(sizes, [[0.3 * size**exponent] for size in sizes])
    assert growth["exponent"] == pytest.approx(exponent, abs=1e-9)
    assert growth["straightness"] == pytest.approx(1.0)
    assert growth_of(sizes, [[1.0], [4.0], [1.1]])["straightness"] < 0.1


def test_the_usual_size_is_measured_once():
    assert sizes_of(Extract(series=4, slices=60)) == [(2, 60), (4, 60), (8, 60), (4, 30), (4, 120)]


def test_memory_counts_all_processes_of_a_group():
    hold = "import subprocess, sys; x = b'1' * (50 << 20); print('ready', flush=True); sys.stdin.read()"
    both = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {hold!r}]); {hold}"
    with subprocess.Popen(
        [sys.executable, "-c", both],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert [process.stdout.readline() for _ in range(2)] == [b"ready\n"] * 2
        assert 100 << 20 < resident(process.pid) < 200 << 20
        assert resident(os.getpid()) != resident(process.pid)
        process.stdin.close()
    while resident(process.pid):  # the grandchild ends on its own, or this test by its time limit
        time.sleep(0.01)


def test_all_stages_in_one_table_a_json_and_a_picture(tmp_path, monkeypatch, capsys):
    """Two stages are enough here, in this process."""
    monkeypatch.setattr(
        all_stages, "stages_of", lambda config: {name: TINY[name] for name in ("loader", "stage2")}
    )
    monkeypatch.setattr(all_stages, "Apart", Here)
    table = measure_all(All(repeats=2, out=tmp_path / "out"))
    assert table.stage.tolist() == ["loader", "stage2"]
    rows = read_json(tmp_path / "out" / "benchmark.json")["stages"]
    assert [row["growth"]["slices"]["sizes"] for row in rows] == [[24, 48, 96], [3, 6, 12]]
    assert all(
        row["peak_mib"] == 7 and row["growth"]["series"]["exponent"] == pytest.approx(1)
        for row in rows
    )
    assert all(row["growth"]["slices"]["exponent"] == pytest.approx(0) for row in rows)
    assert (
        table["x plain loop"].tolist() == ["4.00"] * 2
        and table["of the floor"].tolist() == ["2.00"] * 2
    )
    assert (tmp_path / "out" / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    assert "loader" in capsys.readouterr().out


class Here:
    """As bench_apart.Apart, in this process; a second takes as long as there are series, and the first round is cold."""

    def __init__(self, stage):
        self.stage, self.peak_mib, self.names = stage, 7, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        assert self.names.count(OURS) == 3

    def ready(self):
        return {"names": [OURS, PLAIN, FLOOR], "work": 2, "unit": "series", "floor": "bytes"}

    def seconds(self, name, watch):
        assert watch == (name not in self.names)
        self.names.append(name)
        return 1000.0 if watch else self.stage.series * {OURS: 1, PLAIN: 4, FLOOR: 0.5}[name]


def test_a_stage_is_measured_in_a_process_of_its_own():
    with Apart(TINY["stage2"]) as stage:
        facts = stage.ready()
        assert facts["work"] == 2 and {OURS, PLAIN, FLOOR} == set(facts["names"])
        assert (
            0 < stage.seconds(OURS, watch=True) < 60
            and stage.peak_mib > 50
            and resident(stage.process.pid)
        )
    assert not resident(stage.process.pid)


def test_a_stage_that_cannot_be_measured_is_one_sentence():
    with (
        Apart(replace(TINY["extract"], encoder="no_such")) as stage,
        pytest.raises(UserError, match="could not be measured"),
    ):
        stage.ready()


def test_a_measurement_that_fails_is_one_sentence():
    result = subprocess.run(
        [sys.executable, "tools/benchmark.py", "extract", "--encoder", "no_such"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (
        result.returncode == 1
        and "timm knows no encoder" in result.stderr
        and "Traceback" not in result.stderr
    )
