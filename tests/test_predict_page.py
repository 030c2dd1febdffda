"""The page of a predicted series, and the names of its files."""

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from src.artifacts.tables import read_fold
from src.dicom import open_series
from src.inference.ensemble import Prediction, Predictor
from src.inference.findings import Finding
from src.labels import LOCATIONS
from src.sampling.view import view_of
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
