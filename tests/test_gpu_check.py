"""make gpu-check (tools/gpu_check.py), as far as it goes without a GPU."""

import json

import pytest
import torch

from tests.conftest import help_of
from tools import gpu_check
from tools.benchmarks import gpu
from tools.benchmarks.inference import Extract
from tools.benchmarks.training import Train

NETWORK = {"image_size": 64, "crop_size": 64, "encoder": "test_resnet", "device": "cpu"}


@pytest.fixture
def no_memory(monkeypatch):
    """What only a GPU has."""
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 2_000_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "made up")
    monkeypatch.setattr(gpu, "WARM", 1)
    monkeypatch.setattr(gpu, "TIMED", 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would take minutes")
def test_without_a_gpu_it_says_so_and_ends_well(tmp_path, capsys):
    config = gpu_check.Config(out=tmp_path / "out.json")
    assert gpu_check.main(config) == 0
    assert capsys.readouterr().out == "torch sees no GPU here: nothing was checked\n"
    assert not config.out.exists()


def test_training_is_measured_in_all_ways(tmp_path, no_memory, monkeypatch):
    ways = [
        gpu.Way("eager", 4),
        gpu.Way("parts", 4, accumulate=2),
        gpu.Way("files", 4, loader=True),
        gpu.Way("twice", 4, checkpointing=True),
    ]
    monkeypatch.setattr(gpu, "TRAINING", ways)
    config = Train(series=2, slices=24, samples=4, workers=0, **NETWORK)
    rows = [measure() for measure in gpu.training_rows(config, tmp_path, 1e12)]
    assert [row["way"] for row in rows] == ["eager", "parts", "files", "twice"]
    assert all(row["images a second"] > 0 and row["GB"] == 2.0 for row in rows)


def test_extraction_is_measured_in_all_ways(tmp_path, no_memory, monkeypatch):
    ways = [gpu.Way("eager", 4), gpu.Way("files", 4, loader=True)]
    monkeypatch.setattr(gpu, "EXTRACTION", ways)
    config = Extract(series=2, slices=4, **NETWORK)
    rows = [measure() for measure in gpu.extraction_rows(config, tmp_path, 1e12)]
    assert all(row["images a second"] > 0 for row in rows)


def test_a_row_without_memory_or_time_says_so_and_the_next_is_measured(tmp_path, no_memory, capsys):
    def too_large() -> dict:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def broken() -> dict:
        raise RuntimeError("no kernel")

    config = gpu_check.Config(out=tmp_path / "out.json", seconds=60)
    report = gpu_check.Report(config)
    report.measure("speed", [too_large, broken, lambda: {"way": "small"}])
    config.seconds = 0
    report.measure("speed", [lambda: {"way": "late"}])
    written = json.loads(config.out.read_text())
    assert written["device"] == "made up"
    assert written["rows"] == [
        {"part": "speed", "failed": "out of memory"},
        {"part": "speed", "failed": "RuntimeError: no kernel"},
        {"part": "speed", "way": "small"},
        {"part": "speed", "skipped": "no time is left"},
    ]
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_help():
    assert "less than 8 minutes" in help_of("tools/gpu_check.py")
