import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.preprocess.intensity import resize
from src.sampling.slices import (
    centre_crop,
    crop_margin,
    neighbours,
    resized_point,
    slice_positions,
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
