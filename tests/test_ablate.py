"""The ablations (tools/experiments/ablate.py): each variant changes what its name says, and the table compares with the plain run of the same seed."""

import numpy as np
import pandas as pd
import pytest
import torch

import train_stage1
from src.labels import LABELS
from src.networks.slice_cnn import HEAT_CHANNELS, HeatmapHead
from src.sampling import spot_dataset
from src.sampling.augment import Augmentation
from src.sampling.spot_dataset import SpotDataset, read_spot_tables, training_rows
from tests.conftest import CROP
from tools.experiments import ablate


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """What variants change is as before after each test."""
    for owner, name in (
        (train_stage1, "Augmentation"),
        (train_stage1, "focal_loss"),
        (spot_dataset, "STEPS"),
        (HeatmapHead, "forward"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))


def change(variant):
    ablate.VARIANTS[variant][1]()


@pytest.mark.parametrize(
    ("variant", "option", "value"),
    [
        ("no mirror", "mirror", 0),
        ("no shift, scale, rotation", "affine", 0),
        ("no holes, no distortion", "spoil", 0),
        ("quarter turns", "quarter_turns", True),
    ],
)
def test_augmentation_differs_in_one_piece(variant, option, value):
    change(variant)
    changed = vars(train_stage1.Augmentation(quarter_turns=False))
    assert {
        name: other for name, other in changed.items() if other != vars(Augmentation())[name]
    } == {option: value}


def test_cross_entropy_is_that():
    change("cross entropy")
    logits, targets = torch.randn(4, 14), torch.randint(0, 2, (4, 14)).float()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(train_stage1.focal_loss(logits, targets), expected)


def test_one_step_draws_step_1_only(tiny):
    change("step 1 only")
    tables = read_spot_tables(tiny)
    dataset = SpotDataset(tables, training_rows(tables.spots, 0), CROP, 0, Augmentation())
    assert {
        dataset.draw_slice(row, np.random.default_rng(k))[1] for k, row in enumerate(dataset.rows)
    } == {1}


def test_the_highest_heat_takes_the_place_of_one_feature():
    head, maps = HeatmapHead([4, 8]).eval(), [torch.randn(2, 4, 8, 8), torch.randn(2, 8, 4, 4)]
    heat, whole = head(maps)
    change("highest heat among the features")
    same_heat, pointed = head(maps)
    assert torch.equal(heat, same_heat) and torch.equal(pointed[:, 1:], whole[:, 1:])
    assert torch.equal(pointed[:, 0], heat.amax(dim=(1, 2)))


@pytest.mark.parametrize(
    ("variant", "gone"),
    [
        ("no heat-weighted pooling", slice(0, HEAT_CHANNELS)),
        ("no expected position", slice(HEAT_CHANNELS, None)),
    ],
)
def test_features_are_gone_and_the_others_stay(variant, gone):
    head, maps = HeatmapHead([4, 8]).eval(), [torch.randn(2, 4, 8, 8), torch.randn(2, 8, 4, 4)]
    heat, whole = head(maps)
    change(variant)
    same_heat, pointed = head(maps)
    assert torch.equal(heat, same_heat) and not pointed[:, gone].any() and whole[:, gone].any()
    kept = torch.ones(whole.shape[1], dtype=torch.bool)
    kept[gone] = False
    assert torch.equal(pointed[:, kept], whole[:, kept])


def test_the_table_pools_folds_and_compares_seed_by_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(ablate, "VARIANTS", {ablate.PLAIN: ({}, None), "other": ({}, None)})
    config = ablate.Config(out=tmp_path, seeds=(1, 2))
    generator = np.random.default_rng(0)
    for variant in ablate.VARIANTS:
        for seed in config.seeds:
            for fold in (0, 1):
                truth = pd.DataFrame(generator.integers(0, 2, (60, 14)), columns=list(LABELS))
                good = truth.to_numpy() + (
                    0.0 if variant == ablate.PLAIN else 5.0
                ) * generator.normal(size=(60, 14))
                for what in ("spots", "series"):
                    path = ablate.run_folder(config, variant, seed, fold).predictions(what)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    ablate.with_probabilities(truth, good).to_csv(path, index=False)
    rows = ablate.table(config, range(2)).set_index("variant")
    assert rows.loc["plain", "spots"] == "1.000" and rows.loc["plain", "series difference"] == ""
    assert (
        rows.loc["other", "spots difference"].startswith("-0.")
        and float(rows.loc["other", "series"]) < 0.8
    )
