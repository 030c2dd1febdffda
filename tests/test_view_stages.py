"""A view and neighbours in millimetres are the same in all stages, of arrays and of DICOM."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import create_folds
import eval_end_to_end
import eval_stage2
import extract_features
import preprocess_data
import train_stage1
from src.artifacts.checkpoints import read_joined, read_trained, write_checkpoint
from src.artifacts.files import read_array, read_json, write_json
from src.artifacts.paths import ArtifactError, RunFolder
from src.artifacts.tables import read_fold, read_folds, write_table
from src.dicom import open_series
from src.inference.ensemble import Predictor
from src.labels import LABELS, NEGATIVE
from src.sampling.augment import crops
from src.sampling.resample import seen_volume
from src.sampling.slices import centre_crop, step_counts
from src.sampling.spot_dataset import SpotDataset, held_out_rows, read_spot_tables, training_rows
from src.sampling.view import require_in_mm, view_of
from src.script import UserError
from tests.conftest import CROP, FOLDS, IMAGE_SIZE
from tests.networks import ENCODER, write_both, write_stage1

CPU = torch.device("cpu")
IN_MM = {"view_mm": 84.0, "step_mm": (10.0, 17.0)}


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """Random networks of all folds with a view and steps in mm."""
    model_dir = tmp_path_factory.mktemp("model")
    for fold in range(FOLDS):
        write_both(tiny, model_dir, fold, seed=fold, cut=7, **IN_MM)
    return model_dir


def counts_of(tiny) -> dict[str, tuple[int, int]]:
    """{uid: slices to the neighbours at either step}, without the code's own function."""
    rows = read_folds(tiny).itertuples()
    steps = {r.SeriesInstanceUID: [mm / r.slice_spacing for mm in IN_MM["step_mm"]] for r in rows}
    return {uid: (round(first), round(second)) for uid, (first, second) in steps.items()}


def test_the_steps_of_the_tiny_set_are_not_the_published_ones(tiny):
    assert {2, 3, 4} == {count for counts in counts_of(tiny).values() for count in counts}
    assert all(counts != (1, 2) for counts in counts_of(tiny).values())


def test_evaluation_and_extraction_see_the_same_bits(tiny, trained):
    """At the first step: neighbours, view, crop, rounding."""
    settings = read_trained(RunFolder(trained, ENCODER, 0), "stage1", "best")["settings"]
    tables = read_spot_tables(tiny)
    rows = held_out_rows(tables.spots, 0)
    dataset = SpotDataset(tables, rows, CROP, 0, augmentation=None, **IN_MM)
    batch = dataset.__getitems__([(0, k) for k in range(len(rows))])
    evaluated = crops(batch, CROP)
    for index, row in enumerate(dataset.rows):
        meta = tables.meta.loc[row["SeriesInstanceUID"]]
        _, volume, triplets = extract_features.read_series(tiny, meta, settings, CPU)
        extracted = volume[triplets[row["f"]]].float()  # the first step comes first
        assert torch.equal(evaluated[index], extracted)
        step = counts_of(tiny)[meta.SeriesInstanceUID][0]
        expected = np.clip(np.array([-step, 0, step]) + row["f"], 0, meta.length - 1)
        assert triplets[row["f"]].tolist() == expected.tolist()
    assert not torch.equal(evaluated, centre_crop(batch["images"].float(), CROP))


def test_training_draws_neighbours_labels_and_points_at_the_same_steps(tiny):
    tables = read_spot_tables(tiny)
    still = replace(train_stage1.augmentation_of(train_stage1.Config()), mirror=0)
    rows = training_rows(tables.spots, 0)
    dataset = SpotDataset(tables, rows, CROP, 1, still, **IN_MM)
    spots, seen = tables.spots[tables.spots.class_id != NEGATIVE], set()
    for epoch in range(3):
        for index in range(len(rows)):
            sample, _, triplet = dataset._describe((epoch, index))
            uid, middle = dataset.rows[index]["SeriesInstanceUID"], int(triplet[1])
            reach = {abs(int(beside) - middle) for beside in triplet[[0, 2]]}
            counts, length = counts_of(tiny)[uid], dataset.rows[index]["length"]
            if counts[1] <= middle < length - counts[1]:  # no end of the series is near
                (step,) = reach
                assert step in counts
                seen.add(counts.index(step))
                near = spots[(spots.SeriesInstanceUID == uid) & ((spots.f - middle).abs() <= step)]
                assert np.isfinite(sample["points"]).all(axis=1).sum() == len(near)
                assert sample["labels"][-1] == (len(near) > 0)
    assert seen == {0, 1}


