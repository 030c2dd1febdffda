"""What tools/experiments/ablate.py compares: three tables of variants of stage 1's training.

A variant changes settings of train_stage1.py, or a function or constant in the process of its run.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import torch

import train_stage1
from src.networks import slice_cnn
from src.networks.slice_cnn import HEAT_CHANNELS, HeatmapHead
from src.sampling import augment, spot_dataset
from src.sampling.spot_dataset import SpotTables
from src.training import losses

PLAIN, HARD = "plain", "hard negatives"
VIEW = 160.0  # mm, of the variants that differ in something else, too


@dataclass(frozen=True)
class Variant:
    """How a training differs from the plain one."""

    settings: dict = field(default_factory=dict)  # of train_stage1.py
    change: Callable[[], None] | None = None  # called first, in the process of the run
    judge: str | None = None  # nothing is trained: the networks of this variant are judged
    off_centre: float = 0.0  # mm by which the head's centre is wrong when they are judged


def with_quarter_turns(turns: bool) -> Callable[[], None]:
    """Turn or do not turn, whatever the heatmap's weight says."""
    make_datasets = train_stage1.make_datasets

    def changed(config: train_stage1.Config, tables: SpotTables) -> tuple:
        training, held_out = make_datasets(config, tables)
        training.augmentation = replace(training.augmentation, quarter_turns=turns)
        return training, held_out

    return partial(setattr, train_stage1, "make_datasets", changed)


def pointed_features(change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable:
    """Change what the heatmap adds to the features: change(heat, features) -> features."""
    forward = HeatmapHead.forward

    def changed(self, maps):
        heat, pointed = forward(self, maps)
        return heat, change(heat, pointed)

    return partial(setattr, HeatmapHead, "forward", changed)


def without(first: int, last: int | None, heat: torch.Tensor, pointed: torch.Tensor):
    """Put zeros in place of the features first to last."""
    mask = torch.ones(pointed.shape[1])
    mask[first:last] = 0
    return pointed * mask


def with_peak(heat: torch.Tensor, pointed: torch.Tensor) -> torch.Tensor:
    """Put the highest heat in place of the first feature. The method does not: should it?"""
    return torch.cat([heat.flatten(1).amax(dim=1, keepdim=True), pointed[:, 1:]], dim=1)


def fixed_sharpness(value: float) -> Callable[[], None]:
    """Keep the sharpness of the heatmap's softmax at a value."""
    build = HeatmapHead.__init__

    def changed(self, channels: list[int]) -> None:
        build(self, channels)
        self.sharpness.requires_grad_(False)

    def change() -> None:
        slice_cnn.FIRST_SHARPNESS = value
        HeatmapHead.__init__ = changed

    return change


def holes_anywhere() -> None:
    """Let the holes of the augmentation cover aneurysms."""
    augment.uncover = lambda *_, **__: None


PIECES = {  # what each piece of stage 1 is worth, on the demo's small pictures
    PLAIN: Variant(),
    HARD: Variant(),
    "no heatmap, quarter turns (published)": Variant({"heatmap_weight": 0.0}),
    "no heatmap, no quarter turns": Variant({"heatmap_weight": 0.0}, with_quarter_turns(False)),
    "heatmap weight 1": Variant({"heatmap_weight": 1.0}),
    "no heat-weighted pooling": Variant(
        change=pointed_features(partial(without, 0, HEAT_CHANNELS))
    ),
    "no expected position": Variant(change=pointed_features(partial(without, HEAT_CHANNELS, None))),
    "highest heat among the features": Variant(change=pointed_features(with_peak)),
    "quarter turns": Variant(change=with_quarter_turns(True)),
    "no shift, scale, rotation": Variant({"affine": 0.0}),
    "no holes, no distortion": Variant({"occlude": 0.0}),
    "no mirror": Variant({"mirror": 0.0}),
    "no EMA": Variant({"ema_decay": 0.0}),
    "step 1 only": Variant(change=partial(setattr, spot_dataset, "STEPS", (1,))),
    "cross entropy": Variant(
        change=partial(setattr, train_stage1, "focal_loss", partial(losses.focal_loss, gamma=0.0))
    ),
}

IN_MM = {"view_mm": VIEW}
SCALE = {  # what must not depend on the scale, on whole heads
    PLAIN: Variant(),
    "sharpness 1": Variant(change=fixed_sharpness(1.0)),
    "sharpness 3": Variant(change=fixed_sharpness(3.0)),
    "holes may cover aneurysms": Variant(change=holes_anywhere),
    "view 200 mm": Variant({"view_mm": 200.0}),
    "view 160 mm": Variant(IN_MM),
    "view 140 mm": Variant({"view_mm": 140.0}),
    "view 160 mm, sharpness 1": Variant(IN_MM, fixed_sharpness(1.0)),
    "view 160 mm, centre off by 20 mm": Variant(IN_MM, judge="view 160 mm", off_centre=20.0),
    "neighbours 3 and 6 mm": Variant({"step_mm": (3.0, 6.0)}),
    "rotation 15 degrees": Variant({"rotate": 15.0}),
    "rotation 30 degrees": Variant({"rotate": 30.0}),
    "no heatmap, quarter turns (published)": Variant({"heatmap_weight": 0.0}),
}

TRAINED = {  # how to start from an encoder that was trained on photographs (--checkpoint)
    PLAIN: Variant(),  # heads at 10 times the rate
    "one rate": Variant(change=partial(setattr, train_stage1, "HEAD_RATE", 1)),
    "published rate": Variant({"lr": 3e-5, "head_lr": 3e-5}),
    "from random weights, rate 3e-3": Variant({"checkpoint": None, "lr": 3e-3}),
}

TABLES = {"pieces": PIECES, "scale": SCALE, "trained": TRAINED}
