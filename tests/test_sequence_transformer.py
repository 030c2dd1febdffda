import numpy as np
import pytest
import torch

from src.networks.sequence_transformer import (
    DISTANCE_KNOTS,
    FARTHEST,
    DistanceBias,
    SequenceTransformer,
    build_transformer,
    gem_pool,
)
from src.script import UserError
from tests import reference_networks


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = SequenceTransformer(
        channels=12, width=16, layers=3, heads=1, dropout=0.1, attention_dropout=0.1
    )
    torch.nn.init.normal_(model.distance_bias.values)
    return model.eval()


def sequence(length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(1, length, 12, generator=generator)
    return features, torch.arange(length)[None] * 0.7, torch.ones(1, length, dtype=torch.bool)


@pytest.mark.parametrize("padding", [1, 10, 200])
@pytest.mark.parametrize("length", [1, 2, 30])
def test_padding_is_invisible(model, length, padding):
    features, positions, present = sequence(length)
    expected = model(features, positions, present)
    features = torch.cat([features, torch.full((1, padding, 12), 9.0)], dim=1)
    positions = torch.cat([positions, torch.full((1, padding), 3.0)], dim=1)
    present = torch.cat([present, torch.zeros(1, padding, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(model(features, positions, present), expected, atol=1e-5, rtol=1e-5)


def test_any_length_is_finite(model):
    for length in (1, 3, 1500):
        assert torch.isfinite(model(*sequence(length))).all()


def test_only_distances_count_not_positions(model):
    features, positions, present = sequence(20)
    torch.testing.assert_close(
        model(features, positions + 500, present),
        model(features, positions, present),
        atol=1e-4,
        rtol=1e-4,
    )
    assert not torch.allclose(
        model(features, positions * 3, present), model(features, positions, present), atol=1e-4
    )


def test_the_order_of_the_slices_counts(model):
    features, positions, present = sequence(20)
    assert not torch.allclose(
        model(features.flip(1), positions, present), model(features, positions, present), atol=1e-3
    )


def test_distance_bias_is_linear_between_its_knots():
    bias = DistanceBias()
    with torch.no_grad():
        bias.values.copy_(torch.arange(DISTANCE_KNOTS))
    middle = (DISTANCE_KNOTS - 1) / 2
    out = bias(torch.tensor([[0.0, FARTHEST, 3 * FARTHEST, 1.0]]))[0]
    assert out[0, 0].item() == pytest.approx(middle)
    assert out[0, 1].item() == pytest.approx(DISTANCE_KNOTS - 1, abs=1e-4)
    assert out[0, 2].item() == pytest.approx(DISTANCE_KNOTS - 1)
    assert out[1, 0].item() == pytest.approx(0, abs=1e-4)
    assert (out[0, 3] - middle).item() == pytest.approx(-(out[3, 0] - middle).item(), abs=1e-4)


def test_gem_is_the_mean_at_power_1_and_nears_the_maximum():
    x, present = (
        torch.rand(2, 5, 3) * 0.4 + 0.6,
        torch.tensor([[True] * 5, [True] * 3 + [False] * 2]),
    )
    torch.testing.assert_close(gem_pool(x, present, torch.tensor(1.0))[1], x[1, :3].mean(0))
    torch.testing.assert_close(
        gem_pool(x, present, torch.tensor(60.0))[0], x[0].amax(0), rtol=0.05, atol=0
    )


def test_every_weight_learns(model):
    fresh = SequenceTransformer(
        channels=12, width=16, layers=3, heads=2, dropout=0.0, attention_dropout=0.0
    )
    fresh(*sequence(9)).square().sum().backward()
    assert [
        name
        for name, weight in fresh.named_parameters()
        if weight.grad is None or not weight.grad.any()
    ] == []


def test_nearer_slices_count_more_from_the_first_step():
    out = DistanceBias()(torch.tensor([[0.0, 2.0, 20.0, 100.0]]))[0]
    assert out[0, 0].item() == pytest.approx(0, abs=0.05) and out[0, 2].item() == pytest.approx(
        -1, abs=0.05
    )
    torch.testing.assert_close(out, out.T)
    assert (out[0].diff() < 0).all()


def test_gradients_of_the_distances_are_the_same_in_every_repetition():
    """Large enough for several threads, which must not add in the order in which they finish."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    bias, generator, seen = DistanceBias(), torch.Generator().manual_seed(0), set()
    positions = torch.rand(32, 60, generator=generator).cumsum(1) * 3
    weights = torch.randn(32, 60, 60, generator=generator)
    for _ in range(10):
        bias.values.grad = None
        (bias(positions) * weights).sum().backward()
        seen.add(bias.values.grad.numpy().tobytes())
    torch.set_num_threads(threads)
    assert len(seen) == 1


SHAPE = {"channels": 12, "width": 16, "layers": 3, "dropout": 0.0, "attention_dropout": 0.5}


def randomised(heads, seed):
    """Return a network whose every weight is drawn, and a padded batch of 3 series."""
    generator = torch.Generator().manual_seed(seed)
    model = SequenceTransformer(**SHAPE, heads=heads).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.4)
        model.power.copy_(1 + 3 * torch.rand((), generator=generator))
    lengths = [7, 1, int(torch.randint(8, 20, (), generator=generator))]
    features = torch.randn(3, max(lengths), 12, generator=generator)
    steps = torch.rand(3, max(lengths), generator=generator) * 40
    present = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return model, features, steps.cumsum(1) - 100, present


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("heads", [1, 4])
def test_the_network_equals_the_slow_reference(heads, seed):
    model, features, positions, present = randomised(heads, seed)
    with torch.no_grad():
        logits = model(features, positions, present).numpy()
    weights = reference_networks.float64(model.state_dict())
    for k, tokens in enumerate(present.numpy()):
        series = features[k].double().numpy()[tokens], positions[k].double().numpy()[tokens]
        expected = reference_networks.sequence_transformer(weights, *series, 3, heads)
        np.testing.assert_allclose(logits[k], expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("power", [0.5, 3.0, 5.0])
def test_gem_equals_the_slow_reference(power):
    x = torch.randn(2, 6, 40, generator=torch.Generator().manual_seed(0))
    present = torch.tensor([[True] * 6, [False, True, False, True, True, False]])
    pooled = gem_pool(x, present, torch.tensor(power)).numpy()
    for k in range(2):
        expected = reference_networks.gem(x[k, present[k]].double().numpy(), power)
        np.testing.assert_allclose(pooled[k], expected, rtol=1e-4, atol=2e-5)


def test_pooling_and_logits_are_float32_under_autocast():
    model, *series = randomised(1, 0)
    pooled = gem_pool(
        torch.rand(1, 3, 4).bfloat16(), torch.ones(1, 3, dtype=torch.bool), model.power
    )
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        logits = model(*series)
    assert pooled.dtype == logits.dtype == torch.float32


def test_gem_has_gradients_where_all_tokens_are_negative():
    x, power = torch.full((1, 3, 2), -1.0), torch.tensor(9.0, requires_grad=True)
    gem_pool(x.requires_grad_(), torch.ones(1, 3, dtype=torch.bool), power).sum().backward()
    assert torch.isfinite(power.grad) and torch.isfinite(x.grad).all()


@pytest.mark.parametrize(("power", "expected"), [(1.0, 1e-6), (9.0, 1e-30 ** (1 / 9))])
def test_gem_of_negative_tokens_is_its_floor(power, expected):
    pooled = gem_pool(torch.full((1, 3, 2), -1.0), torch.ones(1, 3), torch.tensor(power))
    np.testing.assert_allclose(pooled.numpy(), expected, rtol=1e-3)


@pytest.mark.parametrize("millimetres", [0.0, 0.3, -0.3, 1.7, -12.0, 55.0, -199.0, 240.0, -1e4])
def test_the_distance_bias_equals_the_slow_reference(millimetres):
    bias = DistanceBias()
    with torch.no_grad():
        bias.values.normal_(generator=torch.Generator().manual_seed(1))
        out = bias(torch.tensor([[10.0, 10.0 + millimetres]]))[0, 0, 1].item()
    values = bias.values.detach().double().numpy()
    assert out == pytest.approx(reference_networks.distance_bias(values, millimetres), abs=1e-4)


def test_the_distance_bias_begins_at_1_for_20_mm_whatever_the_sign():
    values = DistanceBias().values.detach()
    knots = 2 * np.sinh(np.linspace(-np.arcsinh(100), np.arcsinh(100), 32))
    np.testing.assert_allclose(values.numpy(), -np.abs(knots) / 20, rtol=1e-4)


def test_attention_is_dropped_in_training_only():
    model, *series = randomised(1, 0)
    assert torch.equal(model(*series), model(*series))
    model.train()
    assert not torch.equal(model(*series), model(*series))


def test_a_network_begins_with_a_small_token_and_a_cubic_mean():
    torch.manual_seed(0)
    model = SequenceTransformer(4, 1024, 1, 1, 0.15, 0.05)
    assert model.cls.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.power.item() == 3
    rates = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert rates == [0.15] * 4  # features, layer, convolution, head
    assert model.layers[0].attention_dropout == 0.05


def test_weights_come_back_and_others_are_refused():
    model, *series = randomised(1, 0)
    settings = SHAPE | {"heads": 1, "cut": 192}
    built = build_transformer(settings, model.state_dict(), torch.device("cpu"))
    assert not built.training
    assert torch.equal(built(*series), model(*series))
    with pytest.raises(UserError, match=r"do not fit the sequence transformer: \S") as caught:
        build_transformer(settings | {"width": 24}, model.state_dict(), torch.device("cpu"))
    assert "\n" not in str(caught.value)
