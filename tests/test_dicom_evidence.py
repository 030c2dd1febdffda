"""Evidence against headers, by explicit loops over small images in memory."""

import math

import numpy as np
import pytest

from src.dicom import doubts
from src.dicom.coding import ModalityLut
from src.dicom.doubts import Evidence, _as_signed, _evidence, _readings, _sample, settle_doubts
from src.dicom.errors import DicomError
from tests.slices_in_memory import a_slice

SIDE = 14
ENDS = [-2000, -1101, -1100, -1000, -900, -899, -161, -160, -40, -39, -21, -20, 35, 100, 101, 119]
ENDS += [120, 240, 241, 250, 251, 700, 1274, 1275, 1900]
CT = {"modality": "CT", "signed": True}


def pixels_of(hu: np.ndarray) -> list[tuple[int, int, int]]:
    """Return (row, column, HU) of all pixels of images (n, h, w)."""
    found = []
    for image in hu.tolist():
        for y, row in enumerate(image):
            found += [(y, x, value) for x, value in enumerate(row)]
    return found


def spread(pixels: list, middle_of: list) -> float:
    """Return the mean squared distance of pixels from the middle of others."""
    y0 = sum(y for y, _, _ in middle_of) / len(middle_of)
    x0 = sum(x for _, x, _ in middle_of) / len(middle_of)
    return sum((y - y0) ** 2 + (x - x0) ** 2 for y, x, _ in pixels) / len(pixels)


def near_edge(pixels: list, height: int, width: int) -> int:
    count = 0
    for y, x, _ in pixels:
        radius = math.hypot(2 * y / (height - 1) - 1, 2 * x / (width - 1) - 1)
        count += 0.85 < radius < 0.97
    return count


def plain_evidence(hu: np.ndarray, padding: set[int]) -> Evidence:
    every = pixels_of(hu)
    lowest = min(value for _, _, value in every)
    patient = [pixel for pixel in every if pixel[2] not in padding]

    def between(low: float, high: float) -> list:
        return [pixel for pixel in patient if low <= pixel[2] <= high]

    air, tissue = between(-1100, -900), between(-20, 100)
    beside = max(len(between(-160, -40)), len(between(120, 240)))
    bone, found = len(between(251, 9999)), min(len(air), len(tissue))
    dense = sum(value > 1274 for _, _, value in every)
    around = bool(air and tissue) and spread(air, tissue) > spread(tissue, tissue)
    edges = [near_edge(kind, *hu.shape[1:]) for kind in (air, tissue)]
    return Evidence(
        found / max(sum(value != lowest for _, _, value in patient), 1),
        len(tissue) > 2 * beside and around,
        bone > found / 100 and dense < bone / 2,
        edges[0] > edges[1],
    )


@pytest.mark.parametrize("seed", range(40))
def test_evidence_by_explicit_loops(seed):
    """Any mixture of the limits of all classes, with air inside or around."""
    random = np.random.default_rng(seed)
    weights = random.dirichlet(np.full(len(ENDS), 0.3))
    hu = random.choice(ENDS, (2, SIDE, SIDE + 3), p=weights)
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : (SIDE + 3) * 1j]
    head = np.hypot(y - 0.4 * random.random(), x - 0.6 * random.random()) < random.uniform(0.3, 1)
    hu[:, head if seed % 2 else ~head] = random.choice([35, -20, 100], hu.shape)[:, head if seed % 2
        else ~head]  # fmt: skip
    outside = ~head if seed % 2 else head
    where = np.broadcast_to(outside, hu.shape) & (random.random(hu.shape) < 0.8)
    hu[where] = random.choice([-1000, -1100, -900, -1200, 240], hu.shape)[where]
    padding = (-1000, -1000) if seed % 5 == 4 else None
    sample = [(a_slice(padding=padding, **CT), image.astype(np.int16)) for image in hu]
    expected = plain_evidence(hu, {-1000} if padding else set())
    assert _evidence(sample) == pytest.approx(expected)


def test_the_lowest_value_is_no_air_where_it_may_be_padding():
    """The lowest value is all that a wrong intercept would make air of."""
    hu = np.full((SIDE, SIDE), -1000, np.int16)
    hu[4:9, 4:9] = 35
    sample = [(a_slice(intercept=-1000.0, **CT), hu)]
    reading = _readings([sample[0][0]])[0]
    assert not reading.lowest_is_air and _evidence(sample, reading).fraction == 0
    hu[0, :8] = -1010
    # The lowest are 8 then; the others are air.
    assert _evidence(sample, reading).fraction == 25 / (SIDE**2 - 8)
    untagged = [(a_slice(**CT), hu + np.int16(1024))]
    reading = _readings([untagged[0][0]])[0]
    assert reading.lowest_is_air and _evidence(untagged, reading).fraction == 25 / (SIDE**2 - 8)


