"""Where a slice CNN without heatmap looks, and what it says of one place."""

import torch
from torch import Tensor, nn

from src.labels import PRESENT


def locate(model: nn.Module, images: Tensor) -> tuple:
    """Return the SliceOutput and where the network looks, (B, h, w) in 0..1, or None if unknown."""
    final, maps = model.maps(images)  # (B, C, h, w)
    out = model.output(final, maps)
    if out.heatmap is not None:
        return out, out.heatmap.sigmoid()
    location = out.logits[:, :PRESENT].argmax(dim=1)  # (B,)
    with torch.autocast(images.device.type, enabled=False):
        activation = class_activation(model, final, location)  # (B, h, w)
    if activation is None:
        return out, None
    highest = activation.amax(dim=(1, 2), keepdim=True).clamp(min=1e-6)  # (B, 1, 1)
    return out, activation.relu() / highest


def class_activation(model: nn.Module, final: Tensor, labels: Tensor) -> Tensor | None:
    """Return what each place adds to the logit of labels (B,): (B, h, w) (Zhou et al. 2016).

    The mean over the places plus the linear layer's bias is the logit.
    Return None where `features_of_places` does.
    """
    places = features_of_places(model, final)
    if places is None:
        return None
    return torch.einsum("bhwc,bc->bhw", places, model.head[-1].weight[labels])  # (B, h, w)


def logits_at(model: nn.Module, final: Tensor, fractions: Tensor) -> Tensor | None:
    """Return the logits (B, 14) that the place alone would have, were it the whole image.

    fractions: (B, 2) x and y in 0..1 of the image.
    Return None where `features_of_places` does.
    """
    places = features_of_places(model, final)
    if places is None:
        return None
    rows, columns = places.shape[1:3]
    size = torch.tensor([columns, rows], device=places.device)
    column, row = (fractions * size).long().clamp(0).minimum(size - 1).T  # (B,)
    return model.head(places[torch.arange(len(places)), row, column])


def features_of_places(model: nn.Module, final: Tensor) -> Tensor | None:
    """Return the part of each place in the features that the linear layer reads: (B, h, w, C).

    final: (B, C, h, w), or (B, h, w, C) from an encoder that says so.
    The published head is linear in the pooled features: logit = w . N(mean of x) + b. N is
    nothing, or a LayerNorm z -> g (z - m) / s + c with m and s of the pooled features. Both are
    affine once m and s are known, so w . N(x), with those m and s, has the mean w . N(mean of x).
    Return None for other heads, such as those of ViTs, which read a token of its own, or of
    MobileNetV4, which has layers after the pooling.
    """
    if model.heatmap is not None or final.dim() != 4:
        return None
    final = final.float()
    features = model.encoder.forward_head(final)  # (B, C)
    if getattr(model.encoder, "output_fmt", "NCHW") == "NHWC":
        final = final.permute(0, 3, 1, 2)  # (B, C, h, w)
    pooled = final.mean(dim=(2, 3))  # (B, C)
    if pooled.shape != features.shape:
        return None
    norm = getattr(getattr(model.encoder, "head", None), "norm", None)
    places = final.permute(0, 2, 3, 1)  # (B, h, w, C)
    if torch.allclose(pooled, features, atol=1e-3, rtol=1e-3):
        return places
    if not isinstance(norm, nn.LayerNorm):
        return None
    mean = pooled.mean(dim=1)[:, None, None, None]  # (B, 1, 1, 1)
    spread = (pooled.var(dim=1, unbiased=False) + norm.eps).sqrt()[:, None, None, None]
    places = (places - mean) / spread * norm.weight + norm.bias  # (B, h, w, C)
    if not torch.allclose(places.mean(dim=(1, 2)), features, atol=1e-2, rtol=1e-2):
        return None
    return places
