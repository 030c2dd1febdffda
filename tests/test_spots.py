import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import create_folds
from create_folds import Config, label_slices
from src.artifacts.files import read_pickle
from src.artifacts.tables import read_folds, read_meta, read_spots
from src.labels import LABELS, LOCATIONS, NOTHING, PRESENT
from src.sampling.spots import (
    DRAWN,
    locate,
    locate_all,
    negative_slice,
    parse_coordinates,
    safe_slices,
    slice_labels,
    spot_table,
)
from tests.conftest import FOLDS

CONFIG = Config()


def test_coordinates_are_read_as_data():
    assert parse_coordinates("{'x': 258.3, 'y': 261.4}") == (258.3, 261.4, None)
    assert parse_coordinates("{'f': 12, 'x': 1, 'y': 2.5}") == (1.0, 2.5, 12)
    assert parse_coordinates("\n {'f': 0, 'x': -1e-3, 'y': 0}\n") == (-0.001, 0.0, 0)
    assert parse_coordinates("{'x': 1, 'y': 2}".ljust(200)) == (1.0, 2.0, None)
    kinds = [type(value) for value in parse_coordinates("{'x': 1, 'y': 2, 'f': 3.0}")]
    assert kinds == [float, float, int]


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').mkdir('trace')",
        "{'x': 1}",
        "",
        "{'x': nan, 'y': 1}",
        "[1, 2]",
        "{'x': 1e999, 'y': 1}",
        "{" * 99,
        "{'x': 1, 'y': 2}".ljust(201),
        7.0,
    ]
    + [
        f"{{'x': 1, 'y': 2, 'f': {frame}}}"
        for frame in ("1.5", "[1]", "1e999", "True", "'3'", "1e999 - 1e999")
    ],
)
def test_coordinates_that_are_no_data_are_refused_and_not_executed(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="coordinates"):
        parse_coordinates(text)
    assert list(tmp_path.iterdir()) == []


@given(st.integers(1, 300), st.lists(st.integers(0, 299), max_size=3))
def test_safe_slices_equal_the_slow_definition(length, aneurysms):
    aneurysms = [f for f in aneurysms if f < length]
    margin = max(5, 0.05 * length)
    expected = [i for i in range(length) if all(abs(i - f) > margin for f in aneurysms)]
    assert safe_slices(length, aneurysms, 5, 0.05).tolist() == expected


def test_safe_slices_reach_both_ends():
    assert safe_slices(20, [10], 5, 0.05).tolist() == [0, 1, 2, 3, 4, 16, 17, 18, 19]
    assert safe_slices(200, [100], 5, 0.05)[[0, -1]].tolist() == [0, 199]
    assert 89 in safe_slices(200, [100], 5, 0.05)
    assert 90 not in safe_slices(200, [100], 5, 0.05)


def test_slice_labels_at_both_ends():
    labels = slice_labels(
        5, [{"f": 0, "class_id": 3}, {"f": 4, "class_id": 11}, {"f": 4, "class_id": 12}]
    )
    assert labels.shape == (5, 14)
    assert np.argwhere(labels).tolist() == [[0, 3], [0, PRESENT], [4, 11], [4, 12], [4, PRESENT]]


def example(frames=None, orientation=""):
    """One series of 10 slices, 40 rows, 60 columns."""
    uid = "1.2"
    labels = dict.fromkeys(LABELS, 0) | {LABELS[PRESENT]: 1, LOCATIONS[6]: 1}
    meta = pd.DataFrame(
        [
            {
                "SeriesInstanceUID": uid,
                "length": 10,
                "h": 40,
                "w": 60,
                "mod": "MR",
                "fold": 0,
                "orientation": orientation,
                **labels,
            }
        ]
    )
    meta = meta.set_index("SeriesInstanceUID", drop=False).rename_axis(None)
    uids = {uid: [f"1.2.{k}" for k in range(10)] if frames is None else ["1.2.0"] * 10}
    geometry = {
        uid: {
            "positions": np.arange(10.0),
            "frames": np.full(10, -1) if frames is None else np.array(frames),
        }
    }
    return meta, uids, geometry


def row(coordinates="{'x': 30, 'y': 10}", sop="1.2.4", uid="1.2", location=LOCATIONS[6]):
    return pd.Series(
        {
            "SeriesInstanceUID": uid,
            "SOPInstanceUID": sop,
            "coordinates": coordinates,
            "location": location,
        }
    )


