"""What can be wrong with a series, injected: the reader gives the volume or a named reason, nothing else."""

import os
import resource
import shutil
import struct
import sys
import time
import tracemalloc
import zlib
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from src.artifacts.paths import ArtifactError, DataFolder
from src.dicom import DicomError, open_series, read_series
from tests.dicom_files import (
    AXES,
    compressed,
    dataset,
    jpeg_2000,
    jpeg_lossless,
    places,
    raw_text,
    save,
    volume,
    write_axial,
    write_frames,
)

JPEG, JPEG_LOSSLESS, JPEG_LS, JPEG_2000 = (
    f"1.2.840.10008.1.2.4.{number}" for number in (50, 70, 80, 90)
)


def reason(folder: Path) -> str:
    with pytest.raises(DicomError) as caught:
        read_series(folder)
    assert str(caught.value) and "Traceback" not in str(caught.value)
    return caught.value.reason


def test_missing_empty_and_hidden(tmp_path):
    assert reason(tmp_path / "nowhere") == "missing"
    assert reason(tmp_path) == "no_dicom"
    save(dataset(volume()[0]), tmp_path / ".hidden")
    save(dataset(volume()[0]), tmp_path / "__MACOSX" / "copy")
    assert reason(tmp_path) == "no_dicom"


def test_a_file_without_bytes_is_left_out(tmp_path):
    (tmp_path / "empty.dcm").touch()
    assert reason(tmp_path) == "empty"
    write_axial(tmp_path, volume())
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, volume()) and series.dropped == [("empty.dcm", "empty")]


@pytest.mark.parametrize(
    "content",
    [
        b"<html>sign in</html>" * 50,
        b"x" * 128 + b"DICM" + b"<html>sign in</html>" * 50,
        b"\x08\x00 hm",
        b"a note",
    ],
)
def test_text_saved_as_dicom(content, tmp_path):
    (tmp_path / "page.dcm").write_bytes(content)
    assert reason(tmp_path) == "not_dicom"


@pytest.mark.parametrize(
    "kept",
    [40, 131, 140, 200, 0.5, -1],
    ids=["preamble", "magic", "meta", "meta end", "header", "pixels"],
)
def test_a_file_that_is_cut(kept, tmp_path):
    whole = save(dataset(volume()[0]), tmp_path / "whole.dcm").read_bytes()
    header = len(whole) - volume()[0].nbytes
    (tmp_path / "whole.dcm").write_bytes(whole[: int(header * kept) if 0 < kept < 1 else kept])
    assert reason(tmp_path) == "truncated"


KINDS = ("plain", "deflated", "RLE", "JPEG", "JPEG lossless", "JPEG-LS", "JPEG 2000")


def test_a_sequence_that_is_cut(tmp_path):
    whole = save(dataset(volume()[0]), tmp_path / "file").read_bytes()
    meta_end = 144 + struct.unpack("<I", whole[140:144])[0]
    (tmp_path / "file").write_bytes(
        whole[:meta_end] + struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    )
    assert reason(tmp_path) == "truncated"


