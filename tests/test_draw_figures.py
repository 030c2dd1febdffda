"""The README's pictures (tools/draw_figures.py): made from a run, of the right series, with the numbers that the evaluations give."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import eval_stage1
import eval_stage2
import extract_features
from src.artifacts.files import read_array
from src.artifacts.tables import read_table
from src.labels import LABELS, PRESENT
from src.sampling.augment import Augmentation
from src.sampling.slices import neighbours
from src.sampling.spot_dataset import SpotDataset, held_out_rows, read_spot_tables, training_rows
from src.script import UserError
from tests import networks
from tests.conftest import CROP, FOLDS, ROOT
from tools import draw_figures
from tools.draw_figures import Config
from tools.figures import sampling as figure_sampling
from tools.figures import stage1 as figure_stage1
from tools.figures import stage2 as figure_stage2
from tools.figures.sampling import SEED, Zone

FOLD = 1


def size_of(picture):
    with Image.open(picture) as image:
        image.load()
        return image.size


def read_predictions(path, uid):
    return read_table(path).set_index("SeriesInstanceUID").loc[[uid]]


@pytest.fixture(scope="module")
def drawn(tiny, tmp_path_factory):
    """The pictures of random networks on the tiny set; config, run, tables and the two series that were chosen."""
    folder = tmp_path_factory.mktemp("figures")
    run = networks.write_both(tiny, folder / "model", FOLD)
    extract_features.main(
        extract_features.Config(
            tiny.root, folder / "model", FOLD, "cpu", networks.ENCODER, series="held-out"
        )
    )
    config = Config(
        tiny.root, folder / "model", FOLD, "cpu", networks.ENCODER, out=folder / "content"
    )
    chosen = {}
    with pytest.MonkeyPatch.context() as patch:
        for module in (figure_stage1, figure_sampling, figure_stage2):
            patch.setattr(
                module,
                "draw",
                lambda what, path, module=module, draw=module.draw: (
                    chosen.update({module: what}),
                    draw(what, path),
                ),
            )
        pictures = draw_figures.main(config)
    return config, run, read_spot_tables(tiny), chosen, pictures


def test_three_pictures_of_the_expected_width(drawn):
    config, *_, pictures = drawn
    assert [path.name for path in pictures] == ["stage1.png", "sampling.png", "stage2.png"]
    assert sorted(config.out.iterdir()) == sorted(pictures)
    assert all(size_of(path)[0] == 1600 and 800 < size_of(path)[1] < 1600 for path in pictures)


def test_the_pictures_of_the_readme_are_small_enough_to_load():
    pictures = sorted((ROOT / "content").glob("*.png"))
    assert {"sampling.png", "stage1.png", "stage2.png"} <= {path.name for path in pictures}
    assert all(
        path.stat().st_size < 400_000
        and size_of(path)[0] == (1240 if path.stem == "page" else 1600)
        for path in pictures
    )


def test_the_series_are_the_median_ones_of_the_held_out_fold(drawn):
    config, run, tables, chosen, _ = drawn
    eval_stage2.main(
        eval_stage2.Config(config.data_dir, config.model_dir, FOLD, "cpu", networks.ENCODER)
    )
    present = read_table(run.predictions("stage2")).set_index("SeriesInstanceUID")[LABELS[PRESENT]]
    positive = [uid for uid in present.index if tables.meta[LABELS[PRESENT]][uid]]
    uids = [axis.series.SeriesInstanceUID for axis in chosen[figure_sampling]]
    for uid, those in zip(
        uids, (positive, [uid for uid in present.index if uid not in positive]), strict=True
    ):
        assert (present[those] < present[uid]).sum() == len(those) // 2
    assert (
        chosen[figure_stage1].series.SeriesInstanceUID
        == chosen[figure_stage2].series.SeriesInstanceUID
        == uids[0]
    )


def test_stage1_shows_what_eval_stage1_predicts(drawn):
    config, run, tables, chosen, _ = drawn
    spot = chosen[figure_stage1]
    eval_stage1.main(
        eval_stage1.Config(
            config.data_dir, config.model_dir, FOLD, "cpu", networks.ENCODER, workers=0
        )
    )
    row = read_predictions(run.predictions("stage1"), spot.series.SeriesInstanceUID).iloc[0]
    assert row.slice == spot.slices[1]
    np.testing.assert_allclose(spot.probabilities, row[list(LABELS)].to_numpy(float), atol=1e-5)
    assert spot.truth[PRESENT] == 1 and len(spot.points) >= 1
    volume = read_array(tables.data.sequence(spot.series.SeriesInstanceUID))
    assert np.array_equal(spot.images, volume[spot.slices])


def test_stage2_shows_what_eval_stage2_predicts(drawn):
    config, run, tables, chosen, _ = drawn
    sequence = chosen[figure_stage2]
    uid = sequence.series.SeriesInstanceUID
    eval_stage2.main(
        eval_stage2.Config(config.data_dir, config.model_dir, FOLD, "cpu", networks.ENCODER)
    )
    predicted = read_predictions(run.predictions("stage2"), uid)[list(LABELS)].to_numpy(float)[0]
    np.testing.assert_allclose(sequence.probabilities, predicted, atol=1e-5)
    logits = read_array(run.logit(uid))[1].astype(np.float64)  # step 2, as networks.write_both says
    np.testing.assert_allclose(sequence.stage1, 1 / (1 + np.exp(-logits)), atol=1e-6)
    assert np.array_equal(sequence.features, read_array(run.feature(uid))[1])
    assert sequence.aneurysms.tolist() == sorted(
        set(tables.spots.f[(tables.spots.SeriesInstanceUID == uid) & (tables.spots.f >= 0)])
    )
    assert sequence.truth.tolist() == tables.meta.loc[uid, list(LABELS)].tolist()


def test_zones_are_those_of_the_tables(drawn):
    tables = drawn[2]
    hard = {
        uid: np.arange(0, tables.meta.length[uid], 3) for uid in tables.meta.index[::2]
    }  # some of them not safe
    tables = replace(tables, hard=hard)
    seen = set()
    for uid in tables.meta.index:
        zones = figure_sampling.zones_of(tables, uid)
        assert len(zones) == tables.meta.length[uid]
        spots = tables.spots[
            (tables.spots.SeriesInstanceUID == uid) & (tables.spots.class_id != PRESENT)
        ].f.tolist()
        for slice_, zone in enumerate(zones):
            nearest = min((abs(slice_ - f) for f in spots), default=99)
            is_safe = slice_ in tables.safe.get(uid, ())
            is_hard = is_safe and slice_ in hard.get(uid, ())
            expected = (
                Zone.HARD
                if is_hard
                else Zone.SAFE
                if is_safe
                else Zone.ANEURYSM
                if nearest == 0
                else Zone.WINDOW
                if nearest <= 2
                else Zone.MARGIN
            )
            assert zone == expected
            seen.add(expected)
    assert seen == set(Zone)


def test_samples_are_drawn_where_the_zones_say(drawn):
    tables = drawn[2]
    hard = {uid: safe[:2] for uid, safe in tables.safe.items()}
    tables = replace(tables, hard=hard)
    from_hard = []
    for uid in tables.meta.index:
        zones, samples = (
            figure_sampling.zones_of(tables, uid),
            figure_sampling.drawn_samples(tables, uid),
        )
        spots = tables.spots[tables.spots.SeriesInstanceUID == uid]
        scored, training = samples[samples.name == "scored"], samples[samples.name != "scored"]
        assert scored.slice.tolist() == held_out_rows(spots, spots.fold.iloc[0]).f.tolist()
        assert len(training) % (len(spots) + (spots.class_id != PRESENT).sum()) == 0 and set(
            training.step
        ) <= {1, 2}
        assert np.isin(zones[training.slice[training.positive]], [Zone.ANEURYSM, Zone.WINDOW]).all()
        negatives = zones[training.slice[~training.positive]]
        assert np.isin(negatives, [Zone.SAFE, Zone.HARD]).all()
        from_hard += [zone == Zone.HARD for zone in negatives]
    assert 0.45 < np.mean(from_hard) < 0.8  # half of them, and by chance some of the others


def test_samples_are_those_that_training_draws(drawn):
    tables = drawn[2]
    for uid in (
        drawn[3][figure_sampling][0].series.SeriesInstanceUID,
        tables.spots.SeriesInstanceUID.iloc[-1],
    ):
        rows = training_rows(tables.spots, (tables.meta.fold[uid] + 1) % FOLDS)
        dataset = SpotDataset(tables, rows, CROP, SEED, Augmentation(quarter_turns=False))
        expected = []
        for epoch, index in product(range(2), rows.index[rows.SeriesInstanceUID == uid]):
            *_, triplet = dataset._describe((epoch, index))  # in either order
            expected.append(sorted(triplet.tolist()))
        samples, length = figure_sampling.drawn_samples(tables, uid), tables.meta.length[uid]
        assert [neighbours(s.slice, s.step, length).tolist() for s in samples.itertuples()][
            : len(expected)
        ] == expected


def test_pictured_slices_include_the_aneurysms():
    zones = np.full(100, Zone.SAFE)
    zones[[3, 61]] = Zone.ANEURYSM
    assert figure_sampling.pictured(zones).tolist() == [3, 15, 25, 35, 45, 55, 61, 75, 85, 95]
    assert figure_sampling.pictured(zones[:4]).tolist() == [0, 1, 2, 3]


def test_channels_are_ordered_by_where_they_peak():
    peaks = np.random.default_rng(0).permutation(20)
    bumps = np.exp(-(((np.arange(20)[:, None] - peaks) / 2.0) ** 2)) * 7 + 3  # (T, C)
    shown = figure_stage2.ordered_channels(
        np.concatenate([bumps, np.ones((20, 1))], axis=1).astype(np.float32)
    )
    assert shown.shape == (20, 20)  # without the one that says nothing
    assert shown.argmax(axis=0).tolist() == list(range(20))
    np.testing.assert_allclose(shown.mean(axis=0), 0, atol=1e-5)


def test_a_network_without_heatmap_and_a_long_series_can_be_drawn(drawn, tmp_path):
    chosen = drawn[3]
    figure_stage1.draw(replace(chosen[figure_stage1], heat=None), tmp_path / "stage1.png")
    axis = chosen[figure_sampling][0]
    figure_sampling.draw(
        [replace(axis, zones=np.resize(axis.zones, 200))], tmp_path / "sampling.png"
    )
    assert size_of(tmp_path / "stage1.png")[0] == size_of(tmp_path / "sampling.png")[0] == 1600


def test_series_that_cannot_be_shown_are_refused_in_a_sentence(drawn):
    config, _, tables, chosen, _ = drawn
    healthy = chosen[figure_sampling][1].series.SeriesInstanceUID
    elsewhere = tables.spots.SeriesInstanceUID[
        (tables.spots.class_id != PRESENT) & (tables.spots.fold == 2)
    ].iloc[0]
    for uid, reason in (
        ("1.2.3", "no such series"),
        (healthy, "no localizer points"),
        (elsewhere, "take --fold 2"),
    ):
        with pytest.raises(UserError, match=reason) as refused:
            draw_figures.main(replace(config, series=uid))
        assert "\n" not in str(refused.value)


def test_a_fold_without_a_located_aneurysm_is_refused(drawn):
    tables = drawn[2]
    with pytest.raises(UserError, match="choose another --fold"):
        draw_figures.median_positive(
            replace(tables, spots=tables.spots[:0]), pd.Series({"1.2": 0.5})
        )


def test_hard_slices_decide_which_negative_is_shown(drawn):
    tables = drawn[2]
    healthy = tables.meta.index[tables.meta[LABELS[PRESENT]] == 0][:3]
    present = pd.Series([0.1, 0.2, 0.3], healthy)
    assert draw_figures.median_negative(tables, present) == [healthy[1]]
    assert draw_figures.median_negative(
        replace(tables, hard={healthy[0]: np.array([1])}), present
    ) == [healthy[0]]
    assert draw_figures.median_negative(tables, present[:0]) == []
