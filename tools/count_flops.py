"""What networks cost: floating-point operations of matrix products and convolutions, weights, and what training keeps in memory."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

import train_stage1
import train_stage2
from src import engine
from src.sequence_transformer import new_transformer


@dataclass(frozen=True)
class Network:
    """What a network costs."""

    channels: int  # of its features
    parameters: int
    forward: float  # FLOP an item
    training: float  # FLOP an item, forward and backward
    kept: float  # bytes a batch that autograd keeps for the backward pass, in bfloat16


def flops_of(work: Callable[[], object]) -> float:
    """Floating-point operations of matrix products and convolutions, forward and backward, while `work` runs."""
    with flop_counter() as counter:
        work()
    return float(counter.get_total_flops())


def flop_counter() -> FlopCounterMode:
    """torch's, with the backward pass of convolutions as it should be."""
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: convolution_backward_flops})


def convolution_backward_flops(gradient, images, weight, bias, stride, padding, dilation, transposed, output_padding, groups, mask, **_) -> int:
    """As much as the forward pass for each of both gradients. torch's own formula forgets the groups: it takes a depthwise convolution for a dense one."""
    return sum(mask[:2]) * conv_flop_count(images, weight, gradient, transposed)


@cache
def count_slice_cnn(encoder: str, crop_size: int, heatmap_weight: float, batch_size: int) -> Network:
    """Stage 1's network at its crop, an image."""
    settings = train_stage1.Config(encoder=encoder, pretrained=False, crop_size=crop_size, heatmap_weight=heatmap_weight)
    with torch.device("meta"):
        model = train_stage1.make_network(settings)

    def forward(model: nn.Module) -> Tensor:
        out = model(torch.empty(batch_size, 3, crop_size, crop_size))
        return out.logits.sum() + (0 if out.heatmap is None else out.heatmap.sum())

    return count(model, forward, batch_size)


@cache
def count_transformer(channels: int, length: int) -> Network:
    """Stage 2's network, a series of so many tokens."""
    with torch.device("meta"):
        model = new_transformer(engine.settings_of(train_stage2.Config()) | {"channels": channels})
    model.channels = channels

    def forward(model: nn.Module) -> Tensor:
        return model(torch.empty(1, length, channels), torch.empty(1, length), torch.ones(1, length, dtype=torch.bool)).sum()

    return count(model, forward, 1)


def count(model: nn.Module, forward: Callable[[nn.Module], Tensor], items: int) -> Network:
    """Of a network on the meta device, by tensors that have shapes but no values. forward: computes a batch of `items` to a number."""
    kept: dict[int, tuple[int, Tensor]] = {}  # bytes of each storage; the tensor, so that its address stays its own

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes(), tensor
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True), sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16):
        model.to_empty(device="cpu")
        with FlopCounterMode(display=False) as inference, torch.no_grad():
            forward(model.eval())
        counter = flop_counter()
        with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            forward(model.train()).backward()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    of_weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    activations = sum(size for address, (size, _) in kept.items() if address not in of_weights)
    return Network(model.channels, parameters, inference.get_total_flops() / items, counter.get_total_flops() / items, activations)