def encoded(kind: str, shape: tuple[int, int] = (6, 5)) -> Dataset:
    """One image of 12 bits (JPEG: 8, JPEG 2000: 16) in one of KINDS."""
    image, twelve = volume(shape, high=4096), {"BitsStored": 12, "HighBit": 11}
    if kind == "JPEG":
        smooth = cv2.GaussianBlur((image // 16).astype(np.uint8), (0, 0), 6)
        return compressed(dataset(smooth), JPEG, [cv2.imencode(".jpg", smooth)[1].tobytes()])
    if kind == "JPEG 2000":
        return compressed(dataset(image), JPEG_2000, [jpeg_2000(image)])
    data = dataset(image, **twelve)
    if kind == "JPEG lossless":
        compressed(data, JPEG_LOSSLESS, [jpeg_lossless(image)])
    elif kind == "deflated":
        data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    elif kind != "plain":
        data.compress(RLELossless if kind == "RLE" else JPEG_LS, generate_instance_uid=False)
    return data


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_is_the_whole_or_a_reason(kind, tmp_path):
    path = save(encoded(kind), tmp_path / "file")
    whole, truth = path.read_bytes(), read_series(tmp_path).pixels
    results = set()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        try:
            assert np.array_equal(read_series(tmp_path).pixels, truth)
            results.add("equal")
        except DicomError as error:
            results.add(error.reason)
    assert results <= {
        "equal",
        "empty",
        "truncated",
        "not_dicom",
        "no_pixels",
        "decode_error",
        "bad_header",
    }
    assert "truncated" in results


REASONS = set(
    "truncated not_dicom no_pixels decode_error bad_header bad_rescale too_large too_deep colour unsupported_bits other_modality missing_decoder".split()
)
MEANING = (
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PhotometricInterpretation",
    "NumberOfFrames",
)


@pytest.fixture(scope="module")
def flipped_files(tmp_path_factory) -> dict[str, tuple]:
    """Kind -> path, its bytes, offset of its first pixel or item, what it holds; and the memory that the process has taken at most."""
    folder = tmp_path_factory.mktemp("flips")
    axes = AXES["axial"]
    paths = {kind: save(encoded(kind), folder / kind / "file") for kind in KINDS}
    paths["frames"] = write_frames(
        folder / "frames" / "file", volume((3, 4, 4)), places(axes, 3), [*axes[2], *axes[1]]
    )
    files = {
        kind: (
            path,
            path.read_bytes(),
            open_series(path).slices[0].file.offset,
            read_series(path).pixels,
        )
        for kind, path in paths.items()
    }
    return files | {"memory": peak_memory()}


def peak_memory() -> int:
    """Bytes of memory that this process has held at once, decoders included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


@settings(max_examples=800, deadline=5000)
@given(
    kind=st.sampled_from([*KINDS, "frames"]),
    in_pixels=st.booleans(),
    at=st.floats(0, 1, exclude_max=True),
    value=st.integers(0, 255),
)
def test_flipped_bytes(kind, in_pixels, at, value, flipped_files):
    """A flip may fall on a pixel or a number, where nothing tells: then it is what another reader makes of it, whole and finite."""
    path, whole, pixels_start, truth = flipped_files[kind]
    start, end = (
        (pixels_start, len(whole))
        if in_pixels and kind != "deflated"
        else (132, pixels_start if kind != "deflated" else len(whole))
    )
    offset = start + int(at * (end - start))
    path.write_bytes(whole[:offset] + bytes([value]) + whole[offset + 1 :])
    try:
        series = read_series(path.parent)
    except DicomError as error:
        assert error.reason in REASONS
    else:
        assert np.isfinite(series.pixels).all()
        if offset >= pixels_start and kind in ("plain", "frames"):
            assert series.pixels.shape == truth.shape and (series.pixels != truth).sum() <= 1
        elif kind != "frames" and (expected := by_pydicom(path, whole)) is not None:
            assert np.array_equal(series.pixels[0], expected)
    assert peak_memory() < flipped_files["memory"] + (300 << 20)


def by_pydicom(path: Path, whole: bytes) -> np.ndarray | None:
    """What pydicom makes of a damaged file; None where it refuses it, or where a flipped tag gives the pixels another meaning."""
    with suppress(Exception):
        data, before = pydicom.dcmread(path), pydicom.dcmread(BytesIO(whole))
        if all(data.get(name) == before.get(name) for name in MEANING):
            return data.pixel_array
    return None


def test_an_element_shorter_than_its_image(tmp_path):
    """What lies behind the pixels is not read as pixels."""
    data = dataset(volume()[0], Rows=24)
    data.add_new(0xFFFCFFFC, "OB", bytes(2000))
    save(data, tmp_path / "file")
    assert reason(tmp_path) == "truncated"


def test_compressed_pixels_that_claim_to_be_plain(tmp_path):
    path = save(compressed(dataset(volume()[0]), RLELossless, [bytes(400)]), tmp_path / "file")
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.5\0", b"1.2.840.10008.1.2.1\0"))
    assert reason(tmp_path) == "decode_error"


def test_deflated_without_a_group_length(tmp_path):
    path = save(encoded("deflated"), tmp_path / "file")
    truth, whole = read_series(tmp_path).pixels, path.read_bytes()
    path.write_bytes(whole[:132] + whole[144:])
    assert np.array_equal(read_series(tmp_path).pixels, truth)


@pytest.mark.parametrize("kind", KINDS[2:])
def test_whole_frames_without_the_end_of_their_list(kind, tmp_path):
    path = save(encoded(kind), tmp_path / "file")
    truth, whole = read_series(tmp_path).pixels, path.read_bytes()
    assert whole.endswith(b"\xfe\xff\xdd\xe0" + bytes(4))
    path.write_bytes(whole[:-8])
    assert np.array_equal(read_series(tmp_path).pixels, truth)


def test_a_frame_in_pieces_that_lacks_the_last(tmp_path):
    stream = jpeg_2000(volume((32, 24)))
    data = compressed(dataset(volume((32, 24))), JPEG_2000, [stream])
    data.PixelData = encapsulate([stream], fragments_per_frame=5)
    path = save(data, tmp_path / "file")
    whole = path.read_bytes()
    assert np.array_equal(read_series(tmp_path).pixels[0], volume((32, 24)))
    path.write_bytes(whole[: whole.rindex(b"\xfe\xff\x00\xe0")])
    assert reason(tmp_path) == "truncated"


def test_more_frames_claimed_than_there(tmp_path):
    data = encoded("RLE")
    data.NumberOfFrames = 3
    save(data, tmp_path / "three" / "file")
    assert reason(tmp_path / "three") == "truncated"
    data.NumberOfFrames = 500000
    save(data, tmp_path / "many" / "file")
    assert reason(tmp_path / "many") == "too_large"


@pytest.mark.parametrize("kind", ["RLE", "JPEG 2000"])
def test_huge_images_are_refused_by_their_header(kind, tmp_path):
    data = encoded(kind)
    data.Rows = data.Columns = 32767
    save(data, tmp_path / "file")
    start = time.perf_counter()
    with at_most(megabytes=50):
        assert reason(tmp_path) == "too_large"
    assert time.perf_counter() - start < 0.1


@contextmanager
def at_most(megabytes: int):
    """The block allocates no more than that at any moment."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < megabytes << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("where", ["header", "pixels"])
def test_a_deflate_bomb(where, tmp_path):
    path = save(encoded("deflated"), tmp_path / "file")
    whole = path.read_bytes()
    start = 144 + struct.unpack("<I", whole[140:144])[0]
    content = zlib.decompress(whole[start:], -zlib.MAX_WBITS)
    packer = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    bomb = [struct.pack("<HH2sHI", 0x0009, 0x0010, b"OB", 0, 400 << 20), *[bytes(1 << 20)] * 400]
    parts = [*bomb, content] if where == "header" else [content, *bomb]
    path.write_bytes(
        whole[:start] + b"".join(packer.compress(part) for part in parts) + packer.flush()
    )
    with at_most(megabytes=100):
        if where == "header":
            assert reason(tmp_path) in ("truncated", "not_dicom", "no_pixels")
        else:
            assert np.array_equal(read_series(tmp_path).pixels[0], volume((6, 5), high=4096))


def test_nested_sequences(tmp_path):
    whole = save(dataset(volume()[0]), tmp_path / "file").read_bytes()
    item, end_item, end = (
        struct.pack("<HHI", 0xFFFE, tag, length)
        for tag, length in ((0xE000, 0xFFFFFFFF), (0xE00D, 0), (0xE0DD, 0))
    )
    sequence = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    meta_end = 144 + struct.unpack("<I", whole[140:144])[0]
    nested = (sequence + item) * 400 + (end_item + end) * 400
    (tmp_path / "file").write_bytes(whole[:meta_end] + nested + whole[meta_end:])
    assert reason(tmp_path) == "too_deep"


@pytest.mark.parametrize(
    ("syntax", "remedy"),
    [
        (JPEG_2000, "pip install pillow"),
        (JPEG_LS, "pip install pyjpegls"),
        ("1.2.840.10008.1.2.4.100", "convert"),
    ],
)
def test_a_missing_decoder(syntax, remedy, tmp_path, monkeypatch):
    save(compressed(dataset(volume()[0]), syntax, [b"12345678"]), tmp_path / "file")
    monkeypatch.setattr("pydicom.pixels.decoders.base.Decoder.is_available", False)
    with pytest.raises(DicomError, match=remedy) as caught:
        open_series(tmp_path)
    assert caught.value.reason == "missing_decoder" and pydicom.uid.UID(syntax).name in str(
        caught.value
    )


@pytest.mark.parametrize("syntax", [JPEG, JPEG_LOSSLESS, JPEG_LS, JPEG_2000, str(RLELossless)])
def test_noise_for_a_compressed_stream(syntax, tmp_path):
    noise = np.random.default_rng(0).bytes(500)
    save(compressed(dataset(volume()[0]), syntax, [noise]), tmp_path / "file")
    assert reason(tmp_path) == "decode_error"


@pytest.mark.parametrize("kind", ["JPEG", "JPEG-LS", "JPEG 2000"])
def test_a_stream_larger_than_its_header_says(kind, tmp_path):
    image = volume((32, 24), high=250).astype(np.uint8)
    data = dataset(volume((32, 24)) if kind == "JPEG 2000" else image)
    if kind == "JPEG-LS":
        data.compress(JPEG_LS, generate_instance_uid=False)
    elif kind == "JPEG":
        compressed(data, JPEG, [cv2.imencode(".jpg", image)[1].tobytes()])
    else:
        compressed(data, JPEG_2000, [jpeg_2000(volume((32, 24)))])
    save(data, tmp_path / "file")
    assert read_series(tmp_path).pixels.shape == (1, 32, 24)
    data.Rows = 33
    save(data, tmp_path / "file")
    with pytest.raises(DicomError, match="not 33 x 24") as caught:
        read_series(tmp_path)
    assert caught.value.reason == "decode_error"


def test_compressed_syntaxes_decode(tmp_path):
    image = volume((32, 24), high=4096)
    smooth = cv2.GaussianBlur(volume((64, 64), high=250).astype(np.uint8), (0, 0), 6)
    twelve = {"BitsStored": 12, "HighBit": 11}
    files = {
        "RLE": dataset(image, **twelve),
        "JPEG-LS": dataset(image, **twelve),
        "deflated": dataset(image, **twelve),
        "JPEG lossless": compressed(
            dataset(image, **twelve), JPEG_LOSSLESS, [jpeg_lossless(image)]
        ),
        "JPEG 2000": compressed(dataset(image), JPEG_2000, [jpeg_2000(image)]),
        "JPEG": compressed(dataset(smooth), JPEG, [cv2.imencode(".jpg", smooth)[1].tobytes()]),
    }
    files["RLE"].compress(RLELossless)
    files["JPEG-LS"].compress(JPEG_LS)
    files["deflated"].file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    for name, data in files.items():
        save(data, tmp_path / name / "file")
        difference = np.abs(
            read_series(tmp_path / name).pixels[0] - (smooth if name == "JPEG" else image)
        ).max()
        assert difference <= (4 if name == "JPEG" else 0), name


def test_compressed_frames_in_any_order(tmp_path):
    images, axes = volume((5, 8, 8), high=4096), AXES["axial"]
    order = [3, 0, 4, 1, 2]
    path = write_frames(
        tmp_path / "file", images[order], places(axes, 5)[order], [*axes[2], *axes[1]]
    )
    save(compressed(pydicom.dcmread(path), JPEG_2000, [jpeg_2000(images[k]) for k in order]), path)
    assert np.array_equal(read_series(tmp_path).pixels, images)


@pytest.mark.parametrize(
    ("index", "instance"), [(4, 99), (0, 15)], ids=["last", "right after the first"]
)
def test_duplicates(index, instance, tmp_path):
    """The first by instance number is kept; a repeat at one position begins no other pass."""
    write_axial(tmp_path, volume())
    for path in tmp_path.iterdir():
        data = pydicom.dcmread(path)
        data.InstanceNumber *= 10
        save(data, path)
    shutil.copy(tmp_path / "002.dcm", tmp_path / "copy.dcm")
    again = pydicom.dcmread(tmp_path / f"{index:03d}.dcm")
    again.SOPInstanceUID, again.InstanceNumber, again.PixelData = (
        "1.2.3.77",
        instance,
        bytes(len(again.PixelData)),
    )
    save(again, tmp_path / "again.dcm")
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, volume())
    assert sorted(series.dropped) == [("again.dcm", "duplicate"), ("copy.dcm", "duplicate")]
    assert series.warnings == ["1 slices repeat a position: the first at each position is taken"]


def test_mixed_series_sizes_orientations_and_spacings(tmp_path):
    write_axial(tmp_path, volume())
    point = [0.0, 0.0, 4.0]
    odd = {
        "other_series": dataset(
            volume()[0],
            SeriesInstanceUID="1.9",
            ImagePositionPatient=point,
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        ),
        "other_size": dataset(
            volume((1, 8, 8))[0],
            ImagePositionPatient=point,
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
        ),
        "other_orientation": dataset(
            volume()[0], ImagePositionPatient=point, ImageOrientationPatient=[1, 0, 0, 0, 0, -1]
        ),
        "other_spacing": dataset(
            volume()[0],
            ImagePositionPatient=point,
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            PixelSpacing=[1, 1],
        ),
        "other_modality": dataset(volume()[0], modality="PT"),
    }
    for number, (name, data) in enumerate(odd.items()):
        data.SOPInstanceUID = f"1.2.3.9{number}"
        save(data, tmp_path / name)
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, volume())
    assert sorted(series.dropped) == sorted((name, name) for name in odd)