def test_end_to_end_equals_stage_2(tiny, trained):
    for fold in range(FOLDS):
        extract_features.main(
            extract_features.Config(tiny.root, trained, fold, "cpu", ENCODER, series="held-out")
        )
    eval_stage2.main(eval_stage2.Config(tiny.root, trained, "all", "cpu", ENCODER))
    eval_end_to_end.main(eval_end_to_end.Config(tiny.root, trained, "all", "cpu", ENCODER))
    run = RunFolder(trained, ENCODER, "all")
    from_arrays, from_dicom = (
        pd.read_csv(run.predictions(name)).set_index("SeriesInstanceUID")[list(LABELS)]
        for name in ("stage2", "end_to_end")
    )
    assert len(from_arrays) == 24
    np.testing.assert_allclose(from_dicom.loc[from_arrays.index], from_arrays, atol=1e-4)


def test_the_head_is_where_preprocessing_found_it(tiny, trained):
    predictor = Predictor(trained, ENCODER, (0,), CPU)
    meta = read_folds(tiny).set_index("SeriesInstanceUID")
    assert meta.head_x.notna().any()
    for uid in meta.index[:6]:
        prepared = predictor.prepare(open_series(tiny.series(uid)))
        stored = read_json(tiny.facts(uid))["head"]
        assert (prepared.head and list(prepared.head)) == stored
        if stored:
            np.testing.assert_allclose(meta.loc[uid, ["head_x", "head_y"]].tolist(), stored)


def test_the_mirror_shows_the_same_view_mirrored(tiny, trained):
    uid = read_fold(tiny, 0)[1].query("plane == 'axial'").SeriesInstanceUID.iloc[0]
    model = Predictor(trained, ENCODER, (0,), CPU, mirror=True).models[0]
    predictor = Predictor(trained, ENCODER, (0,), CPU)
    prepared = predictor.prepare(open_series(tiny.series(uid)))
    volume, _ = model._views(prepared)
    plain, _ = predictor.models[0]._views(prepared)
    assert torch.equal(volume, torch.cat([plain, plain.flip(-1)]))


def test_features_of_another_view_are_replaced(tiny, tmp_path, capsys):
    config = extract_features.Config(tiny.root, tmp_path, 0, "cpu", ENCODER)
    run = write_stage1(tiny, tmp_path)
    extract_features.main(config)
    before = read_array(next(iter(sorted(run.features.glob("*.npy")))))
    write_stage1(tiny, tmp_path, view_mm=84.0)  # the same weights
    assert extract_features.main(config) == 24
    assert "they are replaced" in capsys.readouterr().out
    after = read_array(next(iter(sorted(run.features.glob("*.npy")))))
    assert not np.array_equal(before, after)


def test_folds_of_two_views_or_steps_are_refused(tiny, tmp_path):
    write_both(tiny, tmp_path, 0)
    for name, value in IN_MM.items():
        write_both(tiny, tmp_path, 1, **{name: value})
        with pytest.raises(ArtifactError, match=f"{name} .*take those of one training"):
            Predictor(tmp_path, ENCODER, (0, 1), CPU)


def test_a_checkpoint_without_the_settings_is_of_the_published_ones(tiny, tmp_path):
    run = write_both(tiny, tmp_path)  # without the new settings
    for settings in (
        read_trained(run, "stage1", "best")["settings"],
        read_joined(run)["stage1_settings"],
    ):
        assert (settings["view_mm"], settings["step_mm"]) == (0.0, (0.0, 0.0))
    broken = read_trained(run, "stage1", "best") | {"labels": list(LABELS)}
    for name, value in (("view_mm", -1.0), ("view_mm", "a"), ("step_mm", 2.0), ("step_mm", (1.0,))):
        content = broken | {"settings": broken["settings"] | {name: value}}
        write_checkpoint(run.best("stage1"), content)
        with pytest.raises(ArtifactError, match=f"the setting {name} is"):
            read_trained(run, "stage1", "best")


