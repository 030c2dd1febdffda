import numpy as np
import pytest
import torch

from src.inference.encode import encode
from src.networks.slice_cnn import HEAT_CHANNELS, SliceCNN, build_slice_cnn, expected_position
from src.sampling.slices import neighbours
from src.script import UserError
from tests import reference_networks

CPU = torch.device("cpu")


def settings(heatmap_weight=0.3):
    return {"encoder": "test_convnext", "heatmap_weight": heatmap_weight, "crop_size": 64}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SliceCNN("test_convnext", heatmap=True).eval()


@pytest.mark.parametrize("encoder", ["test_convnext", "test_vit", "resnet10t"])
@pytest.mark.parametrize("heatmap", [True, False])
def test_any_encoder_gives_logits_features_and_heat(encoder, heatmap):
    model = SliceCNN(encoder, heatmap).eval()
    side = 160 if encoder == "test_vit" else 64
    out = model(torch.rand(2, 3, side, side) * 5)
    assert out.logits.shape == (2, 14)
    assert out.features.shape == (2, model.channels)
    assert model.channels == model.encoder.head_hidden_size + (HEAT_CHANNELS + 2 if heatmap else 0)
    finest = side // (16 if encoder == "test_vit" else 8)
    assert (out.heatmap is None) if not heatmap else out.heatmap.shape == (2, finest, finest)


SMALL = {  # of each kind; side of the images
    "test_vit": 96,
    "test_maxvit": 64,
    "test_mambaout": 64,
    "eva02_tiny_patch14_224": 56,
    "levit_128s": 64,
}


@pytest.mark.parametrize("encoder", SMALL)
def test_encoders_of_fixed_size_learn_in_encoder_and_head(encoder):
    torch.manual_seed(0)
    side = SMALL[encoder]
    model = SliceCNN(encoder, heatmap=True, crop_size=side)
    out = model(torch.rand(4, 3, side, side) * 5)
    (out.logits.square().mean() + out.heatmap.square().mean()).backward()
    for part in (model.encoder, model.heatmap, model.head):
        gradients = [each.grad for each in part.parameters() if each.grad is not None]
        assert gradients and all(gradient.isfinite().all() for gradient in gradients)
        assert any(gradient.any() for gradient in gradients)
    given = {"encoder": encoder, "heatmap_weight": 0.3, "crop_size": side}
    images = torch.rand(2, 3, side, side) * 5
    with torch.no_grad():
        found = build_slice_cnn(given, model.state_dict(), CPU)(images)
        expected = model.eval()(images)
    torch.testing.assert_close(found.logits, expected.logits)
    assert found.heatmap.isfinite().all() and found.features.shape == (2, model.channels)


def test_without_heatmap_it_is_the_published_network():
    model = SliceCNN("test_convnext", heatmap=False, dropout=0.1).eval()
    images = torch.rand(2, 3, 64, 64) * 5
    pooled = model.encoder(images - 2.5)
    torch.testing.assert_close(model(images).features, pooled)
    assert [type(layer).__name__ for layer in model.head] == ["Dropout", "Linear"]


def test_expected_position_is_the_centre_of_the_heat():
    weights = torch.zeros(1, 4, 8)
    weights[0, 3, 0] = 1.0
    torch.testing.assert_close(expected_position(weights), torch.tensor([[1 / 8 - 1, 7 / 4 - 1]]))
    torch.testing.assert_close(expected_position(torch.full((1, 4, 8), 1 / 32)), torch.zeros(1, 2))


