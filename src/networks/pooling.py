"""Pooling over the tokens of a sequence."""

from torch import Tensor


def gem_pool(x: Tensor, present: Tensor, power: Tensor) -> Tensor:
    """Return the generalised mean of the tokens, (B, W) float32 (Radenovic et al. 2018, eq. 3)."""
    powered = x.float().clamp(min=1e-6) ** power * present[..., None]  # (B, T, W)
    return (powered.sum(1) / present.sum(1, keepdim=True)).clamp(min=1e-30) ** (1 / power)
