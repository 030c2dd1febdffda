import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.preprocess.intensity import resize
from src.sampling import slices
from src.sampling.slices import (
    centre_crop,
    crop_margin,
    neighbours,
    original_point,
    resized_point,
    slice_positions,
    spacing_or_default,
    thin,
)


@given(st.integers(1, 12), st.integers(1, 3))
def test_neighbours_repeat_the_edge_slice(length, step):
    for index in range(length):
        expected = [max(0, index - step), index, min(length - 1, index + step)]
        assert neighbours(index, step, length).tolist() == expected
        assert neighbours(np.arange(length), step, length)[index].tolist() == expected


@given(st.integers(1, 3000), st.integers(1, 192))
def test_thinning_in_evaluation_is_every_kth_slice_from_the_first(length, cut):
    stride = length // cut if length // cut >= 2 else 1
    assert thin(length, cut).tolist() == list(range(0, length, stride))


def test_thinning_in_training_draws_every_stride_and_start():
    drawn = [thin(900, 192, np.random.default_rng(k)) for k in range(300)]
    seen = {(int(indices[1] - indices[0]), int(indices[0])) for indices in drawn}
    assert seen == {(stride, start) for stride in range(1, 5) for start in range(stride)}


def test_positions_fall_back_to_slice_numbers():
    assert slice_positions(np.array([1.5, 2.5, 4.0]), np.array([0, 2])).tolist() == [1.5, 4.0]
    assert slice_positions(np.array([np.nan] * 3), np.array([0, 2])).tolist() == [0.0, 2.0]


def test_a_point_moves_with_the_resized_image():
    y, x = np.mgrid[:40, :64]
    blob = np.exp(-((x - 20.3) ** 2 + (y - 11.8) ** 2) / 30).astype(np.float32)
    large = resize(blob, 160)
    y, x = np.mgrid[:160, :160]
    centre_x, centre_y = (large * x).sum() / large.sum(), (large * y).sum() / large.sum()
    assert resized_point(20.3, 64, 160) == pytest.approx(centre_x, abs=0.1)
    assert resized_point(11.8, 40, 160) == pytest.approx(centre_y, abs=0.1)


def test_centre_crop():
    image = np.arange(36).reshape(1, 6, 6)
    np.testing.assert_array_equal(centre_crop(image, 4), image[:, 1:5, 1:5])
    assert crop_margin(512, 448) == 32
    assert centre_crop(image, 3)[0, 0, 0] == 7  # of an odd rest, the smaller half is first


def test_steps_planes_and_spacing_are_those_of_the_method():
    assert slices.STEPS == (1, 2)
    assert slices.MIRRORABLE == ("axial", "coronal")
    assert slices.DEFAULT_SPACING == (1.0, 0.5, 0.5)


@pytest.mark.parametrize("missing", [None, 0, 0.0, -1.0, -1e-3, float("nan")])
def test_a_missing_spacing_is_replaced_alone(missing):
    known = [3.0, 0.4, 0.3]
    for k, default in enumerate((1.0, 0.5, 0.5)):
        spacing = [missing if i == k else value for i, value in enumerate(known)]
        expected = [default if i == k else value for i, value in enumerate(known)]
        assert spacing_or_default(spacing) == tuple(expected)
    assert spacing_or_default((1e-3, 0.5, 0.5)) == (1e-3, 0.5, 0.5)


@pytest.mark.parametrize(("length", "size"), [(64, 160), (512, 512), (300, 7)])
def test_edges_go_to_edges_when_an_image_is_resized(length, size):
    assert resized_point(-0.5, length, size) == -0.5
    assert resized_point(length - 0.5, length, size) == pytest.approx(size - 0.5)
    assert resized_point((length - 1) / 2, length, size) == pytest.approx((size - 1) / 2)
    assert original_point(-0.5, length, size) == -0.5
    assert original_point(size - 0.5, length, size) == pytest.approx(length - 0.5)
    assert original_point((size - 1) / 2, length, size) == pytest.approx((length - 1) / 2)


def test_steps_may_differ_from_slice_to_slice():
    found = neighbours(np.array([0, 3, 5]), np.array([1, 2, 2]), 6)
    assert found.tolist() == [[0, 0, 1], [1, 3, 5], [3, 5, 5]]


@given(st.integers(1, 3000), st.integers(2, 192), st.integers(0, 99))
def test_thinning_in_training_is_every_kth_slice_from_one_of_the_first(length, cut, seed):
    chosen = thin(length, cut, np.random.default_rng(seed))
    stride = int(chosen[1] - chosen[0]) if len(chosen) > 1 else 1
    assert 1 <= stride <= max(1, length // cut)
    assert 0 <= chosen[0] < stride
    assert chosen.tolist() == list(range(int(chosen[0]), length, stride))


def test_one_unknown_position_makes_all_of_them_slice_numbers():
    chosen = slice_positions(np.array([5.0, np.inf, 9.0]), np.array([0, 2]))
    assert chosen.tolist() == [0.0, 2.0]
    assert chosen.dtype == slice_positions(np.array([5.0, 6.0]), np.array([1])).dtype == np.float32
