import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from src.preprocess.intensity import TOP, apply_window, resize, window_of
from src.sampling.slices import centre_crop, crop_margin, neighbours, resized_point


def test_ct_window_is_0_to_600_hu():
    hu = np.array([[[-1000.0, 0.0, 120.0, 600.0, 3000.0]]], np.float32)
    np.testing.assert_allclose(apply_window(hu, window_of(hu, "CT")), [[[0, 0, 1, 5, 5]]])


def test_mr_window_comes_from_the_whole_series_and_has_no_scale():
    pixels = np.random.default_rng(0).gamma(2, 100, (6, 20, 20)).astype(np.float32)
    window = window_of(pixels, "MR")
    np.testing.assert_allclose(window, np.percentile(pixels, [1, 99.8]), rtol=1e-3)
    scaled = pixels * 7 + 300
    np.testing.assert_allclose(
        apply_window(scaled, window_of(scaled, "MR")), apply_window(pixels, window), atol=2e-3
    )


def test_published_mr_window_stays_as_a_setting():
    pixels = np.array([[[-2000.0, -1200.0, 0.0, 4000.0, 9000.0]]], np.float32)
    np.testing.assert_allclose(
        apply_window(pixels, window_of(pixels, "MR", "fixed")),
        [[[0, 0, 1200 / 1040, TOP, TOP]]],
        rtol=1e-6,
    )


def test_a_constant_series_is_finite():
    flat = np.full((2, 4, 4), 37.0, np.float32)
    assert np.isfinite(apply_window(flat, window_of(flat, "MR"))).all()


@given(st.integers(1, 12), st.integers(1, 3))
def test_neighbours_repeat_the_edge_slice(length, step):
    for index in range(length):
        expected = [max(0, index - step), index, min(length - 1, index + step)]
        assert neighbours(index, step, length).tolist() == expected
        assert neighbours(np.arange(length), step, length)[index].tolist() == expected


@pytest.mark.parametrize(("shape", "size"), [((40, 64), 96), ((130, 90), 64)])
def test_resize_equals_torch(shape, size):
    image = np.random.default_rng(0).random(shape, np.float32)
    expected = interpolate(
        torch.from_numpy(image)[None, None], size=(size, size), mode="bilinear", align_corners=False
    )[0, 0].numpy()
    np.testing.assert_allclose(resize(image, size), expected, atol=1e-5)


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