@pytest.mark.parametrize(
    "fault",
    ["no position", "same position", "no orientation", "few without position", "nothing at all"],
)
def test_order_without_positions(fault, tmp_path):
    images = volume()
    write_axial(tmp_path, images, order=[0, 1, 2, 3, 4, 5, 6], names=list("gbadfec"))
    for path in tmp_path.iterdir():
        data = pydicom.dcmread(path)
        if fault in ("no position", "nothing at all") or (
            fault == "few without position" and path.name == "d"
        ):
            del data.ImagePositionPatient
        elif fault == "same position":
            data.ImagePositionPatient = [1, 2, 3]
        if fault == "no orientation":
            del data.ImageOrientationPatient
        if fault == "nothing at all":
            del data.InstanceNumber
        data.save_as(path)
    series = read_series(tmp_path)
    notes = {
        "no position": "no positions: ordered by instance number and stored frame",
        "nothing at all": "no positions: ordered by SOP UID",
        "same position": "all positions are the same: ordered by instance number and stored frame",
        "no orientation": "no orientation: ordered along the patient's z axis",
        "few without position": "1 gaps of up to 5.00 mm, the median distance is 2.50 mm",
    }
    assert series.warnings[0] == notes[fault]
    if fault == "few without position":
        assert series.dropped == [("d", "no_position")] and np.array_equal(
            series.pixels, np.delete(images, 3, axis=0)
        )
    else:
        assert np.array_equal(series.pixels, images) and not series.dropped
        assert (series.positions is None) == (
            fault in ("no position", "same position", "nothing at all")
        )


