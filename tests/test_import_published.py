"""The published weights, imported, predict what the published networks do."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from src.inference.ensemble import Predictor
from src.inference.findings import FindingRules
from src.preprocess.images import PreparedSeries
from src.progress import Clock
from tests.published_network import Published
from tools import import_published
from tools.import_published import Config

ENCODER = "test_convnext"
CPU = torch.device("cpu")
CLOSE = 1e-4


@pytest.fixture(scope="module")
def published():
    return Published(ENCODER)


@pytest.fixture(scope="module")
def files(published, tmp_path_factory):
    return published.save(tmp_path_factory.mktemp("downloads"))


@pytest.fixture(scope="module")
def model_dir(files, tmp_path_factory):
    """Fold 0 from weights_inference.pth at step 2, fold 1 from the other two files at step 1."""
    folder = tmp_path_factory.mktemp("model")
    import_published.main(Config(files[2:], 2, 0, folder, ENCODER))
    import_published.main(Config(files[:2], 1, 1, folder, ENCODER))
    return folder


def pictures(count):
    """Return prepared images (count, 512, 512) float16 that change slowly along the series."""
    generator = np.random.default_rng(count)
    coarse = generator.random((count + 4, 16, 16), np.float32)
    smooth = sum(coarse[shift : shift + count] for shift in range(5))  # (count, 16, 16)
    return np.kron(smooth.astype(np.float16), np.ones((1, 32, 32), np.float16))


def prepared(images):
    """Return the images of all slices as a series."""
    count = len(images)
    series = SimpleNamespace(
        slices=[SimpleNamespace(file=SimpleNamespace(series_uid="1.2"))] * count,
        shape=(count, 512, 512),
        spacing=(1.0, 0.5, 0.5),
        positions=np.arange(count, dtype=float),
        orientation="",
        plane="axial",
    )
    return PreparedSeries(series, np.arange(count), images)


@pytest.mark.parametrize(("count", "fold"), [(7, 0), (7, 1), (40, 1)])
def test_series_get_the_published_probabilities(published, model_dir, count, fold):
    images = pictures(count)
    predictor = Predictor(model_dir, "published", (fold,), CPU)
    ((_, found),) = predictor.predict([("", prepared(images))], 16, Clock())
    _, expected, _ = published.predict(images, step=2 - fold)
    np.testing.assert_allclose(found, expected, atol=CLOSE, rtol=0)
