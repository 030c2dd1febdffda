"""Class activation maps: where a network without heatmap looks."""

import torch
from torch import Tensor, nn


def class_activation(model: nn.Module, final: Tensor, labels: Tensor) -> Tensor | None:
    """What each place adds to a logit (Zhou et al. 2016): (B, h, w), whose mean and the linear layer's bias make the logit of `labels` (B,).

    final: (B, C, h, w). The published head is linear in the pooled features: logit = w . N(mean of x) + b, where N is nothing, or a LayerNorm
    z -> g (z - m) / s + c with m and s of the pooled features. Both are affine once m and s are known, so w . N(x) of each place, with those
    m and s, has exactly the mean w . N(mean of x). None for other heads (those of ViTs read a token of its own).
    """
    if model.heatmap is not None or final.dim() != 4:
        return None
    final = final.float()
    pooled = final.mean(dim=(2, 3))  # (B, C)
    features = model.encoder.forward_head(final)
    norm = getattr(getattr(model.encoder, "head", None), "norm", None)
    places = final.permute(0, 2, 3, 1)  # (B, h, w, C)
    if not torch.allclose(pooled, features, atol=1e-3, rtol=1e-3):
        if not isinstance(norm, nn.LayerNorm):
            return None
        mean, spread = pooled.mean(dim=1), (pooled.var(dim=1, unbiased=False) + norm.eps).sqrt()
        places = (places - mean[:, None, None, None]) / spread[
            :, None, None, None
        ] * norm.weight + norm.bias
        if not torch.allclose(places.mean(dim=(1, 2)), features, atol=1e-2, rtol=1e-2):
            return None
    return torch.einsum("bhwc,bc->bhw", places, model.head[-1].weight[labels])