@pytest.mark.parametrize(
    ("slope", "intercept", "expected"),
    [
        ("0", "7", lambda x: 0 * x + 7),
        ("", "", lambda x: x),
        (None, "-1024", lambda x: x - 1024),
        ("2", None, lambda x: 2 * x),
        ("-1", "0", lambda x: -x),
        ("1.5E-3", "-4096", lambda x: x * 1.5e-3 - 4096),
        ("nan", "0", "bad_rescale"),
        ("1", "inf", "bad_rescale"),
        ("one", "0", "bad_rescale"),
        ("1\\2", "0", "bad_rescale"),
        ("1e38", "0", "bad_rescale"),
    ],
)
def test_rescale(slope, intercept, expected, tmp_path):
    data = dataset(volume()[0])
    for tag, value in (("RescaleSlope", slope), ("RescaleIntercept", intercept)):
        if value is not None:
            raw_text(data, tag, value)
    save(data, tmp_path / "file")
    if isinstance(expected, str):
        assert reason(tmp_path) == expected
    else:
        np.testing.assert_allclose(
            read_series(tmp_path).pixels[0], expected(volume()[0].astype(float)), rtol=1e-6
        )


def test_slope_and_intercept_of_each_slice(tmp_path):
    images = volume()
    for k in range(7):
        write_axial(tmp_path / f"{k}", images, RescaleSlope=k + 1, RescaleIntercept=-k)
        shutil.move(tmp_path / f"{k}" / f"{k:03d}.dcm", tmp_path / f"{k}.dcm")
        shutil.rmtree(tmp_path / f"{k}")
    numbers = np.arange(7)[:, None, None]
    assert np.array_equal(read_series(tmp_path).pixels, images * (numbers + 1.0) - numbers)