@pytest.mark.parametrize(
    ("evidence", "agrees", "suggests", "proves"),
    [
        (Evidence(0.021, True, True, True), True, True, True),
        (Evidence(0.021, False, True, True), False, True, False),
        (Evidence(0.021, True, False, True), True, True, False),
        (Evidence(0.021, True, True, False), True, True, False),
        (Evidence(0.02, True, True, True), True, False, False),
        (Evidence(0.0011, True, False, False), True, False, False),
        (Evidence(0.001, True, True, True), False, False, False),
    ],
)
def test_what_evidence_is_worth(evidence, agrees, suggests, proves):
    assert (evidence.agrees, evidence.suggests, evidence.proves) == (agrees, suggests, proves)


IGNORED = "CT stored in HU: its rescale intercept was ignored"
LUT = ModalityLut(0, np.zeros(2, np.float32).tobytes(), "HU")
PLUS = "CT stored as HU + 1024 without a rescale intercept: 1024 was subtracted"


def complement(bits: int) -> str:
    return f"CT in two's complement of {bits} bits, marked as unsigned: it was read as signed"


@pytest.mark.parametrize(
    ("slices", "notes"),
    [
        ([{**CT, "intercept": -1024.0}], [IGNORED]),
        ([{**CT, "intercept": -1100.0}, {**CT, "intercept": -900.0}], [IGNORED]),
        ([{**CT, "intercept": -1101.0}], []),
        ([{**CT, "intercept": -899.0}], []),
        ([{**CT, "intercept": -1024.0}, CT], []),
        ([{"modality": "CT", "intercept": -1024.0}], []),
        ([{**CT, "intercept": -1024.0}, {"modality": "CT", "intercept": -1024.0}], []),
        ([{"modality": "MR", "signed": True}], []),
        ([CT, {"modality": "MR"}], []),
        ([{**CT, "is_float": True}], []),
        ([{**CT, "modality_lut": LUT}], []),
        ([{**CT, "slope": 2.0}], []),
        ([CT], [PLUS]),
        ([CT, {"modality": "CT"}], [PLUS]),
        ([{"modality": "CT"}], [PLUS, complement(16), complement(12)]),
        ([{"modality": "CT", "stored": 12}], [PLUS, complement(12)]),
        ([{"modality": "CT", "stored": 11}], [PLUS, complement(12), complement(11)]),
    ],
)
def test_how_else_stored_values_may_be_meant(slices, notes):
    assert [reading.note for reading in _readings([a_slice(**one) for one in slices])] == notes


def test_readings_change_nothing_else():
    signed = a_slice(intercept=-1024.0, **CT)
    assert _readings([signed])[0].of(signed) == a_slice(**CT)
    assert _readings([a_slice(**CT)])[0].of(a_slice(**CT)) == signed
    unsigned = {"modality": "CT", "stored": 13, "high_bit": 12}
    assert _as_signed(12).lowest_is_air
    mended = a_slice(modality="CT", stored=12, high_bit=11, signed=True)
    assert _as_signed(12).of(a_slice(**unsigned)) == mended
    mended = a_slice(modality="CT", stored=11, high_bit=10, signed=True)
    assert _as_signed(12).of(a_slice(**unsigned | {"stored": 11})) == mended
    ends = _as_signed(16).of(a_slice(padding=(5, 65535))).file.padding
    assert ends == (-1, 5)
    assert _as_signed(16).of(a_slice(padding=(32767, 32768))).file.padding == (-32768, 32767)


def in_memory(monkeypatch, images: dict[int, np.ndarray]) -> list[int]:
    """Make slices hold images by instance number; return a list of those that are read."""
    reads = []

    def words(slices):
        assert len(slices) == 1
        reads.append(slices[0].instance)
        if slices[0].instance not in images:
            raise DicomError("decode_error", "no such image")
        yield images[slices[0].instance]

    monkeypatch.setattr(doubts, "iter_words", words)
    return reads


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [0]), (5, [0, 1, 2, 3, 4]), (8, [*range(8)]), (15, [*range(0, 15, 2)])],
)
def test_eight_slices_from_the_first_to_the_last_are_looked_at(count, expected, monkeypatch):
    image = np.arange(600 * 300).reshape(600, 300)
    reads = in_memory(monkeypatch, {k: image for k in range(count) if k != 1})
    slices = [a_slice(k, instance=k, rows=600, columns=300) for k in range(count)]
    sample = _sample(slices)
    assert reads == expected
    assert [slice_.instance for slice_, _ in sample] == [k for k in expected if k != 1]
    assert all(np.array_equal(stored, image[::4, ::4]) for _, stored in sample)
    wide = a_slice(0, instance=0, rows=200, columns=255)
    assert np.array_equal(_sample([wide])[0][1], image)
    wider = a_slice(0, instance=0, rows=200, columns=256)
    assert np.array_equal(_sample([wider])[0][1], image[::2, ::2])


