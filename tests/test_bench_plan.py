from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from src.datasets import training_rows
from src.labels import PRESENT
from src.slice_cnn import SliceCNN
from tools import bench_plan, plan_costs
from tools.bench_plan import plan
from tools.count_flops import Network, count_slice_cnn
from tools.plan_costs import DataSet, Plan, all_stages, array_bytes, cost, devices, times

SMALL = Plan(encoder="test_resnet", crop_size=96, image_size=96, batch_size=2, laptop_tflops=0.1)
NETWORKS = Network(1090, 88_000_000, 1.2e11, 3.7e11, 1.5e10), Network(1090, 25_000_000, 2e10, 6e10, 1e9)
MACHINES = {device.name: device for device in devices(1e11)}


def stages(config):
    return {stage.name: stage for stage in all_stages(config, *NETWORKS)}


@pytest.mark.parametrize("name", ["preprocess", "folds", "train stage 1", "extract", "end to end"])
def test_twice_the_data_takes_twice_as_long(name):
    once = DataSet()
    twice = replace(once, series=2 * once.series, slices=2 * once.slices, dicom_gb=2 * once.dicom_gb, aneurysms=2 * once.aneurysms)
    for device in MACHINES.values():
        one, two = (cost(stages(Plan(data=data))[name], device) for data in (once, twice))
        assert two.seconds == pytest.approx(2 * one.seconds, rel=0.02)  # but for the checkpoints, which an epoch writes whatever its length
        assert two.binding == one.binding


def test_another_resource_binds_where_the_disk_is_slow():
    h100 = MACHINES["H100"]
    tape = replace(h100, read=1e7, write=1e7)
    for name, resource in (("preprocess", "cores"), ("extract", "FLOPs"), ("train stage 1", "FLOPs"), ("end to end", "cores")):
        stage = stages(Plan())[name]
        assert cost(stage, h100).binding == resource
        assert cost(stage, tape).binding == "disk"
        assert cost(stage, tape).seconds > cost(stage, h100).seconds


def test_bytes_of_the_arrays():
    data = DataSet(series=3, slices=100)
    sequence = 3 * 128 + 100 * 512 * 512 * 2
    assert array_bytes(Plan(data=data)) == (sequence, 100 * (128 + 512 * 512 * 2))
    assert array_bytes(Plan(data=data, write_slices=False)) == (sequence, 0)
    extracted = stages(Plan(data=data))["extract"]
    assert extracted.read == sequence
    assert extracted.written == 3 * 2 * 128 + 2 * 100 * (1090 + 14) * 2
    assert stages(Plan(data=data, series="held-out"))["extract"].read == pytest.approx(sequence / 10)


def test_flops_are_those_of_a_real_pass():
    counted = count_slice_cnn("test_resnet", 96, 0.3, 2)
    model = SliceCNN("test_resnet", heatmap=True)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model.eval()(torch.rand(2, 3, 96, 96))
    with FlopCounterMode(display=False) as training:
        out = model.train()(torch.rand(2, 3, 96, 96))
        (out.logits.sum() + out.heatmap.sum()).backward()
    assert counted.forward == forward.get_total_flops() / 2
    assert counted.training == training.get_total_flops() / 2  # it has no grouped convolution
    assert counted.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert counted.channels == model.channels


def test_the_backward_pass_of_a_depthwise_convolution_is_not_that_of_a_dense_one():
    counted = count_slice_cnn("test_convnext", 96, 0.3, 2)
    assert 2.5 * counted.forward < counted.training < 3.0 * counted.forward


def test_samples_are_the_rows_that_training_reads():
    data = DataSet(series=80, positive=0.5, aneurysms=50)
    rows = [(0, k) for k in range(50)] + [(PRESENT, k) for k in range(50)] + [(PRESENT, k) for k in range(40)]
    spots = pd.DataFrame([{"class_id": label, "fold": k % 10} for label, k in rows])
    config = Plan(data=data)
    (training, *_), _ = plan_costs.stage1_works(config, NETWORKS[0], 0.9, 0.1)
    assert training.steps * config.batch_size == pytest.approx(config.epochs * len(training_rows(spots, 0)))


def test_eight_gpus_are_not_more_than_eight_times_as_fast():
    for stage in stages(Plan()).values():
        one, eight = (cost(stage, MACHINES[name]).seconds for name in ("H100", "8 x H100"))
        assert one / 8 <= eight * (1 + 1e-9)
        assert eight <= one


def test_a_processor_computes_and_loads_in_turn():
    work = plan_costs.Work(core_seconds=10.0, forward=7e10)
    assert times(work, replace(MACHINES["laptop, no GPU"], peak=1e11, inference=0.7)) == {"FLOPs": pytest.approx(11.0), "disk": 0.0, "launches": 0.0}


def test_the_plan_is_printed_as_an_estimate(capsys, monkeypatch):
    monkeypatch.delitem(bench_plan.WHAT_IF, "--crop-size 384")  # another network to count
    rows = plan(SMALL)
    shown = capsys.readouterr().out
    assert shown.startswith("An estimate")
    assert [row.stage.name for row in rows] == [line.split("  ")[0] for line in shown.splitlines()[4 : 4 + len(rows)]]
    assert len(rows) == 8 and all(len(row.costs) == 4 for row in rows)
    for word in ("all folds", "--no-write-slices", "Disk needed", "assumed"):
        assert word in shown