def test_forms_of_pixels(tmp_path):
    stored = np.array([[0, 1, 2047], [2048, 4095, 65535]], np.uint16)
    cases = {
        "8 bit": (dataset(np.array([[0, 255]], np.uint8)), [[0, 255]]),
        "32 bit": (dataset(np.array([[0, 70000]], np.uint32)), [[0, 70000]]),
        "16 bit signed": (dataset(np.array([[-5, 7]], np.int16)), [[-5, 7]]),
        "12 bit in 16": (
            dataset(stored, BitsStored=12, HighBit=11),
            [[0, 1, 2047], [2048, 4095, 4095]],
        ),
        "signed 12 bit in 16": (
            dataset(stored, BitsStored=12, HighBit=11, PixelRepresentation=1),
            [[0, 1, 2047], [-2048, -1, -1]],
        ),
        "12 high bits": (
            dataset(np.array([[0x1230, 0xFFFF]], np.uint16), BitsStored=12, HighBit=15),
            [[0x123, 0xFFF]],
        ),
        "MONOCHROME1": (
            dataset(stored, BitsStored=12, HighBit=11, PhotometricInterpretation="MONOCHROME1"),
            [[4095, 4094, 2048], [2047, 0, 0]],
        ),
    }
    for name, (data, expected) in cases.items():
        save(data, tmp_path / name / "file")
        assert read_series(tmp_path / name).pixels[0].tolist() == expected, name


