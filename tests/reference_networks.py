"""Slow plain forward passes of both networks in float64, written from the papers.

`weights` is {name: array} of a network's state_dict; nothing else of the code is used.
"""

import numpy as np
from scipy.special import ndtr, softmax

KNOTS, FARTHEST, FINEST = 32, 200.0, 2.0  # of the distance bias; mm


def float64(state: dict) -> dict[str, np.ndarray]:
    """Return a state_dict as arrays."""
    return {name: tensor.double().numpy() for name, tensor in state.items()}


def linear(weights: dict, name: str, x: np.ndarray) -> np.ndarray:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def layer_norm(weights: dict, name: str, x: np.ndarray) -> np.ndarray:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    scaled = (x - mean) / np.sqrt(variance + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def gelu(x: np.ndarray) -> np.ndarray:
    return x * ndtr(x)


def convolution(weights: dict, name: str, image: np.ndarray) -> np.ndarray:
    """Return a k x k convolution of one image (C, h, w), padded with zeros to its size."""
    kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]  # (D, C, k, k), (D,)
    _, height, width = image.shape
    reach = kernel.shape[-1] // 2
    out = np.empty((len(kernel), height, width))
    for row in range(height):
        for column in range(width):
            value = bias.copy()
            for down in range(-reach, reach + 1):
                for across in range(-reach, reach + 1):
                    y, x = row + down, column + across
                    if 0 <= y < height and 0 <= x < width:
                        value += kernel[:, :, down + reach, across + reach] @ image[:, y, x]
            out[:, row, column] = value
    return out


def enlarged(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return an image (C, h, w) of height x width: each pixel repeated (nearest neighbour)."""
    out = np.empty((len(image), height, width))
    for row in range(height):
        for column in range(width):
            source = row * image.shape[1] // height, column * image.shape[2] // width
            out[:, row, column] = image[:, source[0], source[1]]
    return out


def heat_head(weights: dict, maps: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return heat (h, w) and features (D + 2,) of one image's maps (C, h, w), fine to coarse."""
    coarsest = len(maps) - 1
    merged = convolution(weights, f"heatmap.laterals.{coarsest}", maps[coarsest])
    for level in range(coarsest - 1, -1, -1):
        lateral = convolution(weights, f"heatmap.laterals.{level}", maps[level])
        merged = lateral + enlarged(merged, *lateral.shape[1:])
    finest = gelu(convolution(weights, "heatmap.smooth.0", merged))  # (D, h, w)
    heat = convolution(weights, "heatmap.heat", finest)[0]  # (h, w)

    total, pooled, mean_x, mean_y = 0.0, np.zeros(len(finest)), 0.0, 0.0
    height, width = heat.shape
    for row in range(height):
        for column in range(width):
            weight = np.exp(weights["heatmap.sharpness"] * (heat[row, column] - heat.max()))
            total += weight
            pooled += weight * finest[:, row, column]
            mean_x += weight * (-1 + (column + 0.5) * 2 / width)  # -1..1 from edge to edge
            mean_y += weight * (-1 + (row + 0.5) * 2 / height)
    return heat, np.array([*pooled, mean_x, mean_y]) / total


def slice_cnn(weights: dict, pooled: np.ndarray, maps: list[np.ndarray]) -> tuple:
    """Return logits (14,), features and heat of one image, from the encoder's features and maps."""
    heat, pointed = heat_head(weights, maps)
    features = np.concatenate([pooled, pointed])
    hidden = gelu(linear(weights, "head.1", features))
    return linear(weights, "head.3", hidden), features, heat


def distance_bias(values: np.ndarray, millimetres: float) -> float:
    """Return the bias of a signed distance: linear in asinh(distance) between even knots."""
    knots = np.linspace(-np.arcsinh(FARTHEST / FINEST), np.arcsinh(FARTHEST / FINEST), KNOTS)
    return float(np.interp(np.arcsinh(millimetres / FINEST), knots, values))


def attention(weights: dict, name: str, x: np.ndarray, bias: np.ndarray, heads: int) -> np.ndarray:
    """Return self-attention of tokens (T, W) one query at a time (Vaswani et al. 2017)."""
    length, width = x.shape
    query, key, value = np.split(linear(weights, f"{name}.query_key_value", x), 3, axis=1)
    size = width // heads
    mixed = np.zeros((length, width))
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for i in range(length):
            scores = [query[i, part] @ key[j, part] / np.sqrt(size) for j in range(length)]
            mixed[i, part] = softmax(scores + bias[i]) @ value[:, part]
    return linear(weights, f"{name}.out", mixed)


def layer(weights: dict, name: str, x: np.ndarray, bias: np.ndarray, heads: int) -> np.ndarray:
    """Return a transformer layer with the norms after the residuals, ReLU between."""
    attended = x + attention(weights, name, x, bias, heads)
    attended = layer_norm(weights, f"{name}.norms.0", attended)
    hidden = np.maximum(linear(weights, f"{name}.feed_forward.0", attended), 0)
    hidden = linear(weights, f"{name}.feed_forward.2", hidden)
    return layer_norm(weights, f"{name}.norms.1", attended + hidden)


def neighbour_convolution(weights: dict, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Add a convolution over 3 tokens of the layer's input (T, W) to its output."""
    kernel, bias = weights["convolution.conv.weight"], weights["convolution.conv.bias"]
    mixed = np.tile(bias, (len(before), 1))
    for i in range(len(before)):
        for k in (-1, 0, 1):
            if 0 <= i + k < len(before):
                mixed[i] += kernel[:, :, k + 1] @ before[i + k]
    return layer_norm(weights, "convolution.norm", after + np.maximum(mixed, 0))


def gem(x: np.ndarray, power: float) -> np.ndarray:
    """Return the generalised mean over the tokens (T, W); nothing below 1e-6 counts."""
    return np.mean(np.maximum(x, 1e-6) ** power, axis=0) ** (1 / power)


def sequence_transformer(
    weights: dict, features: np.ndarray, positions: np.ndarray, layers: int, heads: int
) -> np.ndarray:
    """Return logits (14,) of one series without padding: features (T, C), positions (T,) mm."""
    projected = layer_norm(weights, "project.1", linear(weights, "project.0", features))
    x = np.vstack([weights["cls"], projected])  # (1 + T, W)
    bias = np.zeros((len(x), len(x)))
    for i, here in enumerate(positions):
        for j, there in enumerate(positions):
            bias[1 + i, 1 + j] = distance_bias(weights["distance_bias.values"], there - here)
    for number in range(layers):
        after = layer(weights, f"layers.{number}", x, bias, heads)
        x = neighbour_convolution(weights, x, after) if number == 0 else after
    pooled = gem(x[1:], float(weights["power"]))
    hidden = linear(weights, "head.1", layer_norm(weights, "head.0", np.append(x[0], pooled)))
    return linear(weights, "head.5", gelu(layer_norm(weights, "head.2", hidden)))
