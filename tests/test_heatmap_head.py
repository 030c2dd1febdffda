"""The heatmap's head: how sharply it points, at any size of the map and in any precision."""

import copy

import pytest
import torch
from torch.nn.functional import gelu, linear

from src.networks import slice_cnn
from src.networks.slice_cnn import HEAT_CHANNELS, HeatmapHead, SliceCNN, build_slice_cnn
from src.training.learner import Learner

CPU = torch.device("cpu")
SETTINGS = {"encoder": "test_convnext", "heatmap_weight": 0.3, "crop_size": 64}
BEFORE = {  # of `waves`, computed by the network that had no sharpness
    "logits": [-2.424846, 2.736413, -2.355695, 2.607284, -2.434741, 2.132300, -2.311563],  # 0 to 6
    "features": [-0.155410, -0.147345, -0.078392, 0.786604],  # the last 4
}


def waves(shapes: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights without random numbers, whose heat has a clear peak."""
    weights = {}
    for number, (name, tensor) in enumerate(sorted(shapes.items())):
        wave = torch.arange(tensor.numel(), dtype=torch.float64) * 0.7 + number
        weights[name] = (wave.sin() * 0.2).reshape(tensor.shape).float()
    weights["heatmap.heat.weight"] *= 40
    return weights


@torch.no_grad()
def test_weights_of_before_give_what_they_gave():
    shapes = SliceCNN("test_convnext", heatmap=True, crop_size=64).state_dict()
    del shapes["heatmap.sharpness"]
    weights = waves(shapes)
    names = list(weights)
    model = build_slice_cnn(SETTINGS, weights, CPU)
    images = ((torch.arange(3 * 64 * 64) * 0.37).sin() * 2 + 2.5).reshape(1, 3, 64, 64)
    out = model(images)
    torch.testing.assert_close(out.logits[0, :7], torch.tensor(BEFORE["logits"]), atol=2e-4, rtol=0)
    last = torch.tensor(BEFORE["features"])
    torch.testing.assert_close(out.features[0, -4:], last, atol=2e-4, rtol=0)
    assert list(weights) == names
    sharper = build_slice_cnn(SETTINGS, weights | {"heatmap.sharpness": torch.tensor(3.0)}, CPU)
    assert (sharper(images).features[0, -4:] - last).abs().max() > 0.02


def head_of_one_bright_cell(side: int) -> tuple[HeatmapHead, list[torch.Tensor]]:
    """Return a head and its maps: heat of 1 in one cell of side x side, -4.2 in all others."""
    head = HeatmapHead([1])
    with torch.no_grad():
        for weight in head.parameters():
            if weight.ndim:
                weight.zero_()
        head.laterals[0].weight[0] = 1
        head.smooth[0].weight[0, 0, 1, 1] = 1
        bright = torch.zeros(1, 1, side, side)
        bright[0, 0, side // 4, side // 2] = 8.0  # GELU keeps it
        head.heat.weight[0, 0] = 5.2 / 8
        head.heat.bias.fill_(-4.2)
    return head, [bright]


@pytest.mark.parametrize("side", [11, 21, 56])
def test_the_same_heat_is_seen_alike_on_maps_of_any_size(side):
    head, maps = head_of_one_bright_cell(side)
    with torch.no_grad():
        heat, features = head(maps)
    assert heat.max() == pytest.approx(1, abs=1e-4)
    assert features[0, 0] / 8 > 0.99  # the weight of the one bright cell
    row, column = side // 4, side // 2
    place = torch.tensor([(2 * column + 1) / side - 1, (2 * row + 1) / side - 1])
    torch.testing.assert_close(features[0, -2:], place, atol=0.02, rtol=0)


def test_without_it_the_number_of_cells_decides():
    seen = {}
    for side in (11, 56):
        head, maps = head_of_one_bright_cell(side)
        with torch.no_grad():
            head.sharpness.fill_(1.0)
            seen[side] = float(head(maps)[1][0, 0]) / 8
    assert seen[11] > 0.5 and seen[56] < 0.1


def fitted(model: SliceCNN, steps: int) -> SliceCNN:
    """Train on one batch, the heat and the logits both."""
    learner = Learner(model, CPU, 1e-2, 0.0, 1, 0.9, 1)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 5

    def loss() -> torch.Tensor:
        out = learner.network(images)
        return out.logits.square().mean() + (out.heatmap - 1).square().mean()

    for _ in range(steps):
        learner.step([loss])
    return model


def test_the_sharpness_is_learned_unless_it_is_fixed(monkeypatch):
    torch.manual_seed(0)
    learned = SliceCNN("test_convnext", heatmap=True)
    assert learned.heatmap.sharpness.item() == slice_cnn.FIRST_SHARPNESS == 3.0
    assert learned.heatmap.sharpness.dtype == torch.float32
    assert fitted(learned, 3).heatmap.sharpness.item() != 3.0
    monkeypatch.setattr(slice_cnn, "FIRST_SHARPNESS", 1.0)
    fixed = SliceCNN("test_convnext", heatmap=True)
    fixed.heatmap.sharpness.requires_grad_(False)
    before = copy.deepcopy(fixed.heatmap.heat.weight)
    assert fitted(fixed, 3).heatmap.sharpness.item() == 1.0
    assert not torch.equal(fixed.heatmap.heat.weight, before)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("heatmap", [True, False])
def test_under_autocast_the_last_layers_are_exactly_those_of_float32(dtype, heatmap):
    torch.manual_seed(1)
    model = SliceCNN("test_convnext", heatmap).eval()
    images = torch.rand(2, 3, 64, 64) * 5
    with torch.autocast("cpu", dtype):
        out = model(images)
    assert torch.equal(out.logits, model.head(out.features))
    last, values = model.head[-1], out.features
    if heatmap:
        values = gelu(linear(values, model.head[1].weight, model.head[1].bias))
    assert torch.equal(out.logits, linear(values, last.weight, last.bias))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_heat_and_pooling_are_those_of_the_same_finest_map(dtype):
    torch.manual_seed(2)
    head = HeatmapHead([16, 32]).eval()
    head.heat.weight.mul_(20)
    finest = []
    head.smooth.register_forward_hook(lambda module, inputs, out: finest.append(out))
    maps = [torch.randn(2, 16, 14, 14), torch.randn(2, 32, 7, 7)]
    with torch.autocast("cpu", dtype):
        heat, features = head(maps)
    assert finest[0].dtype == dtype and heat.dtype == features.dtype == torch.float32
    assert heat.std() > 1
    exact = finest[0].double()  # (B, D, h, w)
    expected = torch.einsum("bdhw,d->bhw", exact, head.heat.weight.double()[0, :, 0, 0])
    expected = expected + head.heat.bias.double()
    torch.testing.assert_close(heat.double(), expected, atol=1e-5, rtol=1e-6)
    weights = (3 * expected).flatten(1).softmax(1).view_as(expected)
    pooled = torch.einsum("bhw,bdhw->bd", weights, exact)
    torch.testing.assert_close(features[:, :HEAT_CHANNELS].double(), pooled, atol=1e-4, rtol=1e-4)