def test_pixels_that_are_not_grey_or_not_plain(tmp_path):
    colour = dataset(
        np.zeros((4, 12), np.uint8),
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
        Columns=4,
    )
    palette = dataset(np.zeros((4, 4), np.uint8), PhotometricInterpretation="PALETTE COLOR")
    odd = dataset(volume()[0], BitsAllocated=12, BitsStored=12, HighBit=11)
    for name, data, expected in (
        ("rgb", colour, "colour"),
        ("palette", palette, "colour"),
        ("odd", odd, "unsupported_bits"),
    ):
        save(data, tmp_path / name / "file")
        assert reason(tmp_path / name) == expected


@pytest.mark.parametrize("bits", [32, 64])
def test_float_pixels(bits, tmp_path):
    for name, bad in (("good", 1.5), ("nan", np.nan), ("inf", np.inf)):
        data = dataset(volume((2, 2)))
        del data.PixelData, data.BitsStored, data.HighBit, data.PixelRepresentation
        data.BitsAllocated = bits
        setattr(
            data,
            "FloatPixelData" if bits == 32 else "DoubleFloatPixelData",
            np.array([0, -2.25, bad, 3], f"f{bits // 8}").tobytes(),
        )
        save(data, tmp_path / name / "file")
    assert read_series(tmp_path / "good").pixels[0].tolist() == [[0, -2.25], [1.5, 3]]
    assert reason(tmp_path / "nan") == reason(tmp_path / "inf") == "non_finite"


