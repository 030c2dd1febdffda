import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from src.preprocess.intensity import TOP, apply_window, resize
from tests.reference import plain_window


def test_ct_window_is_0_to_600_hu():
    hu = np.array([[[-1000.0, 0.0, 120.0, 600.0, 3000.0]]], np.float32)
    np.testing.assert_allclose(apply_window(hu, plain_window(hu, "CT")), [[[0, 0, 1, 5, 5]]])


def test_mr_window_comes_from_the_whole_series_and_has_no_scale():
    pixels = np.random.default_rng(0).gamma(2, 100, (6, 20, 20)).astype(np.float32)
    window = plain_window(pixels, "MR")
    np.testing.assert_allclose(window, np.percentile(pixels, [1, 99.8]), rtol=1e-3)
    scaled = pixels * 7 + 300
    np.testing.assert_allclose(
        apply_window(scaled, plain_window(scaled, "MR")), apply_window(pixels, window), atol=2e-3
    )


def test_published_mr_window_stays_as_a_setting():
    pixels = np.array([[[-2000.0, -1200.0, 0.0, 4000.0, 9000.0]]], np.float32)
    np.testing.assert_allclose(
        apply_window(pixels, plain_window(pixels, "MR", "fixed")),
        [[[0, 0, 1200 / 1040, TOP, TOP]]],
        rtol=1e-6,
    )


def test_a_constant_series_is_finite():
    flat = np.full((2, 4, 4), 37.0, np.float32)
    assert np.isfinite(apply_window(flat, plain_window(flat, "MR"))).all()


@pytest.mark.parametrize(("shape", "size"), [((40, 64), 96), ((130, 90), 64)])
def test_resize_equals_torch(shape, size):
    image = np.random.default_rng(0).random(shape, np.float32)
    expected = interpolate(
        torch.from_numpy(image)[None, None], size=(size, size), mode="bilinear", align_corners=False
    )[0, 0].numpy()
    np.testing.assert_allclose(resize(image, size), expected, atol=1e-5)
