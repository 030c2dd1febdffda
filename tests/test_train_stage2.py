"""Stage 2's own: its published settings, and what its loss leaves out."""

import torch

import train_stage2
from src.training.losses import focal_loss
from train_stage2 import Config


def test_the_published_settings_are_the_defaults():
    published = {"width": 1024, "layers": 3, "heads": 1, "cut": 192}
    published |= {"dropout": 0.15, "attention_dropout": 0.05, "seed": 42}
    published |= {"epochs": 12, "batch_size": 32, "lr": 1e-5, "weight_decay": 0.01}
    published |= {"warmup_epochs": 1.0, "ema_decay": 0.999, "ema_every": 3}
    assert {name: getattr(Config(), name) for name in published} == published


def test_the_loss_of_stage_2_leaves_unknown_labels_out():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 14, generator=generator)
    targets = (torch.rand(6, 14, generator=generator) < 0.5).float()
    targets[3] = torch.nan

    def model(features, positions, present):
        return logits

    inputs = dict.fromkeys(("features", "positions", "present"), torch.zeros(6))
    loss = train_stage2.batch_loss(model, inputs | {"labels": targets}, torch.device("cpu"))
    others = [0, 1, 2, 4, 5]
    torch.testing.assert_close(loss, focal_loss(logits[others], targets[others]))
