import numpy as np
import pytest
import torch

from src.inference.encode import encode
from src.networks.slice_cnn import HEAT_CHANNELS, SliceCNN, build_slice_cnn, expected_position
from src.sampling.slices import neighbours
from src.script import UserError

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
    with pytest.raises(UserError, match="do not fit"):
        build_slice_cnn(settings(heatmap_weight=0), model.state_dict(), CPU)


def test_the_heat_begins_rare_and_dropout_works_in_training_only(model):
    images = torch.rand(2, 3, 64, 64) * 5
    fresh = SliceCNN("test_convnext", heatmap=True, dropout=0.5)
    with torch.no_grad():
        assert fresh.eval()(images).heatmap.sigmoid().median() < 0.1
        assert torch.equal(fresh(images).logits, fresh(images).logits)
        fresh.train()
        assert not torch.equal(fresh(images).logits, fresh(images).logits)