def test_encode_does_not_depend_on_the_batch_size(model):
    volume = torch.rand(9, 64, 64).half() * 5
    triplets = neighbours(np.arange(9), 2, 9)
    expected = [model(volume[row].float()[None]) for row in triplets]
    for batch_size in (1, 4, 64):
        features, logits = encode(model, volume, triplets, batch_size)
        torch.testing.assert_close(
            features, torch.cat([out.features for out in expected]), atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(
            logits, torch.cat([out.logits for out in expected]), atol=1e-5, rtol=1e-5
        )


def test_weights_come_back_and_others_are_refused(model):
    built = build_slice_cnn(settings(), model.state_dict(), CPU)
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(built(images).logits, model(images).logits)
    assert not built.training
    with pytest.raises(UserError, match=r"do not fit the encoder test_convnext: \S") as caught:
        build_slice_cnn(settings(heatmap_weight=0), model.state_dict(), CPU)
    assert "\n" not in str(caught.value)


def test_the_heat_begins_rare_and_dropout_works_in_training_only(model):
    images = torch.rand(2, 3, 64, 64) * 5
    fresh = SliceCNN("test_convnext", heatmap=True, dropout=0.5)
    with torch.no_grad():
        assert fresh.heatmap.heat.bias.sigmoid().item() == pytest.approx(0.018, abs=1e-4)
        assert fresh.eval()(images).heatmap.sigmoid().median() < 0.1
        assert torch.equal(fresh(images).logits, fresh(images).logits)
        fresh.train()
        assert not torch.equal(fresh(images).logits, fresh(images).logits)


STAGES = {  # the encoder's maps of stride 8, 16 and 32
    "test_convnext": ("stages.1", "stages.2", "stages.3"),
    "resnet10t": ("layer2", "layer3", "layer4"),
}


def randomised(encoder, heatmap, seed):
    """Return a network whose every weight outside the encoder is drawn, and a batch."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = SliceCNN(encoder, heatmap).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not name.startswith("encoder"):
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.2)
        if heatmap:
            model.heatmap.sharpness.fill_(0.6 + 0.5 * seed)
    height, width = 32 * torch.randint(1, 4, (2,), generator=generator)
    return model, torch.rand(2, 3, height, width, generator=generator) * 5


@torch.no_grad()
def seen_by_the_encoder(model, encoder, images):
    """Return the encoder's pooled features (B, C) and its maps, read with hooks."""
    maps, modules = [], dict(model.encoder.named_modules())
    hooks = [
        modules[name].register_forward_hook(lambda module, inputs, out: maps.append(out))
        for name in STAGES[encoder]
    ]
    pooled = model.encoder(images - 2.5)
    for hook in hooks:
        hook.remove()
    return pooled.double().numpy(), [tensor.double().numpy() for tensor in maps]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("encoder", STAGES)
def test_the_network_equals_the_slow_reference(encoder, seed):
    model, images = randomised(encoder, True, seed)
    with torch.no_grad():
        out = model(images)
    pooled, maps = seen_by_the_encoder(model, encoder, images)
    weights = reference_networks.float64(model.state_dict())
    for k in range(len(images)):
        expected = reference_networks.slice_cnn(weights, pooled[k], [stage[k] for stage in maps])
        for ours, reference in zip((out.logits, out.features, out.heatmap), expected, strict=True):
            np.testing.assert_allclose(ours[k].numpy(), reference, rtol=1e-4, atol=1e-5)
        spread = np.ptp(expected[2])
        assert spread > 0.5  # the pooling is no plain mean


@pytest.mark.parametrize("encoder", STAGES)
def test_the_published_network_is_one_linear_layer_on_the_pooled_features(encoder):
    model, images = randomised(encoder, False, 5)
    with torch.no_grad():
        out = model(images)
    pooled, _ = seen_by_the_encoder(model, encoder, images)
    weights = reference_networks.float64(model.state_dict())
    expected = reference_networks.linear(weights, "head.1", pooled)
    np.testing.assert_allclose(out.logits.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_weights_keep_their_names_and_shapes():
    """Checkpoints of before must still load."""
    model = SliceCNN("test_convnext", heatmap=True)
    shapes = {
        name: tuple(weight.shape)
        for name, weight in model.state_dict().items()
        if not name.startswith("encoder")
    }
    assert shapes == {
        "heatmap.laterals.0.weight": (64, 32, 1, 1),
        "heatmap.laterals.0.bias": (64,),
        "heatmap.laterals.1.weight": (64, 48, 1, 1),
        "heatmap.laterals.1.bias": (64,),
        "heatmap.laterals.2.weight": (64, 64, 1, 1),
        "heatmap.laterals.2.bias": (64,),
        "heatmap.smooth.0.weight": (64, 64, 3, 3),
        "heatmap.smooth.0.bias": (64,),
        "heatmap.heat.weight": (1, 64, 1, 1),
        "heatmap.heat.bias": (1,),
        "heatmap.sharpness": (),
        "head.1.weight": (256, 64 + 64 + 2),
        "head.1.bias": (256,),
        "head.3.weight": (14, 256),
        "head.3.bias": (14,),
    }
    assert [layer.p for layer in model.head if isinstance(layer, torch.nn.Dropout)] == [0.1]
    published = SliceCNN("test_convnext", heatmap=False)
    assert published.head[1].weight.shape == (14, 64)


@torch.no_grad()
def test_the_pooling_stays_in_float32_under_autocast():
    model, images = randomised("test_convnext", True, 0)
    finest = []
    model.heatmap.smooth.register_forward_hook(lambda module, inputs, out: finest.append(out))
    with torch.autocast("cpu", torch.bfloat16):
        out = model(images)
    assert out.logits.dtype == out.features.dtype == out.heatmap.dtype == torch.float32
    sharp = model.heatmap.sharpness.double() * out.heatmap.double()
    weights = sharp.flatten(1).softmax(1).view_as(out.heatmap)
    pooled = (weights[:, None] * finest[0].double()).sum((2, 3))
    torch.testing.assert_close(out.features[:, 64:-2].double(), pooled, rtol=1e-5, atol=1e-5)
    published, images = randomised("resnet10t", False, 0)
    with torch.autocast("cpu", torch.bfloat16):
        out = published(images)
    assert out.logits.dtype == out.features.dtype == torch.float32
