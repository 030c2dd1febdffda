"""The synthetic data set (tools/make_demo_data.py): files, tables, and nothing but the picture that tells the label."""

import ast
from dataclasses import replace

import numpy as np
import pandas as pd
import pydicom
import pytest

from src.labels import LABELS, LOCATIONS, MODALITIES, PRESENT
from src.script import UserError
from tools.make_demo_data import (
    LOCATION_COUNTS,
    SETTINGS,
    Config,
    deal,
    draw_head,
    main,
    plan_locations,
    render,
    same_patient,
)
from tools.phantom.anatomy import sample_anatomy
from tools.phantom.scan import MODALITY_FRACTIONS, to_stored
from tools.phantom.scan import draw_scan as draw_one_scan

SMALL = dict(series=36, matrix=48, slices=12, seed=3)
KEPT_TAGS = (
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "FrameOfReferenceUID",
    "PatientID",
    "SOPClassUID",
    "Rows",
    "Columns",
    "BitsStored",
    "PixelRepresentation",
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    config = Config(tmp_path_factory.mktemp("demo") / "data", workers=2, **SMALL)
    main(config)
    return config


@pytest.fixture(scope="module")
def shuffled(demo, tmp_path_factory):
    config = replace(
        demo, out=tmp_path_factory.mktemp("shuffled") / "data", workers=1, shuffle_labels=True
    )
    main(config)
    return config


@pytest.fixture(scope="module")
def files(demo):
    """{uid: files of the series} and index of each series in the plan."""
    found = {
        folder.name: [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
        for folder in (demo.out / "series").iterdir()
    }
    numbers = {uid_of(demo, index): index for index in range(demo.series)}
    return found, numbers


def uid_of(config, index):
    return pydicom.uid.generate_uid(
        entropy_srcs=[f"demo {config.seed} {index}", "SeriesInstanceUID"]
    )


def tables(config):
    return pd.read_csv(config.out / "train.csv"), pd.read_csv(config.out / "train_localizers.csv")


def contents(config):
    return {
        path.relative_to(config.out): path.read_bytes()
        for path in (config.out / "series").rglob("*.dcm")
    }


def positions(datasets):
    """{(SOP UID, stored frame): position}, direction along a row, direction down a column."""
    first = datasets[0]
    if "NumberOfFrames" not in first:
        return (
            {(d.SOPInstanceUID, -1): d.ImagePositionPatient for d in datasets},
            first.ImageOrientationPatient,
            first.PixelSpacing,
        )
    shared = first.SharedFunctionalGroupsSequence[0]
    frames = enumerate(first.PerFrameFunctionalGroupsSequence)
    places = {
        (first.SOPInstanceUID, k): frame.PlanePositionSequence[0].ImagePositionPatient
        for k, frame in frames
    }
    return (
        places,
        shared.PlaneOrientationSequence[0].ImageOrientationPatient,
        shared.PixelMeasuresSequence[0].PixelSpacing,
    )


def test_every_file_reads_back_and_lies_where_its_uids_say(demo, files):
    found, _ = files
    train, _ = tables(demo)
    assert set(found) == set(train.SeriesInstanceUID)
    for uid, datasets in found.items():
        for dataset in datasets:
            assert dataset.SeriesInstanceUID == uid
            assert (demo.out / "series" / uid / f"{dataset.SOPInstanceUID}.dcm").exists()
            assert dataset.pixel_array.shape[-2:] == (dataset.Rows, dataset.Columns)
            assert dataset.Modality in ("CT", "MR")
        for tag in KEPT_TAGS:
            assert len({str(dataset[tag].value) for dataset in datasets}) == 1
        places, _, _ = positions(datasets)
        assert len({tuple(place) for place in places.values()}) == len(places) >= 9


def test_tables_have_the_challenge_s_shape(demo):
    train, localizers = tables(demo)
    assert list(train.columns) == [
        "SeriesInstanceUID",
        "PatientAge",
        "PatientSex",
        "Modality",
        *LABELS,
    ]
    assert list(localizers.columns) == [
        "SeriesInstanceUID",
        "SOPInstanceUID",
        "coordinates",
        "location",
    ]
    assert len(train) == demo.series
    assert set(train.Modality) <= set(MODALITIES)
    assert (train[LABELS[PRESENT]] == train[list(LOCATIONS)].max(axis=1)).all()
    listed = {(row.SeriesInstanceUID, row.location) for row in localizers.itertuples()}
    labelled = {
        (row.SeriesInstanceUID, name)
        for _, row in train.iterrows()
        for name in LOCATIONS
        if row[name]
    }
    assert listed == labelled
    for row in localizers.itertuples():
        keys = list(ast.literal_eval(row.coordinates))
        assert keys in (["x", "y"], ["x", "y", "f"])


def test_the_localizers_point_at_aneurysms(demo, files):
    found, numbers = files
    _, localizers = tables(demo)
    kinds = set()
    for row in localizers.itertuples():
        index, datasets = numbers[row.SeriesInstanceUID], found[row.SeriesInstanceUID]
        at, frame = ast.literal_eval(row.coordinates), None
        here = draw_head(demo, index, plan_locations(demo.series, demo.seed)[index])
        healthy = to_stored(render(demo, index, replace(here, aneurysms=[])), here.scan)
        dataset = next(d for d in datasets if d.SOPInstanceUID == row.SOPInstanceUID)
        frame = at["f"] if "f" in at else dataset.InstanceNumber - 1
        picture = dataset.pixel_array if "f" not in at else dataset.pixel_array[frame]
        change = np.abs(picture.astype(float) - healthy[frame])
        y, x = round(at["y"]), round(at["x"])
        near = change[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].max()
        assert (
            near > 0.15 * np.ptp(healthy[frame][healthy[frame] < np.percentile(healthy[frame], 99)])
            or near > 100 * here.scan.gain / here.scan.slope
        )
        kinds.add(
            "reversed"
            if "f" in at and here.scan.order[0]
            else "multi-frame"
            if "f" in at
            else "slices"
        )
    assert "slices" in kinds
    assert "reversed" in kinds


def test_left_is_the_patient_s_left(demo, files):
    found, numbers = files
    _, localizers = tables(demo)
    sides = 0
    for row in localizers.itertuples():
        side = row.location.split()[0]
        if side not in ("Left", "Right"):
            continue
        places, orientation, spacing = positions(found[row.SeriesInstanceUID])
        at = ast.literal_eval(row.coordinates)
        corner = np.array(places[row.SOPInstanceUID, at.get("f", -1)], float)
        along, down = np.array(orientation[:3], float), np.array(orientation[3:], float)
        patient = corner + along * at["x"] * float(spacing[1]) + down * at["y"] * float(spacing[0])
        head = draw_head(demo, numbers[row.SeriesInstanceUID], []).scan.pose.to_head(patient)
        assert (head[0] > 0) == (side == "Left")
        sides += 1
    assert sides > 5


def test_files_do_not_depend_on_workers_nor_on_the_labels_being_shuffled(demo, shuffled):
    assert contents(demo) == contents(shuffled)


def test_the_same_settings_give_the_same_tables(demo, tmp_path):
    again = replace(demo, out=tmp_path / "data")
    main(again)
    for name in ("train.csv", "train_localizers.csv", SETTINGS):
        assert (again.out / name).read_bytes() == (demo.out / name).read_bytes()


def test_shuffled_tables_are_the_same_labels_in_other_places(demo, shuffled):
    (train, localizers), (other, others) = tables(demo), tables(shuffled)
    names = list(LABELS)
    assert sorted(map(tuple, train[names].to_numpy())) == sorted(
        map(tuple, other[names].to_numpy())
    )
    assert (train[names].to_numpy() != other[names].to_numpy()).any()
    assert sorted(localizers.location) == sorted(others.location)
    rows = other.set_index("SeriesInstanceUID")
    for row in others.itertuples():
        assert rows.loc[row.SeriesInstanceUID, row.location] == 1
        path = shuffled.out / "series" / row.SeriesInstanceUID / f"{row.SOPInstanceUID}.dcm"
        at, dataset = (
            ast.literal_eval(row.coordinates),
            pydicom.dcmread(path, stop_before_pixels=True),
        )
        assert ("f" in at) == ("NumberOfFrames" in dataset)
        assert at.get("f", 0) < dataset.get("NumberOfFrames", 1)
        assert -0.5 <= at["x"] <= dataset.Columns
        assert -0.5 <= at["y"] <= dataset.Rows


def test_the_label_changes_the_aneurysm_alone(demo):
    for index in range(6):
        healthy, ill = draw_head(demo, index, []), draw_head(demo, index, [4, 11])
        assert [a.label for a in ill.aneurysms] == [4, 11]
        assert (healthy.age, healthy.sex, healthy.scan.modality) == (
            ill.age,
            ill.sex,
            ill.scan.modality,
        )
        assert healthy.scan.grid.shape == ill.scan.grid.shape
        np.testing.assert_array_equal(healthy.scan.grid.origin, ill.scan.grid.origin)
        np.testing.assert_array_equal(healthy.scan.order, ill.scan.order)
        for one, two in zip(healthy.anatomy.arteries, ill.anatomy.arteries, strict=True):
            np.testing.assert_array_equal(one.points, two.points)


def test_every_place_of_an_aneurysm_lies_inside_every_picture(demo):
    for index in range(40):
        head = draw_head(replace(demo, series=40), index, list(range(PRESENT)))
        centres = np.array([aneurysm.centre for aneurysm in head.aneurysms])
        at = head.scan.grid.to_index(head.scan.pose.to_patient(centres))
        assert (at > 0).all()
        assert (at < np.array(head.scan.grid.shape) - 1).all()


def test_shares_of_locations_are_the_challenge_s():
    plan = plan_locations(4348, 0)
    assert np.mean([len(hand) > 0 for hand in plan]) == pytest.approx(0.429, abs=0.01)
    assert np.mean([len(hand) > 1 for hand in plan if hand]) == pytest.approx(0.157, abs=0.02)
    counts = np.bincount(
        np.concatenate([hand for hand in plan if hand]).astype(int), minlength=PRESENT
    )
    np.testing.assert_allclose(
        counts / counts.sum(), np.array(LOCATION_COUNTS) / sum(LOCATION_COUNTS), atol=0.006
    )
    assert all(len(set(hand)) == len(hand) for hand in plan)


def test_series_of_one_patient_share_its_labels():
    first, plan = same_patient(4348, 0), plan_locations(4348, 0)
    again = np.flatnonzero(first != np.arange(4348))
    assert 0.02 < len(again) / 4348 < 0.04
    assert all(
        plan[index] == plan[first[index]] and first[first[index]] == first[index] for index in again
    )


def test_deal_is_in_proportion_and_whole():
    assert deal(10, (1, 1, 2)).tolist() in ([3, 2, 5], [2, 3, 5])
    assert deal(0, (1, 2)).tolist() == [0, 0]
    assert deal(7, LOCATION_COUNTS).sum() == 7


def test_shares_of_scans_are_the_challenge_s():
    anatomy = sample_anatomy(np.random.default_rng(0))
    scans = [draw_one_scan(np.random.default_rng([5, k]), anatomy, 96, 28) for k in range(1500)]
    modalities = np.array([scan.modality for scan in scans])
    np.testing.assert_allclose(
        [np.mean(modalities == name) for name in MODALITIES], MODALITY_FRACTIONS, atol=0.04
    )
    normals = np.abs([scan.grid.axes[0] for scan in scans]).argmax(1)
    assert 0.95 < np.mean(normals == 2) < 0.98
    assert {0, 1} <= set(normals)
    assert np.mean([scan.multi_frame for scan in scans]) == pytest.approx(0.074, abs=0.02)
    assert {scan.modality for scan in scans if scan.multi_frame} == {"MRA", "MRI T2"}
    ct = [scan for scan in scans if scan.modality == "CTA"]
    assert np.mean([scan.intercept == -1024 for scan in ct]) == pytest.approx(0.75, abs=0.05)
    assert all(scan.signed == (scan.intercept == 0) for scan in ct)
    assert len({scan.grid.shape[1:] for scan in scans}) > 4
    turns = [
        np.degrees(np.arctan2(*(scan.grid.axes[2] @ scan.pose.rotation)[[1, 0]]))
        for scan in scans
        if np.abs(scan.grid.axes[0]).argmax() == 2
    ]
    assert np.abs(turns).max() < 11
    assert np.mean(np.abs(turns) < 8) > 0.98


def test_a_finished_set_is_left_alone_and_a_stranger_s_never_touched(demo, tmp_path, capsys):
    before = contents(demo)
    main(demo)
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(UserError, match="other settings"):
        main(replace(demo, seed=9))
    assert contents(demo) == before
    (tmp_path / "train.csv").write_text("mine")
    with pytest.raises(UserError, match="did not make"):
        main(replace(demo, out=tmp_path))
    assert (tmp_path / "train.csv").read_text() == "mine"


def test_an_interrupted_set_is_made_anew(tmp_path):
    config = Config(tmp_path / "data", series=3, matrix=48, slices=8, workers=1)
    main(config)
    whole = contents(config)
    settings = config.out / SETTINGS
    settings.write_text(settings.read_text().replace("true", "false"))
    next((config.out / "series").rglob("*.dcm")).write_bytes(b"half")
    main(config)
    assert contents(config) == whole
