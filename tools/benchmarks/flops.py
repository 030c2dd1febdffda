"""Floating-point operations of matrix products and convolutions."""

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count


def flops_of(work: Callable[[], object]) -> float:
    """Floating-point operations of matrix products and convolutions, forward and backward, while `work` runs."""
    with flop_counter() as counter:
        work()
    return float(counter.get_total_flops())


def flop_counter() -> FlopCounterMode:
    """torch's, with the backward pass of convolutions as it should be."""
    return FlopCounterMode(
        display=False,
        custom_mapping={torch.ops.aten.convolution_backward: convolution_backward_flops},
    )


def convolution_backward_flops(
    gradient,
    images,
    weight,
    bias,
    stride,
    padding,
    dilation,
    transposed,
    output_padding,
    groups,
    mask,
    **_,
) -> int:
    """As much as the forward pass for each of both gradients. torch's own formula forgets the groups: it takes a depthwise convolution for a dense one."""
    return sum(mask[:2]) * conv_flop_count(images, weight, gradient, transposed)
