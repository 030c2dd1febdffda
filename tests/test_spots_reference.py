"""Spots against slow plain definitions, one slice and one row at a time."""

import numpy as np
import pandas as pd
import pytest

from src.labels import LABELS, LOCATIONS
from src.sampling.folds import seeded_order
from src.sampling.spots import (
    DRAWN,
    PUBLISHED_SIDE,
    locate,
    locate_all,
    negative_slice,
    safe_slices,
    slice_labels,
    spot_table,
    window_labels,
)
from tests.test_spots import example, row


@pytest.mark.parametrize("seed", range(5))
def test_a_window_reaches_as_far_as_both_neighbours(seed):
    """Each slice of short series, at both ends too."""
    generator = np.random.default_rng(seed)
    length = int(generator.integers(1, 9))
    labels = (generator.random((length, len(LABELS))) < 0.2).astype(np.uint8)
    for slice_ in range(length):
        for step in (0, 1, 2, 3):
            expected = np.zeros(len(LABELS), np.uint8)
            for other in range(length):
                if abs(other - slice_) <= step:
                    expected = np.maximum(expected, labels[other])
            np.testing.assert_array_equal(window_labels(labels, slice_, step), expected)


def test_an_aneurysm_on_the_first_slice_is_seen_from_the_next_ones():
    labels = slice_labels(6, [{"f": 0, "class_id": 2}])
    seen = [[bool(window_labels(labels, k, step)[2]) for k in range(6)] for step in (1, 2)]
    assert seen == [[True, True] + [False] * 4, [True] * 3 + [False] * 3]
    assert labels.dtype == np.uint8


@pytest.mark.parametrize(
    ("length", "margin", "fraction"), [(60, 5, 0.05), (200, 5, 0.05), (9, 1, 0)]
)
def test_a_slice_at_the_margin_is_not_safe(length, margin, fraction):
    middle, reach = length // 2, int(max(margin, fraction * length))
    safe = safe_slices(length, [middle], margin, fraction).tolist()
    expected = [*range(middle - reach), *range(middle + reach + 1, length)]
    assert safe == expected
    assert safe_slices(length, [], margin, fraction).tolist() == list(range(length))


CORNERS = [(-0.5, -0.5), (59.5, 39.5), (59.5, -0.5), (-0.5, 39.5), (30, 10)]
BEYOND = [(-0.51, 10), (59.51, 10), (30, -0.51), (30, 39.51)]


@pytest.mark.parametrize(("x", "y"), CORNERS)
def test_points_up_to_the_edge_of_the_edge_pixels_are_in_the_image(x, y):
    spot = locate(row(f"{{'x': {x}, 'y': {y}}}"), *example())  # 40 rows, 60 columns
    assert spot["x_512"] == pytest.approx((x + 0.5) / 60 * 512 - 0.5)
    assert spot["y_512"] == pytest.approx((y + 0.5) / 40 * 512 - 0.5)
    assert (spot["SeriesInstanceUID"], spot["SOPInstanceUID"]) == ("1.2", "1.2.4")


@pytest.mark.parametrize(("x", "y"), BEYOND)
def test_points_beyond_the_edge_are_outside(x, y):
    with pytest.raises(ValueError, match="point outside the image"):
        locate(row(f"{{'x': {x}, 'y': {y}}}"), *example())


@pytest.mark.parametrize("code", ["", "T", "X", "Y", "TX", "TXY"])
def test_a_pixel_keeps_its_value_in_the_prepared_image(code):
    """The stored image is turned with numpy, and the point is where the marked pixel goes."""
    stored = np.zeros((40, 60))
    stored[10, 37] = 1
    turned = stored.T if "T" in code else stored
    turned = np.fliplr(turned) if "X" in code else turned
    turned = np.flipud(turned) if "Y" in code else turned
    ((down, across),) = np.argwhere(turned)
    spot = locate(row("{'x': 37, 'y': 10}"), *example(orientation=code))
    height, width = turned.shape
    expected = (across + 0.5) * 512 / width - 0.5, (down + 0.5) * 512 / height - 0.5
    assert (spot["x_512"], spot["y_512"]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("frames", "frame", "expected"),
    [
        ([3], None, 0),  # one frame of a multi-frame file: no f is needed
        ([3], 3, 0),
        ([3], 4, "no such frame"),
        ([3, 0], 0, 1),
        ([3, 0], None, "no such frame"),
        ([1, 2], None, "no such frame"),
        ([0, 3, 3], 3, "several slices"),
        ([-1], 5, 0),  # a single-frame file: f says nothing
        ([-1, -1], None, "several slices"),
        ([-1, 2], 2, "several slices"),
        ([], None, "not in the series"),
    ],
)
def test_the_slice_of_a_localizer(frames, frame, expected):
    """Ten slices, those with the localizer's UID at the end, in stored order or not."""
    meta, _, _ = example()
    others = 10 - len(frames)
    uids = {"1.2": ["9"] * others + ["1.2.4"] * len(frames)}
    geometry = {"1.2": {"frames": np.array([-1] * others + frames)}}
    f = "" if frame is None else f"'f': {frame}, "
    localizer = row(f"{{{f}'x': 30, 'y': 10}}")
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            locate(localizer, meta, uids, geometry)
    else:
        assert locate(localizer, meta, uids, geometry)["f"] == others + expected


