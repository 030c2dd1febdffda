import pytest
import torch

from src.networks.slice_cnn import SliceCNN
from src.script import UserError


def test_an_unknown_encoder_and_an_unreachable_hub_are_one_sentence(monkeypatch):
    with pytest.raises(UserError, match="timm knows no encoder"):
        SliceCNN("no_such_net", heatmap=False)
    monkeypatch.setattr("src.networks.encoder._answers", lambda endpoint: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(UserError, match="--no-pretrained"):
        SliceCNN("test_convnext.r160_in1k", heatmap=False, pretrained=True)


def test_a_local_checkpoint_is_loaded(tmp_path):
    model = SliceCNN("test_convnext", heatmap=True)
    torch.save(model.encoder.state_dict(), tmp_path / "encoder.pth")
    loaded = SliceCNN("test_convnext", heatmap=False, checkpoint=tmp_path / "encoder.pth")
    for name, value in model.encoder.state_dict().items():
        torch.testing.assert_close(loaded.encoder.state_dict()[name], value)
