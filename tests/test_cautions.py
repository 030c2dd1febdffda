"""What a page warns of, and that it warns of nothing in usual heads."""

import numpy as np
import pytest

from src.dicom import open_series
from src.preprocess.images import PreparedSeries, prepare
from tests.conftest import ROOT
from tests.dicom_files import head_in_hu, write_slices
from tools.pages.cautions import cautions_of

CTA = {"BodyPartExamined": "HEAD", "ContrastBolusAgent": "Ultravist 370", "SliceThickness": 1}


def series_of(folder, count=16, between=3.0, pixel=4.0, images=None, **tags) -> PreparedSeries:
    """Return a CT angiography of the head, but for what is said."""
    if images is None:
        images = head_in_hu(side=48, slices=count)
    tags = {"modality": "CT", "RescaleSlope": 1, "RescaleIntercept": 0, **CTA, **tags}
    points = np.arange(count)[:, None] * [0, 0, between]
    write_slices(folder, images, points, (1, 0, 0, 0, 1, 0), (pixel, pixel), **tags)
    return prepare(open_series(folder), 48, "percentile").in_memory()


@pytest.mark.parametrize(
    "usual",
    [
        {},
        {"BodyPartExamined": "", "ContrastBolusAgent": ""},  # all descriptions were removed
        {"BodyPartExamined": "BRAIN", "ContrastBolusAgent": "", "modality": "MR"},
        {"BodyPartExamined": "Doe^Jane"},  # a word that nobody knows
        {"BodyPartExamined": "HEAD AND NECK", "SliceThickness": 4.9},
    ],
)
def test_usual_heads_have_no_warning(usual, tmp_path):
    assert cautions_of(series_of(tmp_path, **usual)) == []


@pytest.mark.parametrize(
    ("unusual", "said"),
    [
        ({"BodyPartExamined": "Lower Extremity"}, "body part LOWEREXTREMITY"),
        ({"ContrastBolusAgent": ""}, "no contrast agent"),
        ({"ContrastBolusAgent": "None"}, "no contrast agent"),
        ({"SliceThickness": 5}, "thick or far apart (5.0 mm)"),
        ({"between": 6.5}, "thick or far apart (6.5 mm)"),
        ({"count": 15}, "has 15 slices, which cover 42 mm"),
        ({"count": 40, "between": 0.5}, "has 40 slices, which cover 20 mm"),
        ({"pixel": 1.5}, "field is 72 x 72 mm"),
        ({"images": np.full((16, 48, 48), -1000, np.int16)}, "No head was found"),
    ],
)
def test_what_is_unusual_is_said_in_one_sentence(unusual, said, tmp_path):
    [sentence] = cautions_of(series_of(tmp_path, **unusual))
    assert said in sentence and sentence.endswith(".")


def test_real_heads():
    """Nothing is doubtful in the two MR heads of thin slices; the others earn what is said."""
    shared = ROOT.parent / "shared" / "realdicom"
    if not shared.exists():
        pytest.skip("the real files are not part of the repository")
    expected = {
        "mr_sagittal_mprage": 0,
        "mr_enhanced_reversed": 0,
        "t1post_axial_320x260": 1,  # 6.5 mm
        "ct_head_phantom_5mm": 2,  # 5 mm, no contrast
    }
    for name, count in expected.items():
        prepared = prepare(open_series(shared / name), 96, "percentile").in_memory()
        assert len(cautions_of(prepared)) == count, name