def test_a_spot_lies_on_its_slice_and_in_the_prepared_image():
    spot = locate(row(), *example())
    assert (spot["f"], spot["class_id"], spot["x"], spot["y"]) == (4, 6, 30, 10)
    assert (spot["x_512"], spot["y_512"]) == pytest.approx(
        (30.5 * 512 / 60 - 0.5, 10.5 * 512 / 40 - 0.5)
    )


def test_a_transposed_image_takes_the_point_with_it():
    spot = locate(row(), *example(orientation="T"))
    assert (spot["x_512"], spot["y_512"]) == pytest.approx(
        (10.5 * 512 / 40 - 0.5, 30.5 * 512 / 60 - 0.5)
    )


def test_a_stored_frame_is_mapped_to_its_sorted_slice():
    tables = example(frames=range(9, -1, -1))
    assert locate(row("{'f': 7, 'x': 30, 'y': 10}", sop="1.2.0"), *tables)["f"] == 2


@pytest.mark.parametrize(
    ("fault", "frames", "reason"),
    [
        (row(sop="9.9"), None, "not in the series"),
        (row(uid="1.9"), None, "without arrays"),
        (row(location="Elsewhere"), None, "unknown location"),
        (row("{'x': 60, 'y': 10}"), None, "outside"),
        (row("{'x': 30, 'y': -0.6}"), None, "outside"),
        (row("{'f': 10, 'x': 3, 'y': 1}", sop="1.2.0"), range(10), "no such frame"),
        (row("{'x': 3, 'y': 1}", sop="1.2.0"), range(10), "no such frame"),
        (row("boom"), None, "coordinates"),
    ],
)
def test_a_localizer_that_points_nowhere_is_dropped_with_its_reason(fault, frames, reason):
    localizers = pd.DataFrame(
        [row() if frames is None else row("{'f': 1, 'x': 3, 'y': 1}", sop="1.2.0"), fault]
    )
    found, dropped = locate_all(localizers, *example(frames))
    assert len(found) == 1
    assert dropped.line.tolist() == [3]
    assert reason in dropped.reason.iloc[0]


def test_a_sop_uid_of_several_slices_points_to_none():
    meta, uids, geometry = example()
    with pytest.raises(ValueError, match="several slices"):
        locate(row(), meta, {"1.2": ["1.2.4"] * 10}, geometry)
    assert locate(row(), meta, uids, geometry)["f"] == 4


def test_a_series_with_a_lost_localizer_gives_no_negatives():
    meta, _, _ = example()
    meta.length = 40
    lost = pd.DataFrame(
        {"SeriesInstanceUID": ["1.2"], "line": [2], "reason": ["not in the series"]}
    )
    nothing_lost = lost.iloc[:0]
    here = [{"SeriesInstanceUID": "1.2", "f": 3, "class_id": 6, "location": LOCATIONS[6]}]
    assert "1.2" in label_slices(meta, here, nothing_lost, CONFIG)[1]
    assert "1.2" not in label_slices(meta, here, lost, CONFIG)[1]
    assert "1.2" not in label_slices(meta, [], nothing_lost, CONFIG)[1]


def test_no_negative_is_near_an_aneurysm_that_is_ignored(copied):
    """Its row names another file of the series; rows that point nowhere do no harm."""
    meta, before = read_meta(copied), read_pickle(copied.safe_slices)
    uid = max(before, key=lambda uid: len(before[uid]))
    slices, frames = (read_pickle(path)[uid] for path in (copied.slice_uids, copied.geometry))
    at = int(before[uid][0])
    point = {"x": 1.0, "y": 2.0}
    if frames["frames"][at] >= 0:
        point["f"] = int(frames["frames"][at])
    rows = [(uid, slices[at], str(point)), (uid, "1.2", str(point)), ("9.9", "1.2", "here")]
    names = ["SeriesInstanceUID", "SOPInstanceUID", "coordinates"]
    pd.DataFrame(rows, columns=names).to_csv(copied.ignored, index=False)
    create_folds.main(Config(copied.root, folds=FOLDS))
    after = read_pickle(copied.safe_slices)
    margin = max(CONFIG.safe_distance, CONFIG.safe_fraction * meta.set_index(names[0]).length[uid])
    expected = [f for f in before[uid] if abs(f - at) > margin]
    assert after[uid].tolist() == expected and len(expected) < len(before[uid])
    for other in before.keys() - {uid}:
        np.testing.assert_array_equal(before[other], after[other])


