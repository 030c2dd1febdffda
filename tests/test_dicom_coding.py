"""Rarer ways to code pixels: tables in place of lines, words, icons, frames beyond the count."""

import struct

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate_extended
from pydicom.pixels import apply_modality_lut
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from src.dicom import open_series, read_series
from src.preprocess.images import prepare
from tests.compressed_files import JPEG_LOSSLESS, compressed, encoded, jpeg_lossless
from tests.dicom_files import (
    AXES,
    dataset,
    head_in_hu,
    places,
    reason,
    save,
    volume,
    write_axial,
    write_frames,
)
from tests.reference import plain_images

CT = {"modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024}


@pytest.mark.parametrize("shape", [(4, 6), (3, 5)])  # an odd number of bytes, too
@pytest.mark.parametrize("vr", ["OB", "OW"])
def test_8_bits_in_big_endian(vr, shape, tmp_path):
    """In words the two bytes change places (PS3.5 8.1.1)."""
    images = volume((4, *shape), high=256).astype(np.uint8)
    data = dataset(images, NumberOfFrames=4)
    if vr == "OW":
        data.PixelData = np.frombuffer(images.tobytes(), "<u2").astype(">u2").tobytes()
    data["PixelData"].VR = vr
    data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    path = save(data, tmp_path / "file")
    assert np.array_equal(read_series(tmp_path).pixels, images)
    assert np.array_equal(pydicom.dcmread(path).pixel_array, images)


SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]


def with_lut(pixels, entries, first, bits, vr, syntax, **tags) -> Dataset:
    """Return an image with a Modality LUT of `entries`; tags override the header's."""
    data = dataset(pixels, **tags)
    data.file_meta.TransferSyntaxUID = syntax
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    if pixels.itemsize > 1:
        data.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    item, signed = Dataset(), pixels.dtype.kind == "i"
    descriptor = [len(entries) % (1 << 16), first, bits]
    item.add_new("LUTDescriptor", "SS" if signed else "US", descriptor)
    if bits == 8:
        content = entries.astype(np.uint8).tobytes() + b"\0" * (len(entries) % 2)
        content = np.frombuffer(content, "<u2").astype(order + "u2").tobytes()
    else:
        content = entries.astype(order + "u2").tobytes()
    item.add_new("LUTData", vr, entries.tolist() if vr == "US" else content)
    item.ModalityLUTType = "US"
    data.ModalityLUTSequence = Sequence([item])
    return data


@pytest.mark.parametrize("syntax", SYNTAXES, ids=["implicit", "little", "big"])
@pytest.mark.parametrize(
    ("dtype", "first", "count", "bits", "vr"),
    [
        (np.uint16, 0, 4096, 16, "OW"),
        (np.uint16, 100, 300, 16, "US"),  # stored values go beyond both ends
        (np.uint16, 0, 65536, 16, "OW"),
        (np.int16, -500, 1000, 16, "OW"),
        (np.int16, -500, 1000, 16, "US"),
        (np.uint16, 10, 256, 8, "OW"),
        (np.uint16, 10, 255, 8, "OW"),
        (np.uint8, 0, 256, 16, "US"),
    ],
)
def test_a_modality_lut(dtype, first, count, bits, vr, syntax, tmp_path):
    low, high = (-600, 700) if dtype == np.int16 else (0, 256 if dtype == np.uint8 else 65536)
    pixels = np.random.default_rng(0).integers(low, high, (12, 10)).astype(dtype)
    entries = np.arange(count) ** 2 % 60000 // (1 if bits == 16 else 240)
    data = with_lut(pixels, entries, first, bits, vr, syntax, RescaleSlope=3, RescaleIntercept=7)
    save(data, tmp_path / "file")
    expected = entries[np.clip(pixels.astype(int) - first, 0, count - 1)]
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels[0], expected)
    images = prepare(open_series(tmp_path), 16, "percentile").in_memory().images
    assert np.array_equal(images, plain_images(series, 16, "percentile"))
    if syntax == ExplicitVRLittleEndian and bits == 16 and dtype != np.int16:
        read = pydicom.dcmread(tmp_path / "file")
        assert np.array_equal(series.pixels[0], apply_modality_lut(read.pixel_array, read))


def test_damaged_modality_luts(tmp_path):
    for name, damage in (
        ("short", {"LUTData": b"\1\0"}),
        ("no entries", {"LUTData": None}),
        ("no descriptor", {"LUTDescriptor": None}),
    ):
        data = with_lut(volume()[0], np.arange(4096), 0, 16, "OW", ExplicitVRLittleEndian)
        for tag, value in damage.items():
            del data.ModalityLUTSequence[0][tag]
            if value:
                data.ModalityLUTSequence[0].add_new(tag, "OW", value)
        save(data, tmp_path / name / "file")
        assert reason(tmp_path / name) == "bad_rescale"


