"""The ablations (tools/experiments/ablate.py): each variant changes what its name says."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import train_stage1
from src import device
from src.labels import LABELS
from src.networks import slice_cnn
from src.networks.slice_cnn import HEAT_CHANNELS, HeatmapHead
from src.sampling import augment, spot_dataset
from src.sampling.spot_dataset import read_spot_tables
from src.script import UserError
from tests.conftest import CROP
from tools.experiments import ablate
from tools.experiments.variants import PIECES, SCALE, TABLES, TRAINED, Variant


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """Undo after each test what variants change."""
    for owner, name in (
        (train_stage1, "make_datasets"),
        (train_stage1, "focal_loss"),
        (train_stage1, "HEAD_RATE"),
        (spot_dataset, "STEPS"),
        (augment, "uncover"),
        (device, "precision"),
        (slice_cnn, "FIRST_SHARPNESS"),
        (HeatmapHead, "__init__"),
        (HeatmapHead, "forward"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))


def training_set(data, variant):
    """The training samples of a variant."""
    variant = PIECES[variant]
    if variant.change:
        variant.change()
    config = replace(train_stage1.Config(data.root, crop_size=CROP), **variant.settings)
    return train_stage1.make_datasets(config, read_spot_tables(data))[0]


def head_and_maps():
    return HeatmapHead([4, 8]).eval(), [torch.randn(2, 4, 8, 8), torch.randn(2, 8, 4, 4)]


@pytest.mark.parametrize(
    ("variant", "option", "value"),
    [
        ("no mirror", "mirror", 0),
        ("no shift, scale, rotation", "affine", 0),
        ("no holes, no distortion", "occlude", 0),
        ("quarter turns", "quarter_turns", True),
    ],
)
def test_augmentation_differs_in_one_piece(variant, option, value, tiny):
    usual = vars(training_set(tiny, ablate.PLAIN).augmentation)
    changed = vars(training_set(tiny, variant).augmentation)
    assert dict(changed.items() - usual.items()) == {option: value}


def test_quarter_turns_go_without_the_heatmap_unless_the_variant_says_no(tiny):
    published = "no heatmap, quarter turns (published)"
    assert training_set(tiny, published).augmentation.quarter_turns
    assert not training_set(tiny, "no heatmap, no quarter turns").augmentation.quarter_turns


def test_cross_entropy_is_that():
    PIECES["cross entropy"].change()
    logits, targets = torch.randn(4, 14), torch.randint(0, 2, (4, 14)).float()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    torch.testing.assert_close(train_stage1.focal_loss(logits, targets), expected)


def test_one_step_draws_step_1_only(tiny):
    dataset = training_set(tiny, "step 1 only")
    generator = np.random.default_rng(0)
    assert {dataset.draw_slice(row, generator)[1] for row in dataset.rows} == {1}


def test_the_highest_heat_takes_the_place_of_one_feature():
    head, maps = head_and_maps()
    heat, whole = head(maps)
    PIECES["highest heat among the features"].change()
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
    head, maps = head_and_maps()
    heat, whole = head(maps)
    PIECES[variant].change()
    same_heat, pointed = head(maps)
    assert torch.equal(heat, same_heat) and not pointed[:, gone].any() and whole[:, gone].any()
    kept = torch.ones(whole.shape[1], dtype=torch.bool)
    kept[gone] = False
    assert torch.equal(pointed[:, kept], whole[:, kept])


@pytest.mark.parametrize("value", [1.0, 3.0])
def test_a_fixed_sharpness_is_not_learned(value):
    SCALE[f"sharpness {value:.0f}"].change()
    head, maps = head_and_maps()
    heat, pointed = head(maps)
    assert float(head.sharpness) == value and not head.sharpness.requires_grad
    weights = (value * heat.flatten(1)).softmax(dim=1).view_as(heat)
    expected = slice_cnn.expected_position(weights)
    torch.testing.assert_close(pointed[:, HEAT_CHANNELS:], expected)


def test_one_rate_is_that():
    TRAINED["one rate"].change()
    config = train_stage1.Config(pretrained=True, lr=1e-4)
    assert train_stage1.rates(config) == (1e-4, 1e-4)


def test_holes_may_cover_aneurysms_again():
    settings = train_stage1.augmentation_of(train_stage1.Config(holes=(25, 25), occlude=1.0))
    points = np.array([[44.0, 44.0]])

    def covered():
        found = []
        for seed in range(100):
            generator = np.random.default_rng(seed)
            drawn = augment.draw(settings, generator, 88, 88, False, points=points, margin=1.0)
            x, y = drawn.move(points)[0].round().astype(int).clip(0, 87)
            found.append((drawn.hole_columns[:, x] & drawn.hole_rows[:, y]).any())
        return np.mean(found)

    assert covered() == 0
    SCALE["holes may cover aneurysms"].change()
    assert covered() > 0.05


def test_variants_can_be_chosen_and_a_wrong_name_is_named():
    chosen = ablate.variants_of(ablate.Config(table="scale", only=("sharpness 1", "plain")))
    assert list(chosen) == ["sharpness 1", "plain"] and chosen["plain"] is SCALE["plain"]
    assert ablate.variants_of(ablate.Config(table="trained")) == TRAINED
    with pytest.raises(UserError, match="no 'sharpness 2' in the table scale: plain, "):
        ablate.variants_of(ablate.Config(table="scale", only=("sharpness 2",)))


def test_a_head_off_centre_moves_the_view(tiny):
    spots = read_spot_tables(tiny)
    moved = ablate.moved_heads(spots.meta, 20.0)
    off = (moved.head_x - spots.meta.head_x) * spots.meta.w * spots.meta.column_spacing
    as_stored = spots.meta.orientation == ""  # else columns may be rows
    assert as_stored.any() and np.allclose(off[as_stored], 20.0)
    assert moved.head_y.equals(spots.meta.head_y)


def test_a_run_is_trained_and_judged_on_its_fold(tiny, tmp_path):
    config = ablate.Config(
        tiny.root, tmp_path, crop_size=CROP, epochs=1, batch_size=8, seeds=(1,), workers=1
    )
    job = ("no mirror", 1, 0)
    ablate.run_all(ablate.train_and_judge, config, [job], ablate.output_of, fresh=True)
    for what in ablate.JUDGED:
        table = pd.read_csv(ablate.run_folder(config, *job).predictions(what))
        assert table[[f"{label}_p" for label in LABELS]].to_numpy().min() > 0
        assert table[list(LABELS)].isin([0, 1]).all(axis=None)


def test_the_table_pools_folds_and_compares_seed_by_seed(tmp_path, monkeypatch):
    monkeypatch.setitem(TABLES, "pieces", {ablate.PLAIN: Variant(), "other": Variant()})
    config = ablate.Config(out=tmp_path, seeds=(1, 2))
    generator = np.random.default_rng(0)
    for variant, noise in ((ablate.PLAIN, 0.0), ("other", 5.0)):
        for seed in config.seeds:
            for fold in (0, 1):
                truth = pd.DataFrame(generator.integers(0, 2, (60, 14)), columns=LABELS)
                predicted = truth.to_numpy() + noise * generator.normal(size=(60, 14))
                for what in ablate.JUDGED:
                    path = ablate.run_folder(config, variant, seed, fold).predictions(what)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    ablate.with_probabilities(truth, predicted).to_csv(path, index=False)
    rows = ablate.table(config, range(2)).set_index("variant")
    assert rows.loc["plain", "spots"] == "1.000" and rows.loc["plain", "series difference"] == ""
    assert rows.loc["other", "spots difference"].startswith("-0.")
    assert float(rows.loc["other", "series"]) < 0.8