def test_dropped_rows_are_named_by_their_line_of_the_csv():
    rows = [row(), row(sop="9"), row(), row(uid="8")]
    found, dropped = locate_all(pd.DataFrame(rows), *example())
    assert len(found) == 2
    assert dropped.to_numpy().tolist() == [
        ["1.2", 3, "SOPInstanceUID not in the series"],
        ["8", 5, "series without arrays"],
    ]
    assert list(dropped.columns) == ["SeriesInstanceUID", "line", "reason"]


@pytest.mark.parametrize("length", [1, 2, 7, 100, 333])
def test_a_healthy_series_takes_the_relative_slice_of_a_positive(length):
    f_rel = np.array([0.99, 0.0, 0.5, 0.25])
    for k in range(30):
        chosen = sorted(f_rel)[seeded_order(f"1.{k}", 5) % 4]
        expected = min(round(chosen * length), length - 1)
        assert negative_slice(f"1.{k}", length, f_rel, 5) == expected
    assert negative_slice("1.1", length, np.array([]), 5) == length // 2


def data_set(generator):
    """Return spots, a table of 12 series, their UIDs and safe slices."""
    rows, uids, safe, found = [], {}, {}, []
    for k in range(12):
        uid, length = f"1.{k}", int(generator.integers(5, 30))
        present = int(generator.random() < 0.5)
        rows.append([uid, length, 40, 60, "CT", k % 3, present])
        uids[uid] = [f"{uid}.{slice_}" for slice_ in range(length)]
        if generator.random() < 0.7:
            safe[uid] = np.arange(2)
        for _ in range(generator.integers(1, 3) * present):
            f, class_id = int(generator.integers(length)), int(generator.integers(13))
            name = LOCATIONS[class_id]
            spot = [uid, uids[uid][f], "text", name, class_id, f, 7.0, 8.0, 9.0, 10.0]
            names = (
                "SeriesInstanceUID SOPInstanceUID coordinates location class_id f x y x_512 y_512"
            )
            found.append(dict(zip(names.split(), spot, strict=True)))
    names = ["SeriesInstanceUID", "length", "h", "w", "mod", "fold", LABELS[-1]]
    meta = pd.DataFrame(rows, columns=names).set_index("SeriesInstanceUID", drop=False)
    return found, meta.rename_axis(None), uids, safe


@pytest.mark.parametrize("seed", range(4))
def test_the_table_holds_positives_their_negatives_and_healthy_series(seed):
    found, meta, uids, safe = data_set(np.random.default_rng(seed))
    expected, f_rel = [], []
    for spot in found:
        length = meta.length[spot["SeriesInstanceUID"]]
        f_rel.append(spot["f"] / length)
        expected.append([*list(spot.values())[:6], f_rel[-1], 7.0, 8.0, 9.0, 10.0])
    for spot in found:
        if spot["SeriesInstanceUID"] in safe:
            expected.append([spot["SeriesInstanceUID"], "", "", "Nothing", 13, -1] + [""] * 5)
    for uid in meta.index[meta[LABELS[-1]] == 0]:
        if uid in safe:
            f = negative_slice(uid, meta.length[uid], np.array(f_rel), 6)
            relative = f / meta.length[uid]
            expected.append([uid, uids[uid][f], "", "Nothing", 13, f, relative] + [""] * 4)
    expected.sort(key=lambda values: (values[0], values[4], values[5]))
    for values in expected:
        series = meta.loc[values[0]]
        values += [series.fold, series.length, 40, 60, "CT"]

    table = spot_table(found, meta, uids, safe, 6)
    names = "SeriesInstanceUID SOPInstanceUID coordinates location class_id f f_rel x y x_512 y_512"
    columns = [*names.split(), "fold", "length", "h", "w", "mod"]
    assert table[columns].astype(object).fillna("").to_numpy().tolist() == expected
    assert table.index.tolist() == list(range(len(table)))


def test_numbers_of_the_published_tables():
    assert (PUBLISHED_SIDE, DRAWN) == (512, -1)
