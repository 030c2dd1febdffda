"""What becomes of a mask: points, radii, volumes, and whether a scan is positive."""

import numpy as np
import pytest

from src.dicom import open_series
from tests.nifti_files import SHAPE, affine, ball, imported, job, left_out, picture, refused, save
from tools.nifti.job import check_scan

SPACING = (0.5, 0.6, 0.8)
LPS = affine("LPS", SPACING)  # stored as DICOM is: voxel i, j, k is column, row, slice


def record_of(tmp_path, *masks, **known) -> tuple[dict, list[str]]:
    """Return the record of a scan with these masks, and the SOP UIDs of its slices."""
    image = save(tmp_path / "a.nii", picture(), LPS)
    paths = [save(tmp_path / f"m{k}.nii", mask, LPS) for k, mask in enumerate(masks)]
    task = job(tmp_path / "out", image, *paths, **known)
    record = imported(task)
    return record, open_series(task.series).sop_uids


def points_of(record: dict, sop_uids: list[str]) -> list[tuple]:
    """Return (x, y, slice) of each localizer, sorted."""
    found = record["localizers"]
    return sorted((spot["x"], spot["y"], sop_uids.index(spot["sop_uid"])) for spot in found)


def test_each_component_is_a_localizer(tmp_path):
    mask = ball(centre=(5, 6, 3)) + ball(centre=(15, 12, 8), radius=1.5)
    other = ball(centre=(19, 4, 2), radius=1)
    record, sop_uids = record_of(tmp_path, mask, other)
    assert points_of(record, sop_uids) == [(5, 6, 3), (15, 12, 8), (19, 4, 2)]
    assert record["present"] == 1 and record["notes"] == []


@pytest.mark.parametrize("values, count", [((1, 1), 1), ((1, 2), 2), ((300, 7), 2)])
def test_touching_lesions_are_apart_if_their_values_are(values, count, tmp_path):
    mask = np.zeros(SHAPE, np.uint16)
    mask[4:6, 4:6, 4:6] = values[0]
    mask[6:8, 6:8, 6:8] = values[1]  # they share one corner
    record, _ = record_of(tmp_path, mask)
    assert len(record["localizers"]) == count


def test_radius_and_volume_of_a_ball(tmp_path):
    """A ball of 2.4 mm, against what a ball has."""
    places = np.stack(np.indices(SHAPE), -1) * SPACING
    mask = np.linalg.norm(places - [6, 6, 4.8], axis=-1) <= 2.4
    [lesion] = record_of(tmp_path, mask.astype(np.uint8))[0]["localizers"]
    assert abs(lesion["radius_mm"] - 2.4) < 0.4
    assert lesion["volume_mm3"] == pytest.approx(mask.sum() * 0.24, rel=1e-4)
    assert lesion["volume_mm3"] == pytest.approx(4 / 3 * np.pi * 2.4**3, rel=0.1)


def test_one_voxel(tmp_path):
    mask = np.zeros(SHAPE, np.uint8)
    mask[0, SHAPE[1] - 1, SHAPE[2] - 1] = 255
    record, sop_uids = record_of(tmp_path, mask)
    assert points_of(record, sop_uids) == [(0, SHAPE[1] - 1, SHAPE[2] - 1)]
    [lesion] = record["localizers"]
    assert 0.2 < lesion["radius_mm"] < 0.5 and lesion["volume_mm3"] == pytest.approx(0.24)


def test_a_centroid_outside_of_its_lesion(tmp_path):
    """A ring, a hook: the localizer is the voxel of the lesion nearest to the centroid."""
    ring = ball(centre=(10, 9, 5), radius=5) * (1 - ball(centre=(10, 9, 5), radius=3))
    ring[..., :5] = ring[..., 6:] = 0
    record, sop_uids = record_of(tmp_path, ring)
    [(x, y, slice_)] = points_of(record, sop_uids)
    assert ring[int(x), int(y), slice_] == 1 and x == int(x)
    away = (np.argwhere(ring) - [10, 9, 5]) * SPACING
    nearest = np.linalg.norm(away, axis=1).min()
    assert np.linalg.norm((np.array([x, y, slice_]) - [10, 9, 5]) * SPACING) == nearest
    assert record["notes"] == ["1 bent: its centroid is outside of it, its nearest voxel was taken"]


