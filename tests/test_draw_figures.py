"""The README's pictures (tools/draw_figures.py): the right series, the evaluations' numbers."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import eval_stage1
import eval_stage2
import extract_features
import train_stage1
from src.artifacts.files import read_array
from src.artifacts.tables import read_table
from src.labels import LABELS, PRESENT
from src.sampling.slices import neighbours
from src.sampling.spot_dataset import SpotDataset, held_out_rows, read_spot_tables, training_rows
from src.script import UserError
from tests import networks
from tests.conftest import CROP, FOLDS, ROOT
from tools import draw_figures
from tools.figures import sampling, stage1, stage2
from tools.figures.sampling import SEED, Zone

FOLD = 1


def size_of(picture):
    with Image.open(picture) as image:
        image.load()
        return image.size


def settings(module, config, **others):
    return module.Config(config.data_dir, config.model_dir, FOLD, "cpu", networks.ENCODER, **others)


@pytest.fixture(scope="module")
def drawn(tiny, tmp_path_factory):
    """The pictures of random networks on the tiny set: config, run, tables, what was drawn."""
    folder = tmp_path_factory.mktemp("figures")
    run = networks.write_both(tiny, folder / "model", FOLD)
    config = draw_figures.Config(
        tiny.root, folder / "model", FOLD, "cpu", networks.ENCODER, out=folder / "content"
    )
    extract_features.main(settings(extract_features, config, series="held-out"))
    chosen = {}
    with pytest.MonkeyPatch.context() as patch:
        for module in (stage1, sampling, stage2):

            def spy(content, path, module=module, draw=module.draw):
                chosen[module] = content
                draw(content, path)

            patch.setattr(module, "draw", spy)
        pictures = draw_figures.main(config)
    assert [path.name for path in pictures] == ["stage1.png", "sampling.png", "stage2.png"]
    assert sorted(config.out.iterdir()) == sorted(pictures)
    return config, run, read_spot_tables(tiny), chosen


def test_the_pictures_are_1600_pixels_wide_and_those_of_the_readme_load_quickly(drawn):
    for path in drawn[0].out.iterdir():
        width, height = size_of(path)
        assert width == 1600 and 800 < height < 1600
    pictures = sorted((ROOT / "content").glob("*.png"))
    assert {"sampling.png", "stage1.png", "stage2.png"} <= {path.name for path in pictures}
    for path in pictures:
        assert path.stat().st_size < 400_000
        assert size_of(path)[0] == (1240 if path.stem == "page" else 1600)


def test_the_series_are_the_median_ones_of_the_held_out_fold(drawn):
    config, run, tables, chosen = drawn
    eval_stage2.main(settings(eval_stage2, config))
    present = read_table(run.predictions("stage2")).set_index("SeriesInstanceUID")[LABELS[PRESENT]]
    ill = tables.meta[LABELS[PRESENT]][present.index] == 1
    uids = [axis.series.SeriesInstanceUID for axis in chosen[sampling]]
    for uid, group in zip(uids, (present[ill], present[~ill]), strict=True):
        assert (group < present[uid]).sum() == len(group) // 2
    assert chosen[stage1].series.SeriesInstanceUID == uids[0]
    assert chosen[stage2].series.SeriesInstanceUID == uids[0]


def test_stage1_shows_what_eval_stage1_predicts(drawn):
    config, run, tables, chosen = drawn
    spot = chosen[stage1]
    uid = spot.series.SeriesInstanceUID
    eval_stage1.main(settings(eval_stage1, config, workers=0))
    predictions = read_table(run.predictions("stage1")).set_index("SeriesInstanceUID")
    row = predictions.loc[[uid]].iloc[0]
    assert row.slice == spot.slices[1]
    np.testing.assert_allclose(spot.probabilities, row[list(LABELS)].to_numpy(float), atol=1e-5)
    assert spot.truth[PRESENT] == 1 and len(spot.points) >= 1
    assert np.array_equal(spot.images, read_array(tables.data.sequence(uid))[spot.slices])


def test_stage2_shows_what_eval_stage2_predicts(drawn):
    config, run, tables, chosen = drawn
    sequence = chosen[stage2]
    uid = sequence.series.SeriesInstanceUID
    eval_stage2.main(settings(eval_stage2, config))
    predictions = read_table(run.predictions("stage2")).set_index("SeriesInstanceUID")
    predicted = predictions.loc[uid, list(LABELS)].to_numpy(float)
    np.testing.assert_allclose(sequence.probabilities, predicted, atol=1e-5)
    logits = read_array(run.logit(uid))[1].astype(np.float64)  # step 2, as networks.write_both says
    np.testing.assert_allclose(sequence.stage1, 1 / (1 + np.exp(-logits)), atol=1e-6)
    assert np.array_equal(sequence.features, read_array(run.feature(uid))[1])
    spots = tables.spots[tables.spots.SeriesInstanceUID == uid]
    assert sequence.aneurysms.tolist() == sorted(set(spots.f[spots.f >= 0]))
    assert sequence.truth.tolist() == tables.meta.loc[uid, list(LABELS)].tolist()


def expected_zone(slice_, spots, safe, hard):
    if slice_ in safe:
        return Zone.HARD if slice_ in hard else Zone.SAFE
    nearest = min((abs(slice_ - spot) for spot in spots), default=99)
    if nearest == 0:
        return Zone.ANEURYSM
    return Zone.WINDOW if nearest <= 2 else Zone.MARGIN


def test_zones_are_those_of_the_tables(drawn):
    tables = drawn[2]
    hard = {}  # some of them not safe
    for uid in tables.meta.index[::2]:
        hard[uid] = np.arange(0, tables.meta.length[uid], 3)
    tables = replace(tables, hard=hard)
    located = tables.spots[tables.spots.class_id != PRESENT]
    seen = set()
    for uid in tables.meta.index:
        spots = located.f[located.SeriesInstanceUID == uid].tolist()
        safe = tables.safe.get(uid, ())
        slices = range(tables.meta.length[uid])
        expected = [expected_zone(slice_, spots, safe, hard.get(uid, ())) for slice_ in slices]
        assert sampling.zones_of(tables, uid).tolist() == expected
        seen |= set(expected)
    assert seen == set(Zone)


def test_samples_are_drawn_where_the_zones_say(drawn):
    tables = drawn[2]
    tables = replace(tables, hard={uid: safe[:2] for uid, safe in tables.safe.items()})
    from_hard = []
    for uid in tables.meta.index:
        zones, samples = sampling.zones_of(tables, uid), sampling.drawn_samples(tables, uid)
        spots = tables.spots[tables.spots.SeriesInstanceUID == uid]
        scored, training = samples[samples.name == "scored"], samples[samples.name != "scored"]
        assert scored.slice.tolist() == held_out_rows(spots, spots.fold.iloc[0]).f.tolist()
        assert len(training) % (len(spots) + (spots.class_id != PRESENT).sum()) == 0
        assert set(training.step) <= {1, 2}
        assert np.isin(zones[training.slice[training.positive]], [Zone.ANEURYSM, Zone.WINDOW]).all()
        negatives = zones[training.slice[~training.positive]]
        assert np.isin(negatives, [Zone.SAFE, Zone.HARD]).all()
        from_hard += [zone == Zone.HARD for zone in negatives]
    assert 0.45 < np.mean(from_hard) < 0.8  # half of them, and by chance some of the others


def test_samples_are_those_that_training_draws(drawn):
    tables = drawn[2]
    augmentation = train_stage1.augmentation_of(train_stage1.Config())
    ill = drawn[3][sampling][0].series.SeriesInstanceUID
    for uid in (ill, tables.spots.SeriesInstanceUID.iloc[-1]):
        rows = training_rows(tables.spots, (tables.meta.fold[uid] + 1) % FOLDS)
        dataset = SpotDataset(tables, rows, CROP, SEED, augmentation)
        expected = []
        for epoch, index in product(range(2), rows.index[rows.SeriesInstanceUID == uid]):
            *_, triplet = dataset._describe((epoch, index))  # in either order
            expected.append(sorted(triplet.tolist()))
        samples, length = sampling.drawn_samples(tables, uid), tables.meta.length[uid]
        found = neighbours(samples.slice, samples.step, length).tolist()
        assert found[: len(expected)] == expected


def test_pictured_slices_include_the_aneurysms():
    zones = np.full(100, Zone.SAFE)
    zones[[3, 61]] = Zone.ANEURYSM
    assert sampling.pictured(zones).tolist() == [3, 15, 25, 35, 45, 55, 61, 75, 85, 95]
    assert sampling.pictured(zones[:4]).tolist() == [0, 1, 2, 3]


def test_channels_are_ordered_by_where_they_peak():
    peaks = np.random.default_rng(0).permutation(20)
    bumps = np.exp(-(((np.arange(20)[:, None] - peaks) / 2.0) ** 2)) * 7 + 3  # (T, C)
    flat = np.ones((20, 1))
    shown = stage2.ordered_channels(np.concatenate([bumps, flat], axis=1).astype(np.float32))
    assert shown.shape == (20, 20)  # without the flat one
    assert shown.argmax(axis=0).tolist() == list(range(20))
    np.testing.assert_allclose(shown.mean(axis=0), 0, atol=1e-5)


def test_a_network_without_heatmap_and_a_long_series_can_be_drawn(drawn, tmp_path):
    chosen = drawn[3]
    stage1.draw(replace(chosen[stage1], heat=None), tmp_path / "stage1.png")
    axis = chosen[sampling][0]
    sampling.draw([replace(axis, zones=np.resize(axis.zones, 200))], tmp_path / "sampling.png")
    assert size_of(tmp_path / "stage1.png")[0] == size_of(tmp_path / "sampling.png")[0] == 1600


def test_series_that_cannot_be_shown_are_refused_in_a_sentence(drawn):
    config, _, tables, chosen = drawn
    healthy = chosen[sampling][1].series.SeriesInstanceUID
    located = tables.spots[tables.spots.class_id != PRESENT]
    elsewhere = located.SeriesInstanceUID[located.fold == 2].iloc[0]
    reasons = {
        "1.2.3": "no such series",
        healthy: "no localizer points",
        elsewhere: "take --fold 2",
    }
    for uid, reason in reasons.items():
        with pytest.raises(UserError, match=reason) as refused:
            draw_figures.main(replace(config, series=uid))
        assert "\n" not in str(refused.value)


def test_a_fold_without_a_located_aneurysm_is_refused(drawn):
    tables = replace(drawn[2], spots=drawn[2].spots[:0])
    with pytest.raises(UserError, match="choose another --fold"):
        draw_figures.median_positive(tables, pd.Series({"1.2": 0.5}))


def test_hard_slices_decide_which_negative_is_shown(drawn):
    tables = drawn[2]
    healthy = tables.meta.index[tables.meta[LABELS[PRESENT]] == 0][:3]
    present = pd.Series([0.1, 0.2, 0.3], healthy)
    assert draw_figures.median_negative(tables, present) == [healthy[1]]
    with_hard = replace(tables, hard={healthy[0]: np.array([1])})
    assert draw_figures.median_negative(with_hard, present) == [healthy[0]]
    assert draw_figures.median_negative(tables, present[:0]) == []