def test_a_series_with_few_safe_slices_keeps_its_positives():
    meta, uids, _ = example()
    here = [{"SeriesInstanceUID": "1.2", "f": 5 - 1, "class_id": 6, "location": LOCATIONS[6]}]
    labels, safe = label_slices(
        meta, here, pd.DataFrame(columns=["SeriesInstanceUID", "line", "reason"]), CONFIG
    )
    assert len(safe_slices(10, [4], 5, 0.05)) <= CONFIG.too_few_safe
    assert safe == {}
    assert labels["1.2"][4, 6] == 1
    table = spot_table(here, meta, uids, safe, 0)
    assert table.class_id.tolist() == [6]


def test_negative_slices_follow_the_positives_and_depend_on_the_series_only():
    f_rel = np.array([0.2, 0.5, 0.9])
    drawn = [negative_slice(f"1.{k}", 100, f_rel, 0) for k in range(200)]
    assert set(drawn) == {20, 50, 90}
    assert drawn[:5] == [negative_slice(f"1.{k}", 100, f_rel[::-1], 0) for k in range(5)]
    assert negative_slice("1.1", 1, f_rel, 0) == 0


def test_the_table_of_spots_of_a_whole_data_set(tiny):
    table, meta = read_spots(tiny), read_folds(tiny).set_index("SeriesInstanceUID")
    localizers = pd.read_csv(tiny.localizers)
    safe, labels = read_pickle(tiny.safe_slices), read_pickle(tiny.labels)
    positives, negatives = table[table.class_id != PRESENT], table[table.class_id == PRESENT]
    assert len(positives) == len(localizers)
    assert (negatives.location == NOTHING).all()
    healthy = meta.index[meta[LABELS[PRESENT]] == 0]
    assert sorted(negatives[negatives.f >= 0].SeriesInstanceUID) == sorted(healthy)
    assert (negatives.f == DRAWN).sum() == positives.SeriesInstanceUID.isin(safe).sum()
    assert (table.fold.to_numpy() == meta.fold[table.SeriesInstanceUID].to_numpy()).all()
    for spot in positives.itertuples():
        assert labels[spot.SeriesInstanceUID][spot.f, spot.class_id] == 1
        assert meta.loc[spot.SeriesInstanceUID, spot.location] == 1
        assert 0 <= spot.x_512 < 512
    expected = (
        "SeriesInstanceUID SOPInstanceUID coordinates location fold length x y f f_rel "
        "class_id h w x_512 y_512 mod"
    ).split()
    assert list(table.columns) == expected


def test_an_aneurysm_without_a_place_leaves_no_safe_slices():
    """Two locations, one localizer; and a healthy series with a localizer."""
    meta, uids, _ = example()
    meta.length = 40
    nothing_lost = pd.DataFrame({"SeriesInstanceUID": [], "line": [], "reason": []})
    here = [{"SeriesInstanceUID": "1.2", "f": 3, "class_id": 6, "location": LOCATIONS[6]}]
    meta[LOCATIONS[6]] = 1
    assert "1.2" in label_slices(meta, here, nothing_lost, CONFIG)[1]
    meta[LOCATIONS[2]] = 1
    assert "1.2" not in label_slices(meta, here, nothing_lost, CONFIG)[1]

    meta[list(LABELS)] = 0
    meta["fold"], meta["mod"] = 0, "CT"
    safe = label_slices(
        meta, [], pd.DataFrame({"SeriesInstanceUID": ["1.2"], "line": [2], "reason": ["x"]}), CONFIG
    )[1]
    assert safe == {} and spot_table([], meta, uids, safe, 0).empty


def test_a_localizer_in_a_series_without_aneurysm_leaves_no_negative_slice_of_it():
    """The slice of a healthy series is evaluated as negative: it may be the aneurysm's."""
    meta, uids, _ = example()
    meta.length, uids = 40, {"1.2": [f"1.2.{k}" for k in range(40)]}
    meta[list(LABELS)] = 0
    here = [{"SeriesInstanceUID": "1.2", "f": 3, "class_id": 6, "location": LOCATIONS[6]}]
    nothing_lost = pd.DataFrame({"SeriesInstanceUID": [], "line": [], "reason": []})
    safe = label_slices(meta, here, nothing_lost, CONFIG)[1]
    table = spot_table(here, meta, uids, safe, 0)
    assert table[["class_id", "f"]].to_numpy().tolist() == [[6, 3], [PRESENT, DRAWN]]
