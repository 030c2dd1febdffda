"""The synthetic data set (tools/make_demo_data.py): files, tables, and no trace of the label."""

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
KEPT_TAGS = "SeriesInstanceUID StudyInstanceUID FrameOfReferenceUID PatientID SOPClassUID".split()
KEPT_TAGS += "Rows Columns BitsStored PixelRepresentation".split()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    config = Config(tmp_path_factory.mktemp("demo") / "data", workers=2, **SMALL)
    main(config)
    return config


@pytest.fixture(scope="module")
def shuffled(demo, tmp_path_factory):
    out = tmp_path_factory.mktemp("shuffled") / "data"
    config = replace(demo, out=out, workers=1, shuffle_labels=True)
    main(config)
    return config


@pytest.fixture(scope="module")
def files(demo):
    """{uid: files of the series} and index of each series in the plan."""
    found = {}
    for folder in (demo.out / "series").iterdir():
        found[folder.name] = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    numbers = {uid_of(demo, index): index for index in range(demo.series)}
    return found, numbers


def uid_of(config, index):
    entropy = [f"demo {config.seed} {index}", "SeriesInstanceUID"]
    return pydicom.uid.generate_uid(entropy_srcs=entropy)


def tables(config):
    return pd.read_csv(config.out / "train.csv"), pd.read_csv(config.out / "train_localizers.csv")


def contents(config):
    paths = (config.out / "series").rglob("*.dcm")
    return {path.relative_to(config.out): path.read_bytes() for path in paths}


def positions(datasets):
    """{(SOP UID, stored frame): position}, directions along a row and a column, spacing."""
    first = datasets[0]
    places = {}
    if "NumberOfFrames" not in first:
        for dataset in datasets:
            places[dataset.SOPInstanceUID, -1] = dataset.ImagePositionPatient
        return places, first.ImageOrientationPatient, first.PixelSpacing
    for k, frame in enumerate(first.PerFrameFunctionalGroupsSequence):
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        places[first.SOPInstanceUID, k] = place
    shared = first.SharedFunctionalGroupsSequence[0]
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    return places, orientation, shared.PixelMeasuresSequence[0].PixelSpacing


def test_every_file_reads_back_from_where_its_uids_say(demo, files):
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
    about = ["SeriesInstanceUID", "PatientAge", "PatientSex", "Modality"]
    assert list(train.columns) == [*about, *LABELS]
    point = ["SeriesInstanceUID", "SOPInstanceUID", "coordinates", "location"]
    assert list(localizers.columns) == point
    assert len(train) == demo.series
    assert set(train.Modality) <= set(MODALITIES)
    assert (train[LABELS[PRESENT]] == train[list(LOCATIONS)].max(axis=1)).all()
    listed = {(row.SeriesInstanceUID, row.location) for row in localizers.itertuples()}
    labelled = set()
    for name in LOCATIONS:
        labelled |= {(uid, name) for uid in train.SeriesInstanceUID[train[name] == 1]}
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
        at = ast.literal_eval(row.coordinates)
        head = draw_head(demo, index, plan_locations(demo.series, demo.seed)[index])
        healthy = to_stored(render(demo, index, replace(head, aneurysms=[])), head.scan)
        dataset = next(d for d in datasets if d.SOPInstanceUID == row.SOPInstanceUID)
        if "f" in at:
            frame, picture = at["f"], dataset.pixel_array[at["f"]]
            kinds.add("reversed" if head.scan.order[0] else "multi-frame")
        else:
            frame, picture = dataset.InstanceNumber - 1, dataset.pixel_array
            kinds.add("slices")
        before = healthy[frame]
        change = np.abs(picture.astype(float) - before)
        y, x = round(at["y"]), round(at["x"])
        near = change[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].max()
        contrast = np.ptp(before[before < np.percentile(before, 99)])
        assert near > 0.15 * contrast or near > 100 * head.scan.gain / head.scan.slope
    assert {"slices", "reversed"} <= kinds


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
    first, again = (replace(demo, out=tmp_path / name, series=8) for name in ("one", "two"))
    main(first), main(again)
    assert len((first.out / "train_localizers.csv").read_text().splitlines()) > 2
    for name in ("train.csv", "train_localizers.csv", SETTINGS):
        assert (again.out / name).read_bytes() == (first.out / name).read_bytes()


def test_shuffled_tables_are_the_same_labels_in_other_places(demo, shuffled):
    (train, localizers), (other, others) = tables(demo), tables(shuffled)
    names = list(LABELS)
    ours, theirs = train[names].to_numpy(), other[names].to_numpy()
    assert sorted(map(tuple, ours)) == sorted(map(tuple, theirs))
    assert (ours != theirs).any()
    assert sorted(localizers.location) == sorted(others.location)
    rows = other.set_index("SeriesInstanceUID")
    for row in others.itertuples():
        assert rows.loc[row.SeriesInstanceUID, row.location] == 1
        path = shuffled.out / "series" / row.SeriesInstanceUID / f"{row.SOPInstanceUID}.dcm"
        at = ast.literal_eval(row.coordinates)
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        assert ("f" in at) == ("NumberOfFrames" in dataset)
        assert at.get("f", 0) < dataset.get("NumberOfFrames", 1)
        assert -0.5 <= at["x"] <= dataset.Columns
        assert -0.5 <= at["y"] <= dataset.Rows


