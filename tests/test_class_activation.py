import pytest
import torch

from src.networks.class_activation import class_activation
from src.networks.slice_cnn import SliceCNN


@pytest.mark.parametrize(
    ("encoder", "has_map"),
    [
        ("test_resnet", True),
        ("test_convnext", True),
        ("resnet10t", True),
        ("test_maxvit", True),
        ("swin_tiny_patch4_window7_224", True),  # channels last
        ("test_vit", False),
        ("levit_128s", False),  # tokens
        ("mobilenetv4_conv_small", False),  # layers after the pooling
        ("test_mambaout", False),  # both
    ],
)
def test_the_class_activation_map_adds_up_to_the_logit(encoder, has_map):
    torch.manual_seed(0)
    model = SliceCNN(encoder, heatmap=False, crop_size=128).eval()
    images = torch.rand(3, 3, 128, 128) * 5
    labels = torch.tensor([0, 5, 12])
    with torch.no_grad():
        final, _ = model.maps(images)
        out, heat = model.locate(images)
        activation = class_activation(model, final, labels)
    if not has_map:
        assert activation is None and heat is None
        return
    bias = model.head[-1].bias[labels]
    torch.testing.assert_close(
        activation.mean(dim=(1, 2)) + bias,
        out.logits[torch.arange(3), labels],
        atol=1e-4,
        rtol=1e-4,
    )
    assert heat.shape == (3, 4, 4) and heat.min() >= 0 and heat.max() <= 1


def test_the_heatmap_is_where_the_network_looks():
    torch.manual_seed(0)
    model = SliceCNN("test_convnext", heatmap=True).eval()
    images = torch.rand(2, 3, 64, 64) * 5
    with torch.inference_mode():
        out, heat = model.locate(images)
    torch.testing.assert_close(heat, out.heatmap.sigmoid())
    torch.testing.assert_close(out.logits, model(images).logits)


@pytest.mark.parametrize("encoder", ["test_resnet", "test_convnext"])
def test_activation_maps_do_not_come_and_go_with_the_precision(encoder):
    """In bfloat16 the pooled features are rounded; every batch must still have its maps."""
    torch.manual_seed(0)
    model = SliceCNN(encoder, heatmap=False).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for _ in range(6):
            _, heat = model.locate(torch.rand(2, 3, 64, 64) * 5)
            assert heat is not None and heat.isfinite().all()