def test_one_slice_and_three_thousand(tmp_path):
    write_axial(tmp_path / "one", volume((1, 4, 4)))
    assert read_series(tmp_path / "one").pixels.shape == (1, 4, 4)
    images, axes = volume((3000, 4, 4)), AXES["axial"]
    write_frames(tmp_path / "many" / "file", images, places(axes, 3000, 0.5), [*axes[2], *axes[1]])
    assert np.array_equal(read_series(tmp_path / "many").pixels, images)


def test_links(tmp_path):
    outside = write_axial(tmp_path / "outside", volume())
    folder = tmp_path / "series"
    (folder / "deeper").mkdir(parents=True)
    for path in outside.iterdir():
        (folder / "deeper" / path.name).symlink_to(path)
    (folder / "deeper" / "circle").symlink_to(folder)
    (folder / "a").symlink_to(folder / "b")
    (folder / "b").symlink_to(folder / "a")
    (folder / "gone").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe")
    series = read_series(folder)
    assert np.array_equal(series.pixels, volume())
    assert sorted(series.dropped) == [
        ("a", "unreadable"),
        ("b", "unreadable"),
        ("gone", "unreadable"),
        ("pipe", "not_dicom"),
    ]


def test_odd_names(tmp_path):
    names = ["a b.dcm", "ünï.DCM", "I10", "x.IMA", "i003.MRDC.1", "no suffix", "1.2.840"]
    write_axial(tmp_path / "with spaces ü", volume(), names=names)
    assert np.array_equal(read_series(tmp_path / "with spaces ü").pixels, volume())
    for uid in ("../../etc", "1.2/3", "", ".", "1" * 65, "1.2\n"):
        with pytest.raises(ArtifactError):
            DataFolder(tmp_path).series(uid)


def test_a_damaged_slice_costs_only_itself(tmp_path):
    write_axial(tmp_path, volume())
    path = tmp_path / "003.dcm"
    path.write_bytes(path.read_bytes()[:-7])
    series = read_series(tmp_path)
    assert np.array_equal(series.pixels, np.delete(volume(), 3, axis=0)) and series.dropped == [
        ("003.dcm", "truncated")
    ]
    assert (
        len(series.sop_uids) == len(series.frames) == len(series.positions) == 6
        and "1 gaps" in series.warnings[0]
    )
    data = pydicom.dcmread(tmp_path / "005.dcm")
    save(compressed(data, JPEG_LS, [b"noise" * 9]), tmp_path / "005.dcm")
    series = read_series(tmp_path)
    assert (
        np.array_equal(series.pixels, np.delete(volume(), [3, 5], axis=0))
        and ("005.dcm", "decode_error") in series.dropped
    )
    assert len(series.sop_uids) == len(series.frames) == len(series.positions) == 5
    assert series.warnings == [
        "2 gaps of up to 5.00 mm, the median distance is 2.50 mm"
    ]  # one sentence for both
