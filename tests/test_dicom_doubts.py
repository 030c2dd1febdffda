"""The rescaling of CT: tags are believed unless air and soft tissue prove otherwise."""

import numpy as np
import pytest

from src.dicom import read_series
from tests.dicom_files import head_in_hu, padded, reason, volume, write_axial

TAGS = {"modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024}
IN_HU = "CT stored in HU: its rescale intercept was ignored"
UNTAGGED = "CT stored as HU + 1024 without a rescale intercept: 1024 was subtracted"
TAKEN_FOR_HU = "CT without rescale tags: its stored values are taken for HU"
DOUBTFUL = "air and soft tissue do not fit the rescale tags of this CT: they were believed"
WRAPPED = "CT in two's complement of {} bits, marked as unsigned: it was read as signed"


def real_head(seed=0, radius=0.7, side=64, slices=8) -> np.ndarray:
    """Return HU (slices, side, side) int16 as in life: scalp, bone of all densities, vessels."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    distance = np.hypot(x, y) / radius
    head = np.full((slices, side, side), -1000.0)
    head[:, distance < 1] = -80  # fat
    head[:, distance < 0.95] = 50  # muscle
    bone = (distance < 0.9) & (distance > 0.75)
    head[:, bone] = random.uniform(200, 1700, (slices, np.count_nonzero(bone)))
    head[:, distance < 0.75] = 35
    head[:, side // 2, side // 2 - 2 : side // 2 + 3] = 350  # a vessel
    return np.maximum(head + random.normal(0, 8, head.shape), -1024).astype(np.int16)


def noisy_padding(images, value, seed=0):
    """Return the images, around them padding that lossy compression moved by some units."""
    noise = np.random.default_rng(seed).integers(-3, 4, images.shape).astype(np.int16)
    outside = padded(np.zeros_like(images), 1) > 0
    return np.where(outside, np.int16(value) + noise, images)


HEADS = {"plain": head_in_hu, "real": real_head}


@pytest.mark.parametrize("radius", [0.8, 0.5, 0.25, 0.12])
@pytest.mark.parametrize("kind", HEADS)
def test_noisy_padding_undoes_no_intercept(kind, radius, tmp_path):
    head = HEADS[kind](radius=radius, side=160)
    for name, value in (("as if air", -2048), ("far below", -3024), ("near air", -2000)):
        truth = noisy_padding(head, value)
        series = read_series(write_axial(tmp_path / name, truth + np.int16(1024), **TAGS))
        assert np.array_equal(series.pixels, truth) and not series.warnings


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("padding", [None, -1024])
def test_ct_in_hu_with_an_intercept(kind, padding, tmp_path):
    truth = np.maximum(HEADS[kind](), -1024)
    truth = truth if padding is None else padded(truth, padding)
    series = read_series(write_axial(tmp_path, truth, **TAGS))
    assert np.array_equal(series.pixels, truth) and series.warnings == [IN_HU]


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize(("stored", "in_header"), [(12, 12), (12, 16), (13, 13), (16, 16)])
def test_twos_complement_that_is_marked_unsigned(kind, stored, in_header, tmp_path):
    truth = np.maximum(HEADS[kind](), -1024)
    pixels = (truth.astype(int) & ((1 << stored) - 1)).astype(np.uint16)
    bits = {"BitsStored": in_header, "HighBit": in_header - 1}
    tags = TAGS | {"RescaleIntercept": 0} | bits
    series = read_series(write_axial(tmp_path, pixels, **tags))
    assert np.array_equal(series.pixels, truth) and series.warnings == [WRAPPED.format(stored)]


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
@pytest.mark.parametrize("tags", [{"modality": "CT"}, TAGS | {"RescaleIntercept": 0}])
@pytest.mark.parametrize("air", [-1024, -1000])
def test_ct_that_lacks_its_intercept(kind, dtype, tags, air, tmp_path):
    truth = np.maximum(HEADS[kind](), -1024)
    truth[truth < -900] = np.maximum(truth[truth < -900], air)
    if air == -1000:
        truth[truth < -990] = -1024  # no noise in air: all of it is stored as 0
    series = read_series(write_axial(tmp_path, (truth + np.int16(1024)).astype(dtype), **tags))
    assert np.array_equal(series.pixels, truth) and series.warnings == [UNTAGGED]


def test_ct_in_hu_without_tags(tmp_path):
    truth = real_head()
    series = read_series(write_axial(tmp_path, truth, modality="CT"))
    assert np.array_equal(series.pixels, truth) and series.warnings == [TAKEN_FOR_HU]
    tags = TAGS | {"RescaleIntercept": 0}
    series = read_series(write_axial(tmp_path / "tagged", truth, **tags))
    assert np.array_equal(series.pixels, truth) and not series.warnings


def other_ct() -> dict[str, np.ndarray]:
    """Return {name: HU (n, h, w)} of what is no head, or not all of it."""
    random, head = np.random.default_rng(1), real_head(side=96)
    y, x = np.mgrid[-1:1:96j, -1:1:96j]
    in_disc = np.broadcast_to(np.hypot(x, y) < 0.6, head.shape)
    noise = random.normal(0, 8, head.shape)
    bone = random.uniform(300, 1700, head.shape)
    return {
        "bone only": np.where(in_disc, bone, -1000 + noise),
        "water phantom": np.where(in_disc, noise, -1000 + noise),
        "a field of water": noise,
        "a field of air": -1000 + noise,
        "inside the brain": 35 + noise,
        "fat": np.where(in_disc, -100 + noise, -1000 + noise),
        "lung": np.where(in_disc, -800 + 10 * noise, -1000 + noise),
        "clipped above air": np.maximum(head, -200),
        "clipped at 0": np.maximum(head, 0),
        "noise": random.integers(-1024, 3000, head.shape),
    }


@pytest.mark.parametrize("name", other_ct())
def test_right_tags_of_what_is_no_head(name, tmp_path):
    """Signed and unsigned, with an intercept and without, in padding or not."""
    hu = np.maximum(np.rint(other_ct()[name]), -1024).astype(np.int16)
    for number, truth in enumerate((hu, padded(hu, -2048), noisy_padding(hu, -2048))):
        folder = write_axial(tmp_path / f"signed {number}", truth + np.int16(1024), **TAGS)
        assert np.array_equal(read_series(folder).pixels, truth)
    unsigned = write_axial(tmp_path / "unsigned", (hu + np.int16(1024)).astype(np.uint16), **TAGS)
    in_hu = write_axial(tmp_path / "in HU", hu, **TAGS | {"RescaleIntercept": 0})
    for folder in (unsigned, in_hu):
        assert np.array_equal(read_series(folder).pixels, hu)


def test_unsigned_hu_that_were_clipped_at_0(tmp_path):
    """Their bone of 1004 to 1124 HU is no brain that was stored with 1024 added."""
    truth = np.maximum(real_head(side=96), 0).astype(np.uint16)
    series = read_series(write_axial(tmp_path, truth, **TAGS | {"RescaleIntercept": 0}))
    assert np.array_equal(series.pixels, truth) and set(series.warnings) <= {DOUBTFUL}


@pytest.mark.parametrize("intercept", [0, -1024, None])
def test_mr_is_never_mended(intercept, tmp_path):
    pixels = (real_head() + np.int16(1024)).astype(np.int16)
    tags = {} if intercept is None else {"RescaleSlope": 1, "RescaleIntercept": intercept}
    series = read_series(write_axial(tmp_path, pixels, **tags))
    assert np.array_equal(series.pixels, pixels + float(intercept or 0)) and not series.warnings


def test_slices_with_and_without_tags(tmp_path):
    write_axial(tmp_path / "a", real_head()[:4] + np.int16(1024), **TAGS)
    assert not read_series(tmp_path / "a").warnings
    for path in sorted((tmp_path / "a").iterdir())[:2]:
        content = path.read_bytes().replace(b"\x28\x00\x52\x10DS", b"\x29\x00\x52\x10DS")
        path.write_bytes(content.replace(b"\x28\x00\x53\x10DS", b"\x29\x00\x53\x10DS"))
    assert "some slices have rescale tags, others have none" in read_series(tmp_path / "a").warnings


def test_few_slices_are_looked_at(tmp_path, monkeypatch):
    reads = []
    from src.dicom import doubts

    iter_words = doubts.iter_words
    monkeypatch.setattr(doubts, "iter_words", lambda s: reads.append(len(s)) or iter_words(s))
    write_axial(tmp_path / "doubtful", real_head(slices=20) + np.int16(1024), **TAGS)
    read_series(tmp_path / "doubtful")
    assert reads == [1] * 8
    unsigned = (real_head(slices=20) + np.int16(1024)).astype(np.uint16)
    read_series(write_axial(tmp_path / "usual", unsigned, **TAGS))
    read_series(write_axial(tmp_path / "mr", volume()))
    assert reads == [1] * 8


def test_slices_that_cannot_be_decoded_settle_nothing(tmp_path):
    write_axial(tmp_path, np.zeros((2, 8, 8), np.int16), **TAGS)
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        path.write_bytes(content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0"))
    assert reason(tmp_path) == "decode_error"
