"""The page of a predicted series, and the names of its files."""

import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from src.artifacts.calibration import operating_points_of
from src.artifacts.tables import read_fold
from src.dicom import open_series
from src.inference.ensemble import Prediction, Predictor
from src.inference.findings import Finding
from src.labels import LOCATIONS
from src.sampling.view import view_of
from tests.networks import ENCODER, write_both
from tools import predict
from tools.pages import predict_page

POINT = {
    "threshold": 0.25,
    "positives": 40,
    "sensitivity": 0.8,
    "sensitivity_interval": [0.65, 0.9],
    "negatives": 60,
    "specificity": 0.7,
    "specificity_interval": [0.57, 0.8],
}


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


def write(out, prepared, prediction, name="1.2", **networks):
    """Write the page of a series. networks: more of what is known of them."""
    names = {"encoder": ENCODER, "folds": (0, 3), "train_on_all": False, "data": "some/data"}
    names |= {"date": "2026-01-02", "image_size": 48, "operating_points": []} | networks
    facts = predict.as_json(predict.Config((), mirror=True), names, prepared, prediction)
    return predict_page.write_page(out, name, prepared, prediction, facts)


def text_of(path):
    return " ".join("".join(ElementTree.fromstring(path.read_text()).itertext()).split())


def test_a_page_asks_for_nothing_from_outside_and_shows_its_findings(prepared, tmp_path):
    finding = Finding(LOCATIONS[5], 0.875, 4, "1.2.3.4", 7, 10.25, 20.5, 12.0, (1.0, -0.01, 3.25))
    page = write(tmp_path, prepared, prediction_with(torch.rand(5, 6, 6), [finding]))
    text = (tmp_path / "1.2.html").read_text()
    ElementTree.fromstring(text)  # every tag is closed, every text escaped
    [(policy, script)] = re.findall(
        r"script-src '([^']+)'\".*<script>(.*)</script>", text, re.DOTALL
    )
    assert policy == f"sha256-{b64encode(sha256(script.encode()).digest()).decode()}"
    assert "default-src 'none'; img-src data:;" in text
    assert set(re.findall(r'(?:src|<image href)="([a-z]+):', text)) == {"data"}
    assert not re.search(r"https?://|@import|<link|url\(|<script [^>]", text)
    image = f"image {prepared.series.slices[4].instance}"  # as a viewer counts
    for shown in (LOCATIONS[5], "0.875", image, "10.2, 20.5", "1.0, 0.0, 3.2", "1.2.3.4"):
        assert shown in text
    assert text.count("<figure id=") == 5
    assert f"{LOCATIONS[5]}, {image}, slice 4" in page.where


def test_the_page_says_which_networks_and_what_they_are_worth(prepared, tmp_path):
    write(tmp_path, prepared, prediction_with(None), operating_points=[POINT])
    text = text_of(tmp_path / "1.2.html")
    assert f"{ENCODER}, folds 0, 3; images of 48 pixels" in text
    assert "until 2026-01-02, on some/data" in text and "also the mirrored head" in text
    for shown in ("sensitivityof40", "0.800 0.650–0.900", "specificityof60", "0.250"):
        assert shown.replace(" ", "") in text.replace(" ", "")
    write(tmp_path, prepared, prediction_with(None), bundle="a" * 64, networks=["fold-0", "all"])
    text = text_of(tmp_path / "1.2.html")
    assert f"fold-0, all of the bundle {'a' * 12}" in text
    assert "Sensitivity and specificity at a threshold are not known" in text


@pytest.mark.parametrize(
    "change",
    [{"threshold": 1.5}, {"sensitivity": None}, {"positives": "40"}, {"specificity_interval": [1]}],
)
def test_operating_points_that_are_none_are_not_shown(change):
    assert operating_points_of([POINT]) == [POINT]
    assert operating_points_of([POINT, POINT | change]) == []
    assert operating_points_of(None) == operating_points_of(POINT) == []


def test_without_maps_the_page_says_so(prepared, tmp_path):
    write(tmp_path, prepared, prediction_with(None))
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
    page = write(tmp_path, prepared, replace(found, calibrated=calibrated), "1")
    predict_page.write_index(tmp_path, [page], [])
    text, index = (text_of(tmp_path / name) for name in ("1.html", "index.html"))
    assert said in text and not_said not in text
    word = "calibrated" if calibrated else "not calibrated"
    assert f"Probabilities of series are {word}" in index


def test_what_does_not_print_is_written_as_its_code(prepared, tmp_path):
    """A control character would make the page no XML, a direction mark would turn its text."""
    odd = "<b>\x1b[31m\u202egpj"
    warned = replace(prepared, series=replace(prepared.series, warnings=[odd]))
    page = write(tmp_path, warned, prediction_with(None))
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