def test_tables_without_heads_are_refused_only_for_a_view(copied, tmp_path):
    table = read_folds(copied).drop(columns=["head_x", "head_y"])
    write_table(copied.folds(FOLDS), table)
    sentence = r"run preprocess_data\.py and create_folds\.py again$"
    tables = read_spot_tables(copied)
    SpotDataset(tables, held_out_rows(tables.spots, 0), CROP, 0, None)
    with pytest.raises(ArtifactError, match=sentence):
        SpotDataset(tables, held_out_rows(tables.spots, 0), CROP, 0, None, view_mm=84.0)
    write_stage1(copied, tmp_path, view_mm=84.0)
    with pytest.raises(ArtifactError, match=sentence):
        extract_features.main(extract_features.Config(copied.root, tmp_path, 0, "cpu", ENCODER))


@pytest.mark.parametrize("place", [-0.1, 1.5, np.inf, "somewhere"])
def test_a_head_outside_the_image_is_refused(copied, place):
    table = read_folds(copied).astype({"head_y": object})
    table.loc[3, "head_y"] = place
    write_table(copied.folds(FOLDS), table)
    with pytest.raises(ArtifactError, match=f"series {table.SeriesInstanceUID[3]}.*head_y"):
        read_folds(copied)


def test_arrays_of_an_older_version_get_their_heads_without_being_made_again(tiny, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(tiny.root, root)
    data = type(tiny)(root)
    uids = read_folds(data).SeriesInstanceUID.tolist()
    expected, stamps = {}, {}
    for uid in uids:
        facts = read_json(data.facts(uid))
        expected[uid] = facts.pop("head")
        write_json(data.facts(uid), facts)
        stamps[uid] = data.sequence(uid).stat().st_mtime_ns
        shutil.rmtree(data.series(uid))  # not even the DICOM is needed
    options = {"image_size": IMAGE_SIZE, "write_slices": False, "workers": 1}
    preprocess_data.main(preprocess_data.Config(data_dir=root, **options))
    create_folds.main(create_folds.Config(data_dir=root, folds=FOLDS))
    for uid in uids:
        assert json.loads(data.facts(uid).read_text())["head"] == expected[uid]
        assert data.sequence(uid).stat().st_mtime_ns == stamps[uid]
    assert read_folds(data).equals(read_folds(tiny))


@pytest.mark.parametrize("view_mm", [30.0, 80.0, 300.0])
def test_each_slice_is_seen_alone_and_its_background_continues(view_mm, monkeypatch):
    images = torch.rand(9, 32, 32, generator=torch.Generator().manual_seed(0)).half() + 1
    view = view_of(np.array([120.0, 90.0]), 32, 24, view_mm, (0.3, 0.6))
    whole = seen_volume(images, view, CPU)
    assert whole.dtype == torch.float16 and whole.shape == (9, 24, 24)
    monkeypatch.setattr("src.sampling.resample.CHUNK", 2 * 32 * 32)
    assert torch.equal(seen_volume(images, view, CPU), whole)
    if view_mm == 300.0:
        torch.testing.assert_close(whole[:, 0, 0], images.amin(dim=(1, 2)), atol=0, rtol=0)


def test_a_published_view_is_the_same_memory():
    images = torch.rand(3, 32, 32).half()
    seen = seen_volume(images, view_of(np.array([120.0, 90.0]), 32, 24), CPU)
    assert seen.data_ptr() == images[0, 4, 4:].data_ptr() and seen.shape == (3, 24, 24)


def test_distances_become_whole_slices():
    assert step_counts((0.0, 0.0), 0.5) == (1, 2)
    assert step_counts((2.0, 4.0), 0.5) == (4, 8)
    assert step_counts((2.0, 4.0), 5.0) == (1, 1)  # never the slice itself
    assert step_counts((1.5, 3.0), None) == step_counts((1.5, 3.0), np.nan) == (2, 3)
    for spacing in (0.6, np.nextafter(0.6, 0), np.nextafter(0.6, 1)):
        assert step_counts((1.5, 3.0), spacing) == (3, 5)


@pytest.mark.parametrize(
    ("view_mm", "step_mm"),
    [(-5, (0, 0)), (5, (0, 0)), (np.nan, (0, 0)), (1e9, (0, 0)), (0, (3, 1)), (0, (0, 2))],
)
def test_impossible_distances_are_refused(view_mm, step_mm):
    with pytest.raises(UserError, match=r"^--(view|step)-mm .*: give "):
        require_in_mm(view_mm, step_mm)
