"""Which encoders are taken, at which size, with whose weights. Names people try: another file."""

import socket

import pytest
import timm
import torch

from src.artifacts.paths import RunFolder
from src.networks.encoder import plan_encoder
from src.networks.slice_cnn import SliceCNN, build_slice_cnn
from src.script import UserError

CPU = torch.device("cpu")
UNKNOWN = {
    "misspelt": "no_such_net",
    "upper case": "RESNET50",
    "empty": "",
    "hub": "hf-hub:timm/resnet10t.c3_in1k",
    "hub, old spelling": "hf_hub:timm/resnet10t",
    "folder": "local-dir:/etc",
    "file": "file:///etc/passwd",
    "address": "https://example.org/resnet10t",
    "path": "../../etc/passwd",
    "tag": "resnet10t.no_such_tag",
    "path as tag": "resnet10t.a/../../b",
    "source as tag": "resnet10t.hf-hub:timm/resnet10t",
    "escape": "resnet10t.\x1b[31m",
    "line feed": "resnet10t\n",
    "zero byte": "resnet\x0010t",
    "long": "a" * 1_000_000,
    "long tag": "resnet10t." + "a" * 1_000_000,
    "number": 7,
    "list": ["resnet10t"],
    "nothing": None,
}


@pytest.fixture
def no_network(monkeypatch):
    """Fail where a connection is opened or a name is looked up."""

    def refuse(*_, **__):
        raise AssertionError("the network was used")

    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("name", UNKNOWN.values(), ids=UNKNOWN)
@pytest.mark.parametrize("pretrained", [False, True])
def test_what_timm_does_not_have_is_one_short_sentence(name, pretrained, no_network):
    for build in (
        lambda: SliceCNN(name, True, pretrained, crop_size=64),
        lambda: build_slice_cnn({"encoder": name, "heatmap_weight": 0.3, "crop_size": 64}, {}, CPU),
    ):
        with pytest.raises(UserError, match=r"^timm knows no encoder .*encoders\.md$") as caught:
            build()
        message = str(caught.value)
        assert len(message) < 250 and message.isprintable()


@pytest.mark.parametrize("name", ["a" * 1_000_000, "resnet\x00", "a\x1b[31m", "..", ""])
def test_no_folder_has_such_a_name(name, tmp_path):
    with pytest.raises(UserError, match="is no name of an encoder") as caught:
        RunFolder(tmp_path, name, 0)
    assert len(str(caught.value)) < 250 and str(caught.value).isprintable()


def test_a_hub_that_does_not_answer_is_one_sentence(monkeypatch):
    monkeypatch.setattr("src.networks.encoder._answers", lambda endpoint: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(UserError, match="--no-pretrained"):
        SliceCNN("test_convnext.r160_in1k", heatmap=False, pretrained=True)


@pytest.mark.parametrize(
    ("name", "crop", "sizes"),
    [
        ("vit_tiny_patch16_224", 450, "448 or 480"),  # timm would leave out two columns
        ("eva02_tiny_patch14_224", 96, "84 or 98"),
        ("test_maxvit", 100, "96 or 128"),
        ("efficientformer_l1", 448, "224$"),
        ("vit_tiny_patch16_224", 8, "32$"),
    ],
)
def test_a_crop_size_that_does_not_fit_names_those_that_do(name, crop, sizes):
    with pytest.raises(UserError, match=rf"no images of {crop} x {crop} .*such as {sizes}"):
        plan_encoder(name, crop)


def test_an_encoder_that_fits_no_size_is_refused(monkeypatch):
    def broken(*_, **__):
        raise KeyError

    monkeypatch.setattr(timm, "create_model", broken)
    with pytest.raises(UserError, match=r"cannot be used \(KeyError\): choose another --encoder"):
        plan_encoder("test_convnext2", 72)  # in no other test: plans are kept


def test_a_plan_draws_no_random_number():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    plan_encoder("test_nfnet", 80)
    assert torch.equal(torch.rand(3), expected)


def test_maps_between_8_and_32_are_taken_only_where_8_16_and_32_are_missing():
    assert plan_encoder("test_convnext", 96).strides == [8, 16, 32]
    assert plan_encoder("levit_128s", 224).strides == [16, 32]  # it also has 64
    assert plan_encoder("vit_tiny_patch16_224", 96).strides == [16]
    assert plan_encoder("eva02_tiny_patch14_224", 98).strides == [14]


def test_networks_of_any_size_are_built_as_ever():
    """Their checkpoints of before know no size: names and shapes of the weights stay."""
    for name in ("test_convnext", "test_resnet", "test_vit", "vit_small_patch16_dinov3"):
        assert plan_encoder(name, 96).options == {}
    assert plan_encoder("vit_tiny_patch16_224", 96).options == {"img_size": 96}


def test_a_local_checkpoint_is_loaded(tmp_path):
    model = SliceCNN("test_convnext", heatmap=True)
    torch.save(model.encoder.state_dict(), tmp_path / "encoder.pth")
    loaded = SliceCNN("test_convnext", heatmap=False, checkpoint=tmp_path / "encoder.pth")
    for name, value in model.encoder.state_dict().items():
        torch.testing.assert_close(loaded.encoder.state_dict()[name], value)


@pytest.mark.parametrize(
    ("name", "smaller", "larger"),
    [("vit_tiny_patch16_224", 64, 96), ("test_maxvit", 96, 128), ("levit_128s", 64, 96)],
)
def test_weights_of_another_image_size_are_resampled_or_refused(tmp_path, name, smaller, larger):
    torch.manual_seed(0)
    trained = SliceCNN(name, heatmap=False, crop_size=smaller).encoder.state_dict()
    torch.save(trained, tmp_path / "encoder.pth")
    if name == "levit_128s":  # timm does not resample its biases
        with pytest.raises(UserError, match=r"the weights of levit_128s could not be loaded \("):
            SliceCNN(name, True, checkpoint=tmp_path / "encoder.pth", crop_size=larger)
        return
    model = SliceCNN(name, True, checkpoint=tmp_path / "encoder.pth", crop_size=larger).eval()
    loaded = model.encoder.state_dict()
    same = [key for key, value in trained.items() if loaded[key].shape == value.shape]
    assert len(same) < len(trained)
    for key in same:
        if "relative_position_index" not in key:
            assert torch.equal(loaded[key], trained[key]), key
    assert model(torch.rand(1, 3, larger, larger)).logits.isfinite().all()


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04broken"])
def test_a_broken_file_of_weights_is_one_sentence(tmp_path, content):
    (tmp_path / "encoder.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"could not be loaded \(.*\): name a local file"):
        SliceCNN("test_resnet", heatmap=False, checkpoint=tmp_path / "encoder.pth")