LOW, HIGH = "the low bits are read", "the high bits are read, the low ones are empty"


@pytest.mark.parametrize(
    ("high_bit", "empty", "filled", "note"),
    [
        (15, 50, 50, HIGH),
        (15, 49, 51, LOW),
        (12, 75, 25, HIGH),  # one bit is empty by chance in half of the pixels
        (12, 74, 26, LOW),
        (13, 50, 50, HIGH),
        (15, 0, 0, LOW),
        (12, 1, 0, HIGH),
    ],
)
def test_low_bits_are_empty_in_most_pixels(high_bit, empty, filled, note, monkeypatch):
    """Pixels of 0 say nothing."""
    below = high_bit - 11
    image = np.zeros((12, 30), np.uint16)
    image.ravel()[:empty] = 3 << below
    image.ravel()[empty : empty + filled] = (1 << below) + 1
    in_memory(monkeypatch, {0: image, 1: np.full((12, 30), 5, np.uint16)})
    form = {"stored": 12, "modality": "MR"}
    high = a_slice(0, instance=0, high_bit=high_bit, **form)
    plain = a_slice(1, instance=1, high_bit=11, **form)
    slices, notes = settle_doubts([plain, high])
    assert notes == [f"HighBit is {high_bit}, but BitsStored is 12: {note}"]
    lower = a_slice(0, instance=0, high_bit=11, **form)
    assert slices == [plain, lower if note == LOW else high]


def test_a_high_bit_of_slices_that_cannot_be_read(monkeypatch):
    in_memory(monkeypatch, {})
    slices, notes = settle_doubts([a_slice(0, instance=0, stored=12, high_bit=15)])
    assert notes == [f"HighBit is 15, but BitsStored is 12: {LOW}"]
    assert slices[0].file.high_bit == 11
    assert settle_doubts([a_slice(0, instance=0)]) == ([a_slice(0, instance=0)], [])


SCATTERED = "the padding value is scattered over the images like any other: it was ignored"


@pytest.mark.parametrize(
    ("rows", "padding", "form", "ignored"),
    [
        ([[7, 7, 7, 0], [0, 0, 0, 7]], (7, 7), {}, False),
        ([[7, 0, 7, 0], [0, 7, 0, 7]], (7, 7), {}, True),
        ([[7, 7, 0, 0], [0, 0, 0, 0]], (7, 7), {}, False),  # one of two, which is half
        ([[7, 7, 0, 7], [0, 7, 0, 0]], (7, 7), {}, True),  # one of three
        ([[7, 0, 7, 0], [0, 7, 0, 7]], (0, 0), {}, False),  # as dark as the background
        ([[7, 0, 7, 0], [0, 7, 0, 7]], (0, 7), {}, False),
        ([[7, 0, 7, 0], [0, 7, 0, 7]], (7, 9), {"slope": -1.0}, False),
        ([[7, 0, 7, 0], [0, 7, 0, 7]], (7, 7), {"intercept": 50.0}, True),
        ([[7, 0, 7, 0], [0, 7, 0, 7]], None, {}, False),
        ([[5, 5, 5, 5], [5, 5, 5, 5]], (7, 7), {}, False),
    ],
)
def test_padding_that_is_scattered(rows, padding, form, ignored, monkeypatch):
    in_memory(monkeypatch, {0: np.array(rows, np.uint16)})
    slice_ = a_slice(0, instance=0, padding=padding, **form)
    slices, notes = settle_doubts([slice_])
    assert notes == ([SCATTERED] if ignored else [])
    assert slices[0].file.padding == (None if ignored else padding)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([{"monochrome1": True}, {}], "MONOCHROME1 was inverted"),
        ([{"monochrome1": True, "modality": "CT", "slope": 2.0, "rescaled": True}],
         "MONOCHROME1 concerns the display: HU were not inverted"),
        ([{}, {"slope": 0.0}], "a rescale slope of 0"),
        ([{"modality": "CT", "slope": 2.0, "rescaled": True}, {"modality": "CT", "slope": 2.0}],
         "some slices have rescale tags, others have none"),
        ([{"rescaled": True}, {}], None),
        ([{"modality": "CT", "modality_lut": LUT._replace(unit="US"), "rescaled": True}],
         "the Modality LUT of this CT does not say that it gives HU"),
        ([{"modality": "CT", "modality_lut": LUT, "rescaled": True}], None),
        ([{"modality_lut": LUT._replace(unit="US")}], None),
        ([{"length": 64}], "more frames in the pixel data than NumberOfFrames says: the first are "
         "read"),
        ([{"length": 63}], None),
        ([{"length": 64, "frames": 2}], None),
    ],
)  # fmt: skip
def test_other_doubts(changes, words, monkeypatch):
    in_memory(monkeypatch, {})
    _, notes = settle_doubts([a_slice(k, instance=k, **one) for k, one in enumerate(changes)])
    assert notes == ([] if words is None else [words])