def test_a_lut_of_ct_must_say_that_it_gives_hu(tmp_path):
    for unit in ("HU", "US"):
        data = with_lut(
            volume()[0], np.arange(4096), 0, 16, "OW", ExplicitVRLittleEndian, modality="CT"
        )
        data.ModalityLUTSequence[0].ModalityLUTType = unit
        save(data, tmp_path / unit / "file")
        warned = [note for note in read_series(tmp_path / unit).warnings if "Modality LUT" in note]
        assert len(warned) == (unit == "US")


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_monochrome1(modality, tmp_path):
    truth = head_in_hu()
    stored = (truth + np.int16(1024)).astype(np.int16)
    tags = CT | {"modality": modality, "PhotometricInterpretation": "MONOCHROME1"}
    series = read_series(write_axial(tmp_path, stored, **tags))
    if modality == "CT":
        assert np.array_equal(series.pixels, truth)
        assert series.warnings == ["MONOCHROME1 concerns the display: HU were not inverted"]
    else:
        assert np.array_equal(series.pixels, -1.0 - stored - 1024)
        assert series.warnings == ["MONOCHROME1 was inverted"]


MORE = "more frames in the pixel data than NumberOfFrames says: the first are read"


def test_more_frames_than_the_header_says(tmp_path):
    images, axes = volume((5, 8, 6)), AXES["axial"]
    path = write_frames(tmp_path / "file", images, places(axes, 5), [*axes[2], *axes[1]])
    assert MORE not in read_series(tmp_path).warnings
    data = pydicom.dcmread(path)
    data.NumberOfFrames = 3
    save(data, path)
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, images[:3]) and MORE in series.warnings


def test_more_compressed_frames_than_the_header_says(tmp_path):
    images, axes = volume((5, 8, 6), high=4096), AXES["axial"]
    path = write_frames(tmp_path / "file", images, places(axes, 5), [*axes[2], *axes[1]])
    data = compressed(pydicom.dcmread(path), JPEG_LOSSLESS, list(map(jpeg_lossless, images)))
    save(data, path)
    assert MORE not in read_series(tmp_path).warnings
    data.NumberOfFrames = 3
    save(data, path)
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, images[:3]) and MORE in series.warnings
    frames = list(map(jpeg_lossless, images))
    data.PixelData, data.ExtendedOffsetTable, data.ExtendedOffsetTableLengths = (
        encapsulate_extended(frames)
    )
    save(data, path)
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, images[:3]) and MORE in series.warnings


def test_slices_share_a_modality_lut(tmp_path):
    for k in range(3):
        data = with_lut(volume()[k], np.arange(4096), 0, 16, "OW", ExplicitVRLittleEndian)
        data.InstanceNumber, data.SOPInstanceUID = k, f"1.2.3.{k}"
        save(data, tmp_path / str(k))
    assert len({id(slice_.file.modality_lut) for slice_ in open_series(tmp_path).slices}) == 1


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    is_long = vr in (b"OW", b"OB")
    return (
        head
        + struct.pack("<HI" if is_long else "<H", *([0] if is_long else []), len(value))
        + value
    )


@pytest.mark.parametrize("case", ["an icon before", "twice", "in the middle", "an icon behind"])
def test_pixels_before_the_rest_of_the_header(case, tmp_path):
    truth = head_in_hu(slices=1)
    stored = (truth + np.int16(924)).astype(np.int16)
    write_axial(tmp_path, stored, **CT | {"RescaleIntercept": -924})
    path = tmp_path / "000.dcm"
    whole = path.read_bytes()
    pixels = element(0x7FE00010, b"OW", stored.tobytes())
    icon = element(0x7FE00010, b"OW", bytes(128))
    head, at = whole[: -len(pixels)], whole.find(b"\x28\x00\x03\x01US")
    assert whole == head + pixels and at > 0
    path.write_bytes({
        "an icon before": whole[:at] + icon + head[at:] + pixels,
        "twice": whole[:at] + pixels + head[at:] + pixels,
        "in the middle": whole[:at] + pixels + head[at:],
        "an icon behind": whole[:at] + pixels + head[at:] + icon,
    }[case])  # fmt: skip
    assert np.array_equal(read_series(tmp_path).pixels, truth)


def test_compressed_pixels_before_the_rest_of_the_header(tmp_path):
    truth = head_in_hu(slices=1)[0]
    data = dataset((truth + np.int16(924)).astype(np.int16), **CT | {"RescaleIntercept": -924})
    data.compress(RLELossless, generate_instance_uid=False)
    whole = save(data, tmp_path / "file").read_bytes()
    at, start = whole.find(b"\x28\x00\x03\x01US"), whole.find(b"\xe0\x7f\x10\x00")
    (tmp_path / "file").write_bytes(whole[:at] + whole[start:] + whole[at:start])
    assert np.array_equal(read_series(tmp_path).pixels[0], truth)


@pytest.mark.parametrize("kind", ["plain", "JPEG 2000"])
def test_what_is_behind_the_pixels_does_not_matter(kind, tmp_path):
    path = save(encoded(kind), tmp_path / "file")
    truth, whole = read_series(tmp_path).pixels, path.read_bytes()
    tails = [bytes(64), b"\x20" * 64, b"\x28\x00\x10\x00US\xff\xff", b"\x10\x00\x10\x00PN\x04\x00a"]
    for tail in tails:
        path.write_bytes(whole + tail)
        assert np.array_equal(read_series(tmp_path).pixels, truth)
