import numpy as np
import pytest
import torch

from src.inference.encode import encode
from src.networks.class_activation import class_activation
from src.networks.slice_cnn import HEAT_CHANNELS, SliceCNN, build_slice_cnn, expected_position
from src.sampling.slices import neighbours
from src.script import UserError

CPU = torch.device("cpu")


def settings(heatmap_weight=0.3):
    return {"encoder": "test_convnext", "heatmap_weight": heatmap_weight}


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


def test_an_unknown_encoder_and_an_unreachable_hub_are_one_sentence(monkeypatch):
    with pytest.raises(UserError, match="timm knows no encoder"):
        SliceCNN("no_such_net", heatmap=False)
    monkeypatch.setattr("src.networks.encoder._answers", lambda endpoint: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(UserError, match="--no-pretrained"):
        SliceCNN("test_convnext.r160_in1k", heatmap=False, pretrained=True)


def test_a_local_checkpoint_is_loaded(tmp_path, model):
    torch.save(model.encoder.state_dict(), tmp_path / "encoder.pth")
    loaded = SliceCNN("test_convnext", heatmap=False, checkpoint=tmp_path / "encoder.pth")
    for name, value in model.encoder.state_dict().items():
        torch.testing.assert_close(loaded.encoder.state_dict()[name], value)


def test_the_heat_begins_rare_and_dropout_works_in_training_only(model):
    images = torch.rand(2, 3, 64, 64) * 5
    fresh = SliceCNN("test_convnext", heatmap=True, dropout=0.5)
    with torch.no_grad():
        assert fresh.eval()(images).heatmap.sigmoid().median() < 0.1
        assert torch.equal(fresh(images).logits, fresh(images).logits)
        fresh.train()
        assert not torch.equal(fresh(images).logits, fresh(images).logits)


@pytest.mark.parametrize(
    ("encoder", "there"),
    [("test_resnet", True), ("test_convnext", True), ("resnet10t", True), ("test_vit", False)],
)
def test_the_class_activation_map_adds_up_to_the_logit(encoder, there):
    torch.manual_seed(0)
    model = SliceCNN(encoder, heatmap=False).eval()
    images = torch.rand(3, 3, 160, 160) * 5
    labels = torch.tensor([0, 5, 12])
    with torch.no_grad():
        final, _ = model._maps(images)
        out, where = model.locate(images)
        activation = class_activation(model, final, labels)
    if not there:
        assert activation is None and where is None
        return
    bias = model.head[-1].bias[labels]
    torch.testing.assert_close(
        activation.mean(dim=(1, 2)) + bias,
        out.logits[torch.arange(3), labels],
        atol=1e-4,
        rtol=1e-4,
    )
    assert where.shape[1:] == final.shape[2:] and where.min() >= 0 and where.max() <= 1


def test_the_heatmap_is_where_the_network_looks(model):
    images = torch.rand(2, 3, 64, 64) * 5
    with torch.inference_mode():
        out, where = model.locate(images)
    torch.testing.assert_close(where, out.heatmap.sigmoid())
    torch.testing.assert_close(out.logits, model(images).logits)


@pytest.mark.parametrize("encoder", ["test_resnet", "test_convnext"])
def test_activation_maps_do_not_come_and_go_with_the_precision(encoder):
    """In bfloat16 the pooled features are rounded; the maps must be there for every batch all the same."""
    torch.manual_seed(0)
    model = SliceCNN(encoder, heatmap=False).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for _ in range(6):
            _, where = model.locate(torch.rand(2, 3, 64, 64) * 5)
            assert where is not None and where.isfinite().all()
