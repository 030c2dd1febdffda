"""What is said of one place on a slice: by the features there, and the same of a mirrored head."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from src.dicom import open_series
from src.inference.ensemble import Predictor
from src.inference.findings import FindingRules
from src.labels import LABELS, MIRROR, PRESENT
from src.networks.slice_cnn import SliceCNN, cells_around
from src.orientation import canonical_point
from src.preprocess.images import PreparedSeries
from src.sampling.slices import MIRRORABLE, resized_point
from tests.conftest import CROP
from tests.networks import ENCODER, write_both

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model_dir(tiny, tmp_path_factory) -> Path:
    return write_both(tiny, tmp_path_factory.mktemp("model"), cut=7).root.parents[1]


@pytest.fixture(scope="module")
def prepared(tiny, model_dir) -> PreparedSeries:
    series = sorted((tiny.root / "series").iterdir())[0]
    return Predictor(model_dir, ENCODER, (0,), CPU).prepare(open_series(series))


def test_cells_around_a_place():
    places = torch.tensor([[0.0, 0.0], [0.5, 0.99], [1.0, 1.0]])
    found = cells_around(places, rows=4, columns=5)
    expected = [{(0, 0), (0, 1), (1, 0), (1, 1)}]
    expected.append({(row, column) for row in (2, 3) for column in (1, 2, 3)})
    expected.append({(2, 3), (2, 4), (3, 3), (3, 4)})
    assert [set(map(tuple, one.nonzero().tolist())) for one in found] == expected


@torch.no_grad()
def test_the_head_reads_only_the_features_around_the_place():
    """Against heat that is nowhere else, which the network itself pools."""
    torch.manual_seed(0)
    model = SliceCNN("test_convnext", heatmap=True, crop_size=64).eval()
    images = torch.rand(2, 3, 64, 64) * 5
    places = torch.tensor([[10.0, 40.0], [63.0, 0.0]])
    found = model.logits_at(images, places)
    heat = model(images).heatmap
    side = heat.shape[-1]
    real = model.heatmap.heat.forward
    elsewhere = torch.ones_like(heat, dtype=torch.bool)
    for number, (x, y) in enumerate(places):
        column, row = int((x + 0.5) * side / 64), int((y + 0.5) * side / 64)
        elsewhere[number, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = False
    model.heatmap.heat.forward = lambda maps: real(maps).masked_fill(elsewhere[:, None], -1e9)
    torch.testing.assert_close(found, model(images).logits)
    assert (found - model.logits_at(images, places.flip(0))).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["test_resnet", "test_convnext", "test_vit"])
def test_without_heatmap_places_add_up_to_the_slice(encoder):
    torch.manual_seed(0)
    model = SliceCNN(encoder, heatmap=False, crop_size=160).eval()
    images = torch.rand(1, 3, 160, 160) * 5
    middles = torch.arange(5) * 32 + 15.5
    found = [model.logits_at(images, torch.tensor([[x, y]])) for x in middles for y in middles]
    if encoder == "test_vit":
        assert found[0] is None
        return
    torch.testing.assert_close(
        torch.cat(found).mean(dim=0, keepdim=True), model(images).logits, atol=1e-4, rtol=1e-4
    )
    assert torch.cat(found).std(dim=0).min() > 1e-4


@pytest.mark.parametrize("mirror", [False, True])
def test_a_mirrored_head_has_mirrored_names(mirror, model_dir, prepared):
    """Whether or not the prediction itself is the mean over both heads."""
    (model,) = Predictor(model_dir, ENCODER, (0,), CPU, mirror=mirror).models
    assert prepared.series.plane in MIRRORABLE
    tokens, places = np.array([0, 3, 3]), np.array([[5.0, 30], [20.5, 8], [38, 12]])
    found = model.locations_at(prepared, tokens, places, 8)
    mirrored = replace(prepared, images=np.ascontiguousarray(prepared.images[..., ::-1]))
    there = places * [-1, 1] + [CROP - 1, 0]
    order = list(MIRROR[:PRESENT])
    swapped = model.locations_at(mirrored, tokens, there, 8)[:, order]
    np.testing.assert_allclose(swapped, found, atol=1e-5)
    named = model.names_at(prepared, tokens, places, found)
    mirrored = model.names_at(mirrored, tokens, there, found[:, order])
    np.testing.assert_allclose(mirrored[:, order], named, rtol=1e-9)
    assert np.abs(named - found).max() > 1e-2
    assert found.shape == (3, PRESENT) and np.abs(found - found[:, order]).max() > 1e-4


def test_findings_of_a_slice_have_names_of_their_own(model_dir, prepared):
    """Each the most probable location at its own place."""
    predictor = Predictor(model_dir, ENCODER, (0,), CPU)
    with torch.no_grad():  # what random weights say of places hardly differs
        predictor.models[0].slice_cnn.head[-1].weight.mul_(20)
    prediction = predictor.explain(prepared, 8, FindingRules(0.0, 3, 1.0))
    tokens = np.searchsorted(prediction.tokens, [f.slice for f in prediction.findings])
    labels = np.array([LABELS.index(finding.label) for finding in prediction.findings])
    on_first = labels[tokens == tokens[0]]
    assert len(on_first) > 1 and len(set(on_first)) > 1
    places = []
    for finding in prediction.findings:
        x, y = canonical_point(finding.x, finding.y, "", 48, 48)
        image = np.array([resized_point(value, 48, 48) for value in (x, y)])
        places.append(prediction.view.to_crop(image))
    model, places = predictor.models[0], np.array(places)
    said = model.locations_at(prepared, tokens, places, 8)
    there = model.names_at(prepared, tokens, places, said)
    assert there.argmax(axis=1).tolist() == labels.tolist() != said.argmax(axis=1).tolist()


def test_where_the_head_was_not_found_its_middle_says_nothing(tiny, prepared, tmp_path):
    model_dir = write_both(tiny, tmp_path, cut=7, view_mm=30.0).root.parents[1]
    (model,) = Predictor(model_dir, ENCODER, (0,), CPU).models
    features = np.random.default_rng(0).random((1, PRESENT))
    found = []
    for head in ((0.5, 0.5), None):
        seen = replace(prepared)
        seen.__dict__["head"] = head  # in place of what is found in the images
        found.append(model.names_at(seen, np.array([3]), np.array([[5.0, 20]]), features))
    alone = features / features.sum()
    assert np.abs(found[0] - alone).max() > 1e-2
    np.testing.assert_allclose(found[1], alone)
