"""The page of a predicted series, and the names of its files."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import torch

from src.artifacts.tables import read_fold
from src.dicom import open_series
from src.inference.ensemble import Prediction, Predictor
from src.inference.findings import Finding, stored_place
from src.labels import LOCATIONS
from src.sampling.view import extent_mm, view_of
from tests.networks import ENCODER, write_both
from tools import predict
from tools.pages import predict_page


def prediction_with(heat, found=()) -> Prediction:
    slices = np.linspace(0, 1, 14 * 5).reshape(5, 14)
    return Prediction(
        np.linspace(0, 1, 14),
        np.arange(0, 10, 2),
        slices,
        heat,
        list(found),
        view_of(np.ones(2), 48, 40),
    )


@pytest.fixture(scope="module")
def prepared(tiny, tmp_path_factory):
    """A held-out series as the networks of fold 0 read it."""
    model_dir = tmp_path_factory.mktemp("model")
    write_both(tiny, model_dir, cut=7)
    uid = read_fold(tiny, 0)[1].SeriesInstanceUID[0]
    predictor = Predictor(model_dir, ENCODER, (0,), torch.device("cpu"))
    return predictor.prepare(open_series(tiny.series(uid)))


def test_a_page_asks_for_nothing_from_outside_and_shows_its_findings(prepared, tmp_path):
    finding = Finding(LOCATIONS[5], 0.875, 4, "1.2.3.4", 7, 10.25, 20.5, 12.0, (1.0, -0.01, 3.25))
    page = predict_page.write_page(
        tmp_path, "1.2", prepared, prediction_with(torch.rand(5, 6, 6), [finding])
    )
    text = (tmp_path / "1.2.html").read_text()
    ElementTree.fromstring(text)  # every tag is closed, every text escaped
    assert "default-src 'none'" in text
    assert set(re.findall(r'src="([a-z]+):', text)) == {"data"}
    assert not re.search(r"https?://|@import|<script|<link|url\(", text)
    for shown in (LOCATIONS[5], "0.875", "4, frame 7", "10.2, 20.5", "1.0, 0.0, 3.2", "1.2.3.4"):
        assert shown in text
    assert text.count("<figure>") == 5
    assert f"{LOCATIONS[5]}, slice 4" in page.where


def test_without_maps_the_page_says_so(prepared, tmp_path):
    predict_page.write_page(tmp_path, "1.2", prepared, prediction_with(None))
    assert "Not available" in (tmp_path / "1.2.html").read_text()


@pytest.mark.parametrize(
    ("calibrated", "said", "not_said"),
    [
        ((), "not calibrated: they rank", "one in five"),
        (("series",), "are not calibrated. tools/measure_findings.py", "they rank"),
        (("series", "findings"), "an aneurysm is within 10 mm", "they rank"),
    ],
)
def test_the_page_says_which_probabilities_are_calibrated(
    prepared, tmp_path, calibrated, said, not_said
):
    finding = Finding(LOCATIONS[5], 0.875, 4, "1.2.3.4", -1, 10.0, 20.5, 12.0, None)
    found = prediction_with(torch.rand(5, 6, 6), [finding])
    page = predict_page.write_page(tmp_path, "1", prepared, replace(found, calibrated=calibrated))
    predict_page.write_index(tmp_path, [page], [])
    text, index = (
        " ".join("".join(ElementTree.fromstring((tmp_path / name).read_text()).itertext()).split())
        for name in ("1.html", "index.html")
    )
    assert said in text and not_said not in text
    word = "calibrated" if calibrated else "not calibrated"
    assert f"Probabilities of series are {word}." in index


def test_what_does_not_print_is_written_as_its_code(prepared, tmp_path):
    """A control character would make the page no XML, a direction mark would turn its text."""
    odd = "<b>\x1b[31m\u202egpj"
    warned = replace(prepared, series=replace(prepared.series, warnings=[odd]))
    page = predict_page.write_page(tmp_path, "1.2", warned, prediction_with(None))
    page.name, failed = odd, predict.Failed(odd, "empty", odd)
    predict_page.write_index(tmp_path, [page], [failed])
    for name in ("1.2.html", "index.html"):
        text = (tmp_path / name).read_text()
        shown = "".join(ElementTree.fromstring(text).itertext())
        assert r"<b>\x1b[31m\u202egpj" in shown
        assert shown.replace("\n", "").isprintable()


def test_names_of_files_are_uids_or_numbers(prepared):
    uid = prepared.series.slices[0].file.series_uid
    assert predict.file_name(prepared.series, []) == uid
    assert predict.file_name(prepared.series, [uid]) == f"{uid}-2"


@pytest.mark.parametrize("view_mm", [0.0, 50.0, 90.0])
def test_the_ring_is_around_what_was_found(prepared, view_mm):
    """One bright spot of the prepared image, off centre; the picture shows it where the ring is."""
    series, size = prepared.series, prepared.images.shape[-1]
    extent = extent_mm(series.shape[1:], series.spacing[1:], series.orientation)
    view = view_of(extent, size, 40, view_mm, (0.6, 0.45))
    spot = (30, 20)  # x, y
    images = np.zeros_like(prepared.images)
    images[:, spot[1], spot[0]] = 5
    number = int(prepared.numbers[len(prepared.numbers) // 2])
    x, y = stored_place(series, *view.to_crop(np.array(spot)), view)
    finding = Finding(LOCATIONS[5], 0.9, number, "1.2", -1, x, y, None, None)
    prediction = replace(prediction_with(None, [finding]), tokens=np.array([number]), view=view)
    shown = replace(prepared, images=images)
    bright = cv2.imdecode(
        np.frombuffer(predict_page.slice_picture(shown, prediction, 0, []), np.uint8), 0
    ).astype(float)
    bright[160:190, :25] = bright[160:190, -25:] = 0  # the letters R and L
    bright[bright < 60] = 0  # what JPEG adds
    ring = cv2.imdecode(
        np.frombuffer(predict_page.slice_picture(shown, prediction, 0, [(1, finding)]), np.uint8), 1
    ).astype(float)
    red = (ring[..., 2] - ring[..., 0] > 90).astype(float)
    rows, columns = np.mgrid[:360, :360]
    centre = [(bright * axis).sum() / bright.sum() for axis in (columns, rows)]
    red[:, int(centre[0]) + 17 :] = 0  # the number beside the ring
    middle = [(axis[red > 0].min() + axis[red > 0].max()) / 2 for axis in (columns, rows)]
    np.testing.assert_allclose(middle, centre, atol=2.5)
