"""Count the floating-point operations of matrix products and convolutions."""

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count


def flops_of(work: Callable[[], object]) -> float:
    """Return how many operations `work` takes, forward and backward."""
    formulas = {torch.ops.aten.convolution_backward: convolution_backward_flops}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        work()
    return float(counter.get_total_flops())


def convolution_backward_flops(gradient, images, weight, *others, **_) -> int:
    """Return the operations of the forward pass, for each of the gradients that is computed.

    torch's own formula forgets the groups: it takes a depthwise convolution for a dense one.
    """
    _bias, _stride, _padding, _dilation, transposed, _output_padding, _groups, computed = others
    of_images, of_weight, _of_bias = computed
    return (of_images + of_weight) * conv_flop_count(images, weight, gradient, transposed)
