"""The published weights, imported, predict what the published networks do."""

import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from src.artifacts.checkpoints import read_checkpoint, read_joined, write_checkpoint
from src.artifacts.paths import RunFolder
from src.inference.ensemble import Predictor
from src.inference.findings import FindingRules
from src.preprocess.images import PreparedSeries
from src.progress import Clock
from src.script import UserError
from tests.published_network import Published, slices_read
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


@pytest.mark.parametrize("fold", [0, 1])
def test_series_get_the_published_probabilities(published, model_dir, fold):
    predictor = Predictor(model_dir, "published", (fold,), CPU)
    found, expected = [], []
    for count in (1, 3, 6):
        images = pictures(count)
        ((_, probabilities),) = predictor.predict([("", prepared(images))], 16, Clock())
        found.append(probabilities)
        expected.append(published.predict(images, step=2 - fold)[0])
    np.testing.assert_allclose(found, expected, atol=CLOSE, rtol=0)
    assert np.ptp(expected, axis=0).mean() > 200 * CLOSE  # the pictures count


def test_long_series_are_thinned_as_published(model_dir):
    (model,) = Predictor(model_dir, "published", (0,), CPU).models
    for count in (1, 191, 192, 193, 383, 384, 575, 576, 1122):
        assert model.tokens(count).tolist() == slices_read(count)
    assert (len(slices_read(383)), len(slices_read(384))) == (383, 192)


def test_series_longer_than_the_position_buckets(published, model_dir):
    """Beside shorter ones, whose padding must not matter."""
    (model,) = Predictor(model_dir, "published", (0,), CPU).models
    lengths = (383, 130, 1)
    features = torch.randn(3, 383, 64, generator=torch.Generator().manual_seed(0))
    present = torch.arange(383) < torch.tensor(lengths)[:, None]  # (3, 383)
    with torch.inference_mode():
        found = model.transformer(features, torch.zeros(3, 383), present)
    for number, length in enumerate(lengths):
        expected = published.read(features[number, :length])
        torch.testing.assert_close(found[number], expected, atol=CLOSE, rtol=0)


def test_with_the_head_of_stage_1_slices_and_places_are_known(published, model_dir):
    images = prepared(pictures(6))
    rules = FindingRules(threshold=0.0, peaks=3, reach=12.0)
    predictor = Predictor(model_dir, "published", (1,), CPU)
    expected, of_slices = published.predict(images.images, step=1)
    plain = predictor.models[0].explain(images, 16)
    np.testing.assert_allclose(plain[0], expected, atol=CLOSE, rtol=0)
    np.testing.assert_allclose(plain[1], of_slices, atol=CLOSE, rtol=0)
    assert plain[2].shape[0] == 6 and plain[2].amax() == 1
    without = Predictor(model_dir, "published", (0,), CPU).explain(images, 16, rules)
    assert (without.slices, without.heat, without.findings) == (None, None, [])


def test_the_file_says_how_it_was_trained(model_dir):
    joined = read_joined(RunFolder(model_dir, "published", 0))
    stage1, stage2 = joined["stage1_settings"], joined["stage2_settings"]
    assert (stage1["encoder"], stage1["mr_window"], stage1["crop_size"]) == (ENCODER, "fixed", 448)
    assert (stage2["step"], stage2["stage1_weight"], stage2["network"]) == (2, 0.0, "deberta")
    assert joined["prior"][-1] == pytest.approx(0.429, abs=1e-3)
    path = RunFolder(model_dir, "published", 0).inference
    wrong = stage2 | {"network": "bert"}
    write_checkpoint(path.with_name("other.pth"), joined | {"stage2_settings": wrong})
    with pytest.raises(UserError, match="the setting network is bert"):
        read_checkpoint(path.with_name("other.pth"), ())
    missing = RunFolder(model_dir, "published", 7)
    with pytest.raises(UserError, match=r"is missing: run tools/import_published\.py first$"):
        read_joined(missing)


def refused(paths, tmp_path, encoder=ENCODER):
    """Return the sentence that refuses these files."""
    with pytest.raises(UserError) as error:
        import_published.main(Config(paths, 1, 0, tmp_path, encoder))
    assert not (tmp_path / "published").exists()
    return str(error.value)


def test_files_that_do_not_go_together_are_refused(files, tmp_path):
    stage1, stage2, both = files
    assert "another one of them: name" in refused((both, stage1), tmp_path)
    assert "another one of them: name" in refused((stage1, stage2, both), tmp_path)
    assert "weights of stage 2 are missing: name" in refused((stage1,), tmp_path)
    assert "weights of stage 1 are missing: name" in refused((stage2,), tmp_path)
    assert "holds stage 2, as another" in refused((stage2, stage1, stage2), tmp_path)
    assert "nowhere.pth is no file: name" in refused((tmp_path / "nowhere.pth",), tmp_path)


def test_another_encoder_is_refused(files, tmp_path):
    assert "name theirs with --encoder" in refused(files[2:], tmp_path, "test_resnet")
    of_others = refused(files[2:], tmp_path, "test_convnext3")
    assert "has the shape" in of_others and "name theirs with --encoder" in of_others
    assert "timm knows no encoder 'convnext'" in refused(files[2:], tmp_path, "convnext")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda w: w | {"pool.p": torch.zeros(2)},
            r"pool\.p has the shape \(2,\), not \(1,\); name",
        ),
        (lambda w: w | {"fc.9.bias": torch.zeros(2)}, r"fc\.9\.bias is not part of it; name"),
        (lambda w: w | {"neck.bias": torch.zeros(2)}, r"holds neck\.bias, which the published"),
        (lambda w: w | {"pool.p": torch.tensor([np.nan])}, r"pool\.p are not finite: name"),
        (lambda w: w | {"pool.p": 3.0}, "holds no tensors by their names: name"),
        (lambda w: {"fc.1.bias": torch.zeros(14)}, "holds only a head: name"),
        (lambda w: {}, "holds no tensors by their names: name"),
        (lambda w: list(w.values()), "holds no tensors by their names: name"),
        (lambda w: {"labels": [], **w}, "is a checkpoint of this project: use it"),
        (lambda w: {**w, "config": slice(3)}, r"is not a whole state dict .*slice\): name"),
    ],
)
def test_other_weights_are_refused(files, tmp_path, change, sentence):
    path = tmp_path / "weights_inference.pth"
    torch.save(change(dict(torch.load(files[2]))), path)
    assert re.search(sentence, refused((path,), tmp_path))


def test_without_transformers_it_is_one_sentence(files, model_dir, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    sentence = r"need the package transformers: pip install transformers==5\.24\.0$"
    assert re.search(sentence, refused(files[2:], tmp_path))
    with pytest.raises(UserError, match=sentence):
        Predictor(model_dir, "published", (0,), CPU)