@pytest.mark.parametrize(
    "values, expected",
    [((1, 0), 1), ((0, 0), 0), ((1, 2), 1), ((0, 2), None)],
)
def test_treated_aneurysms_are_neither_positive_nor_negative(values, expected, tmp_path):
    mask = ball(centre=(5, 6, 3), value=values[0]) + ball(centre=(15, 12, 8), value=values[1])
    image = save(tmp_path / "a.nii", picture(), LPS)
    task = job(tmp_path / "out", image, save(tmp_path / "m.nii", mask, LPS), treated=2)
    if expected is None:
        assert left_out(task) == "treated: its aneurysms are all treated"
        assert not task.series.exists() and not task.record.exists()
        return
    record = imported(task)
    assert record["present"] == expected and len(record["localizers"]) == values[0]
    assert bool(record["notes"]) == (values[1] == 2) == len(record["treated"])
    places = [(spot["x"], spot["y"]) for spot in record["treated"] + record["localizers"]]
    assert places == [(15, 12), (5, 6)][2 - len(places) :]


def test_an_untreated_aneurysm_that_touches_a_treated_one(tmp_path):
    mask = np.zeros(SHAPE, np.uint8)
    mask[4:9, 4, 4], mask[9:20, 4, 4] = 1, 2
    image = save(tmp_path / "a.nii", picture(), LPS)
    task = job(tmp_path / "out", image, save(tmp_path / "m.nii", mask, LPS), treated=2)
    [lesion] = imported(task)["localizers"]
    assert (lesion["x"], lesion["y"]) == (6, 4)


@pytest.mark.parametrize("present, masked", [(False, True), (True, False), (None, True)])
def test_what_tables_and_masks_say_must_agree(present, masked, tmp_path):
    image = save(tmp_path / "a.nii", picture(), LPS)
    mask = save(tmp_path / "m.nii", ball() * masked, LPS)
    task = job(tmp_path / "out", image, mask, present=present)
    if present is None:
        assert imported(task)["present"] == 1
    else:
        reasons = {False: "contradiction", True: "empty_mask"}
        assert refused(task).reason == reasons[present]


@pytest.mark.parametrize("code", ["LPS", "RAS", "PIR"])
def test_points_are_voxels_of_the_file(code, tmp_path):
    image = save(tmp_path / "a.nii", picture(), affine(code))
    known = {"points": ((3.25, 4.5, 2, 1.5), (0, 0, 11, None)), "present": True}
    task = job(tmp_path / "out", image, **known)
    record = imported(task)
    series = open_series(task.series)
    for point, spot in zip(known["points"], record["localizers"], strict=True):
        index = series.sop_uids.index(spot["sop_uid"])
        there = np.array(series.patient_point(index, spot["x"], spot["y"]))
        apart = there - (np.diag([-1, -1, 1, 1]) @ affine(code) @ [*point[:3], 1])[:3]
        assert np.abs(apart).max() <= 0.4 + 1e-4 and np.sort(np.abs(apart))[1] < 1e-3
        assert spot["radius_mm"] == point[3] and spot["volume_mm3"] is None


@pytest.mark.parametrize("point", [(24, 0, 0), (0, -0.6, 0), (0, 0, 1e9)])
def test_a_point_outside_of_the_image(point, tmp_path):
    image = save(tmp_path / "a.nii", picture(), LPS)
    task = job(tmp_path / "out", image, points=((*point, None),), present=True)
    assert refused(task).reason == "outside" and check_scan(task).reason == "outside"


def test_a_mask_of_a_part_of_the_grid(tmp_path):
    """3D Slicer cuts exported segments to what they cover."""
    image = save(tmp_path / "a.nii", picture(), LPS)
    begin = LPS @ [6, 7, 3, 1]
    to_ras = LPS.copy()
    to_ras[:3, 3] = begin[:3]
    path = save(tmp_path / "m.nii", ball(centre=(8, 9, 5))[6:11, 7:12, 3:8], to_ras)
    assert refused(job(tmp_path / "out", image, path)).reason == "other_grid"
    task = job(tmp_path / "out", image, path, may_be_part=True)
    record = imported(task)
    assert points_of(record, open_series(task.series).sop_uids) == [(8, 9, 5)]
    save(path, ball(centre=(8, 9, 5))[6:11, 7:12, 3:8], affine("LPS", (0.5, 0.6, 0.7)))
    other = job(tmp_path / "elsewhere", image, path, may_be_part=True)
    assert refused(other).reason == "other_grid"