def test_the_label_changes_the_aneurysm_alone(demo):
    for index in range(6):
        healthy, ill = draw_head(demo, index, []), draw_head(demo, index, [4, 11])
        assert [a.label for a in ill.aneurysms] == [4, 11]
        assert (healthy.age, healthy.sex) == (ill.age, ill.sex)
        assert healthy.scan.modality == ill.scan.modality
        assert healthy.scan.grid.shape == ill.scan.grid.shape
        np.testing.assert_array_equal(healthy.scan.grid.origin, ill.scan.grid.origin)
        np.testing.assert_array_equal(healthy.scan.order, ill.scan.order)
        for one, two in zip(healthy.anatomy.arteries, ill.anatomy.arteries, strict=True):
            np.testing.assert_array_equal(one.points, two.points)


def test_every_place_of_an_aneurysm_is_inside_every_picture(demo):
    for index in range(40):
        head = draw_head(replace(demo, series=40), index, list(range(PRESENT)))
        centres = np.array([aneurysm.centre for aneurysm in head.aneurysms])
        at = head.scan.grid.to_index(head.scan.pose.to_patient(centres))
        assert (at > 0).all()
        assert (at < np.array(head.scan.grid.shape) - 1).all()


def test_fractions_of_locations_are_the_challenge_s():
    plan = plan_locations(4348, 0)
    assert np.mean([len(hand) > 0 for hand in plan]) == pytest.approx(0.429, abs=0.01)
    assert np.mean([len(hand) > 1 for hand in plan if hand]) == pytest.approx(0.157, abs=0.02)
    counts = np.bincount(np.concatenate(plan).astype(int), minlength=PRESENT)
    expected = np.array(LOCATION_COUNTS) / sum(LOCATION_COUNTS)
    np.testing.assert_allclose(counts / counts.sum(), expected, atol=0.006)
    assert all(len(set(hand)) == len(hand) for hand in plan)


def test_series_of_one_patient_share_its_labels():
    first, plan = same_patient(4348, 0), plan_locations(4348, 0)
    again = np.flatnonzero(first != np.arange(4348))
    assert 0.02 < len(again) / 4348 < 0.04
    assert all(plan[index] == plan[first[index]] for index in again)
    assert (first[first[again]] == first[again]).all()


def test_deal_is_in_proportion_and_whole():
    assert deal(10, (1, 1, 2)).tolist() in ([3, 2, 5], [2, 3, 5])
    assert deal(0, (1, 2)).tolist() == [0, 0]
    assert deal(7, LOCATION_COUNTS).sum() == 7


def test_fractions_of_scans_are_the_challenge_s():
    anatomy = sample_anatomy(np.random.default_rng(0))
    scans = [draw_one_scan(np.random.default_rng([5, k]), anatomy, 96, 28) for k in range(1500)]
    modalities = np.array([scan.modality for scan in scans])
    found = [np.mean(modalities == name) for name in MODALITIES]
    np.testing.assert_allclose(found, MODALITY_FRACTIONS, atol=0.04)
    normals = np.abs([scan.grid.axes[0] for scan in scans]).argmax(1)
    assert 0.95 < np.mean(normals == 2) < 0.98
    assert {0, 1} <= set(normals)
    assert np.mean([scan.multi_frame for scan in scans]) == pytest.approx(0.074, abs=0.02)
    assert {scan.modality for scan in scans if scan.multi_frame} == {"MRA", "MRI T2"}
    ct = [scan for scan in scans if scan.modality == "CTA"]
    assert np.mean([scan.intercept == -1024 for scan in ct]) == pytest.approx(0.75, abs=0.05)
    assert all(scan.signed == (scan.intercept == 0) for scan in ct)
    assert len({scan.grid.shape[1:] for scan in scans}) > 4
    turns = []
    for scan in scans:
        if np.abs(scan.grid.axes[0]).argmax() == 2:
            x, y, _ = scan.grid.axes[2] @ scan.pose.rotation
            turns.append(np.degrees(np.arctan2(y, x)))
    assert np.abs(turns).max() < 11
    assert np.mean(np.abs(turns) < 8) > 0.98


def test_a_finished_set_is_left_alone_and_other_files_are_never_touched(demo, tmp_path, capsys):
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


def test_an_interrupted_set_is_made_again(tmp_path):
    config = Config(tmp_path / "data", series=3, matrix=48, slices=8, workers=1)
    main(config)
    whole = contents(config)
    settings = config.out / SETTINGS
    settings.write_text(settings.read_text().replace("true", "false"))
    next((config.out / "series").rglob("*.dcm")).write_bytes(b"half")
    main(config)
    assert contents(config) == whole
