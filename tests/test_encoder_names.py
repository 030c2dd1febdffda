"""Encoders that people try, at 448 on torch's meta device; docs/encoders.md says the same."""

import re
from contextlib import nullcontext
from functools import cache

import pytest
import timm
import torch
from timm.layers import weight_init

from src.networks.slice_cnn import SliceCNN
from tools.experiments.list_encoders import CROP_SIZE, PAGE, names_of, row_of

NAMES = names_of(PAGE)
ROWS = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
FAMILIES = (
    "convnext_base.dinov3 convnextv2 vit_base_patch16_dinov3 vit_small_patch14_dinov2 "
    "vit_base_patch16_224 vit_base_patch16_clip deit3 swin_ swinv2_ swinv2_cr maxvit "
    "coatnet eva02 efficientnet tf_efficientnetv2 regnety resnet50 resnext mobilenetv4_conv "
    "mobilenetv4_hybrid mobilenetv3 edgenext hiera beit_ beitv2 fastvit caformer nfnet davit "
    "focalnet efficientvit pvt_v2 levit mambaout"
).split()
FILLERS = (  # of torch.nn.init
    "_no_grad_fill_ _no_grad_normal_ _no_grad_trunc_normal_ _no_grad_uniform_ _no_grad_zero_ "
    "kaiming_normal_ kaiming_uniform_"
).split()
REFUSED = {"halonet26t", "efficientformer_l1"}  # at 448


@pytest.fixture(autouse=True)
def no_numbers(monkeypatch):
    """The meta device knows no autocast, and first weights without numbers take half the time."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(weight_init, "_trunc_normal_", lambda tensor, *_: tensor)
    for name in FILLERS:
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)


@pytest.fixture
def built_once(monkeypatch):
    """Build each encoder once for the same name and options, not for its plan and once more."""
    build = cache(timm.create_model)

    def build_once(name, pretrained=False, **options):
        assert not pretrained
        return build(name, **options).train()

    monkeypatch.setattr(timm, "create_model", build_once)


def test_all_families_are_in_the_table():
    for family in FAMILIES:
        assert any(name.startswith(family) for name in NAMES), family
    assert len(NAMES) >= 36 and len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in REFUSED])
def test_it_runs_and_learns_and_is_as_the_table_says(name, built_once):
    with torch.device("meta"):
        model = SliceCNN(name, heatmap=True, crop_size=CROP_SIZE)
    out = model(torch.zeros(2, 3, CROP_SIZE, CROP_SIZE, device="meta"))
    row = ROWS[NAMES.index(name)]
    _, _, millions, features, strides, *_ = (cell.strip() for cell in row.split("|"))
    finest = CROP_SIZE // int(strides.split(",")[0])
    assert out.features.shape == (2, int(features) + 66)
    assert out.heatmap.shape == (2, finest, finest)
    count = sum(parameter.numel() for parameter in model.encoder.parameters())
    assert f"{count / 1e6:.0f} M" == millions
    # With several GPUs, each parameter must get a gradient.
    learning = parameters_behind(out.logits, out.heatmap)
    assert [key for key, each in model.named_parameters() if each not in learning] == []


def parameters_behind(*outputs: torch.Tensor) -> set[torch.Tensor]:
    """Return what a backward pass from the outputs reaches; DistributedDataParallel looks so, too.

    The pass itself would take a quarter of the time of these tests.
    """
    seen, waiting = set(), [output.grad_fn for output in outputs]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    return {node.variable for node in seen if hasattr(node, "variable")}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_it_is_refused_with_crop_sizes_that_work(name):
    """Those of the table, which the tool takes from the message that refuses it."""
    row = row_of(name)
    assert row in ROWS
    refused, _, fitting = row.split("|")[5].partition(";")
    assert refused.strip() == f"not {CROP_SIZE}"
    sizes = [int(size) for size in re.findall(r"\d+", fitting)]
    for size in sizes:
        with torch.device("meta"):
            out = SliceCNN(name, heatmap=True, crop_size=size)(torch.zeros(2, 3, size, size))
        assert out.logits.shape == (2, 14)
    assert sizes


def test_the_table_is_that_of_the_tool():
    for name in ("convnext_tiny", "vit_small_patch14_dinov2"):
        assert row_of(name) in ROWS
