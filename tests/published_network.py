"""The published networks and the way they predict, written from facts about their files.

Nothing of src or tools is used: it is the reference for tools/import_published.py.
"""

from pathlib import Path

import numpy as np
import timm
import torch
from torch import nn

LONGEST, CROP, MEAN = 192, 448, 2.5


class Power(nn.Module):
    """Holds the exponent of the generalised mean."""

    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.tensor([2.5]))


class Slices(nn.Module):
    """Stage 1: three slices -> features, logits."""

    def __init__(self, encoder: str):
        super().__init__()
        self.image_encoder = timm.create_model(encoder, num_classes=0)
        self.fc = nn.Sequential(nn.Dropout(0.1), nn.Linear(self.image_encoder.num_features, 14))


class Sequence(nn.Module):
    """Stage 2: the features of a series -> logits."""

    def __init__(self, width: int):
        super().__init__()
        from transformers import DebertaV2Config, DebertaV2Model  # 3 s, in one process alone

        config = DebertaV2Config(
            vocab_size=3,
            hidden_size=width,
            num_hidden_layers=3,
            num_attention_heads=1,
            intermediate_size=1024,
            hidden_act="relu",
            hidden_dropout_prob=0.15,
            attention_probs_dropout_prob=0.05,
            max_position_embeddings=512,
            type_vocab_size=0,
            layer_norm_eps=1e-7,
            relative_attention=True,
            max_relative_positions=-1,
            position_biased_input=False,
            pos_att_type="p2c|c2p",
        )
        more = {"position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True}
        for name, value in (more | {"conv_kernel_size": 3, "conv_act": "relu"}).items():
            setattr(config, name, value)
        self.transformer = DebertaV2Model(config)
        self.cls_embedding = nn.Parameter(torch.randn(1, 1, width))
        self.pool = Power()
        layers = [nn.LayerNorm(2 * width), nn.Linear(2 * width, width), nn.LayerNorm(width)]
        self.fc = nn.Sequential(*layers, nn.GELU(), nn.Dropout(0.15), nn.Linear(width, 14))


class Published:
    """Both stages with random weights that matter: no bias is 0, no weight is tiny."""

    def __init__(self, encoder: str, seed: int = 0):
        torch.manual_seed(seed)
        self.slices = Slices(encoder).eval()
        self.sequence = Sequence(self.slices.image_encoder.num_features).eval()
        for name, weight in self.sequence.named_parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
            elif name != "pool.p":
                nn.init.normal_(weight, mean=float(name.endswith("weight")), std=0.2)

    def save(self, folder: Path) -> tuple[Path, Path, Path]:
        """Write and return the three files."""
        stage1, stage2 = self.slices.state_dict(), self.sequence.state_dict()
        encoder = {name: value for name, value in stage1.items() if name.startswith("image")}
        paths = [folder / f"{name}.pth" for name in ("best_stage1", "best_stage2")]
        paths.append(folder / "weights_inference.pth")
        for path, weights in zip(paths, (stage1, stage2, encoder | stage2), strict=True):
            torch.save(weights, path)
        return tuple(paths)

    @torch.inference_mode()
    def predict(self, images: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the probabilities (14,) of a series, and those of the slices read, (T, 14).

        images: (N, 512, 512) in 0..5. Beyond an end the edge slice is repeated.
        """
        count, edge = len(images), (images.shape[-1] - CROP) // 2
        inside = images[:, edge : edge + CROP, edge : edge + CROP].astype(np.float32) - MEAN
        features = []
        for number in slices_read(count):
            three = [inside[max(number - step, 0)], inside[number]]
            three.append(inside[min(number + step, count - 1)])
            features.append(self.slices.image_encoder(torch.from_numpy(np.stack(three))[None])[0])
        features = torch.stack(features)  # (T, C)
        each = self.slices.fc(features).sigmoid()
        return self.read(features).sigmoid().numpy(), each.numpy()

    @torch.inference_mode()
    def read(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits (14,) of a series from the features (T, C) of its slices."""
        tokens = torch.cat([self.sequence.cls_embedding[0], features])[None]  # (1, 1 + T, C)
        mask = torch.ones(tokens.shape[:2])
        read_by = self.sequence.transformer(inputs_embeds=tokens, attention_mask=mask)
        tokens = read_by.last_hidden_state[0]  # (1 + T, C)
        power = self.sequence.pool.p
        pooled = torch.maximum(tokens, torch.tensor(1e-6)).pow(power).mean(0).pow(1 / power)
        return self.sequence.fc(torch.cat([pooled, tokens[0]])[None])[0]


def slices_read(count: int) -> list[int]:
    """Return which slices of a series are read."""
    stride = int(count / LONGEST)
    return [number for number in range(count) if stride < 2 or number % stride == 0]
