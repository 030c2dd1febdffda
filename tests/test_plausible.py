"""Tables and geometry whose numbers nothing real can have: one sentence with series and file."""

import numpy as np
import pandas as pd
import pytest

import create_folds
from src.artifacts.files import read_pickle, write_pickle
from src.artifacts.paths import ArtifactError
from src.artifacts.plausible import all_finite
from src.artifacts.tables import read_folds, read_table, write_table
from src.labels import NEGATIVE
from src.sampling.slices import spacing_or_default
from tests.conftest import FOLDS
from tests.networks import write_random_features
from tests.test_not_finite import MADE_UP, train1, train2, uids_of

NUMBERLESS = [np.inf, -np.inf, np.nan, -np.nan]


@pytest.mark.parametrize("value", NUMBERLESS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_all_finite_is_what_numpy_says(value, dtype):
    values = np.array([[-6e4, -0.0, 0.0, 6e-8], [6e4, 1.0, -1.0, -6e-8]], dtype)
    assert all_finite(values)
    for place in range(values.size):
        broken = values.copy()
        broken.flat[place] = value
        assert not all_finite(broken)


@pytest.mark.parametrize("position", [1e39, -np.inf, 3e5])
def test_a_position_that_no_scanner_reaches_is_refused(copied, tmp_path, position):
    uid, _ = uids_of(copied)
    run = write_random_features(copied, tmp_path / "model", MADE_UP)
    geometry = read_pickle(copied.geometry)
    geometry[uid]["positions"][1] = position
    write_pickle(copied.geometry, geometry)
    said = rf"series {uid}: .*slice_geometry_dict\.pkl .* mm from .*delete .*{uid}\.json"
    with pytest.raises(ArtifactError, match=said):
        train2(copied, tmp_path / "model")
    assert not run.last("stage2").exists()
    with pytest.raises(ArtifactError, match=said):
        create_folds.main(create_folds.Config(data_dir=copied.root, folds=FOLDS))


@pytest.mark.parametrize(
    ("column", "value"),
    [("slice_spacing", value) for value in (-0.5, np.inf, 1e9)]
    + [("row_spacing", value) for value in (1e-20, 0.0, -0.5, 150.0, np.inf)]
    + [("column_spacing", value) for value in (1e-20, 1e9)],
)
def test_a_stored_spacing_that_nothing_has_is_refused(copied, column, value):
    path = copied.folds(FOLDS)
    table = read_table(path)
    table[column] = table[column].astype(float)
    table.loc[4, column] = value
    write_table(path, table)
    uid = table.SeriesInstanceUID[4]
    with pytest.raises(ArtifactError, match=f"series {uid}: {path} holds {column} .* mm"):
        read_folds(copied)
    table.loc[4, column] = pd.NA
    write_table(path, table)
    assert pd.isna(read_folds(copied)[column][4])


@pytest.mark.parametrize("column", ["Basilar Tip", "Aneurysm Present"])
def test_a_label_that_is_empty_is_unknown_and_half_a_label_is_refused(copied, column):
    table = read_table(copied.folds(FOLDS))
    table[column] = table[column].astype(float)
    table.loc[2, column] = np.nan
    write_table(copied.folds(FOLDS), table)
    unknown = read_folds(copied)[column].isna()
    assert unknown[2] and unknown.sum() == 1
    table.loc[2, column] = 0.5
    write_table(copied.folds(FOLDS), table)
    with pytest.raises(ArtifactError, match=f"series {table.SeriesInstanceUID[2]}: .*{column}"):
        read_folds(copied)


@pytest.mark.parametrize("column", ["x_512", "y_512"])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_an_aneurysm_without_a_point_is_refused(copied, tmp_path, column, value):
    path = copied.spots(FOLDS)
    spots = read_table(path)
    row = spots.index[spots.class_id != NEGATIVE][0]
    spots[column] = spots[column].astype(float)
    spots.loc[row, column] = value
    write_table(path, spots)
    uid = spots.SeriesInstanceUID[row]
    with pytest.raises(ArtifactError, match=f"series {uid}: {path} holds an aneurysm without"):
        train1(copied, tmp_path / "model")


@pytest.mark.parametrize("sigma", [0.0, np.nan, np.inf, -1.0])
def test_a_heatmap_without_width_is_refused(copied, tmp_path, sigma):
    with pytest.raises(ArtifactError, match=r"series .* pixels: give another --sigma-mm"):
        train1(copied, tmp_path / "model", sigma_mm=sigma)


def test_a_series_that_a_pickle_lacks_is_named(copied, tmp_path):
    uid, _ = uids_of(copied)
    write_random_features(copied, tmp_path / "model", MADE_UP)
    for path, train in ((copied.geometry, train2), (copied.labels, train1)):
        content = read_pickle(path)
        del content[uid]
        write_pickle(path, content)
        with pytest.raises(ArtifactError, match=f"series .* is not in .*{path.name}: run "):
            train(copied, tmp_path / "model")


@pytest.mark.parametrize("spacing", [None, np.nan, 0.0, -1.0, 1e9, np.inf])
def test_a_spacing_that_is_none_is_the_default(spacing):
    assert spacing_or_default((spacing, 0.4, spacing)) == (1.0, 0.4, 0.5)


def test_slices_may_be_far_apart_but_no_pixels():
    """Two slices of a survey: what the reader says of them must not be refused for ever."""
    assert spacing_or_default((150.0, 150.0, 1e-20)) == (150.0, 0.5, 0.5)
