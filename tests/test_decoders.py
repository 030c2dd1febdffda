"""Compressed frames: what comes out, against GDCM; and what is refused before it is decoded."""

import subprocess
import sys
import tracemalloc

import cv2
import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate

from src.dicom import open_series, read_series
from tests.compressed_files import (
    HTJ2K,
    JPEG,
    JPEG_2000,
    JPEG_LOSSLESS,
    JPEG_LS,
    SIGNED_JPEG_LS,
    compressed,
    jpeg_lossless,
    jpeg_ls,
    signed_image,
)
from tests.dicom_files import AXES, dataset, places, reason, save, volume, write_frames

JPEG_EXTENDED, JPEG_2000_LOSSY, HTJ2K_LOSSY = (
    f"1.2.840.10008.1.2.4.{number}" for number in (51, 91, 203)
)
DEPTHS = [(8, 0), (8, 1), (10, 0), (12, 0), (12, 1), (16, 0), (16, 1)]


def image_of(bits: int, signed: int) -> np.ndarray:
    """Return an image (24, 20) that uses all values of so many bits."""
    low = -(1 << (bits - 1)) if signed else 0
    image = np.random.default_rng(bits).integers(low, low + (1 << bits), (24, 20))
    image[:12] = image[:12] // 64 + 7
    image[0, :2] = low, low + (1 << bits) - 1
    return image.astype(f"{'iu'[not signed]}{1 if bits == 8 else 2}")


def unsigned(image: np.ndarray, bits: int) -> np.ndarray:
    """Return its bits, as codecs without a sign see them."""
    return (image.astype(int) & ((1 << bits) - 1)).astype(f"u{image.itemsize}")


def lossless_jpeg(image: np.ndarray, bits: int, predictor: int = 1) -> bytes:
    return imagecodecs.jpeg8_encode(image, lossless=True, predictor=predictor, bitspersample=bits)


def jpeg_2000(image: np.ndarray, bits: int, **options) -> bytes:
    options = {"level": 0, "codecformat": "j2k", "reversible": True} | options
    narrow = {} if bits in (8, 16) else {"bitspersample": bits}
    return imagecodecs.jpeg2k_encode(image, **options, **narrow)


def stream_of(kind: str, image: np.ndarray, bits: int) -> tuple[str, bytes]:
    """Return the transfer syntax and the stream of an image."""
    without_sign = unsigned(image, bits)
    if kind.startswith("JPEG lossless"):
        return JPEG_LOSSLESS, lossless_jpeg(without_sign, bits, int(kind[-1]))
    if kind == "JPEG-LS":
        return JPEG_LS, jpeg_ls(without_sign)
    if kind == "HTJ2K":
        return HTJ2K, imagecodecs.htj2k_encode(image, level=0, reversible=True)
    form = "jp2" if kind == "JP2 boxes" else "j2k"
    pixels = without_sign if kind == "JPEG 2000 without its sign" else image
    return JPEG_2000, jpeg_2000(pixels, bits, codecformat=form)


LOSSLESS = (
    "JPEG lossless 1", "JPEG lossless 4", "JPEG lossless 6", "JPEG-LS", "JPEG 2000",
    "JPEG 2000 without its sign", "JP2 boxes", "HTJ2K",
)  # fmt: skip


def by_gdcm(path) -> np.ndarray:
    sitk = pytest.importorskip("SimpleITK")
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0]


@pytest.mark.parametrize(("bits", "signed"), DEPTHS)
@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_streams(kind, bits, signed, tmp_path):
    truth = image_of(bits, signed)
    syntax, stream = stream_of(kind, truth, bits)
    data = dataset(truth, BitsStored=bits, HighBit=bits - 1)
    path = save(compressed(data, syntax, [stream]), tmp_path / "file")
    assert np.array_equal(read_series(tmp_path).pixels[0], truth)
    assert np.array_equal(by_gdcm(path), truth)


@pytest.mark.parametrize(
    ("kind", "bits"),
    [(JPEG, 8), (JPEG_EXTENDED, 8), (JPEG_EXTENDED, 12), (JPEG_2000_LOSSY, 12), (HTJ2K_LOSSY, 12)],
)
def test_lossy_streams_equal_gdcm(kind, bits, tmp_path):
    image = image_of(bits, 0) // 2 + image_of(bits, 0).dtype.type(
        1 << (bits - 2)
    )  # what is lost stays within the bits
    if kind == HTJ2K_LOSSY:
        stream = imagecodecs.htj2k_encode(image, level=0.01, reversible=False)
    elif kind == JPEG_2000_LOSSY:
        stream = jpeg_2000(image, bits, level=40, reversible=False)
    else:
        stream = imagecodecs.jpeg8_encode(image, level=90, bitspersample=bits)
    data = dataset(image, BitsStored=bits, HighBit=bits - 1)
    path = save(compressed(data, kind, [stream]), tmp_path / "file")
    pixels = read_series(tmp_path).pixels[0]
    assert np.array_equal(pixels, by_gdcm(path))
    assert 0 < np.abs(pixels - image.astype(int)).max() < 0.3 * 2**bits


def test_a_progressive_jpeg(tmp_path):
    image = image_of(8, 0)
    stream = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    path = save(compressed(dataset(image), JPEG, [stream]), tmp_path / "file")
    assert np.array_equal(read_series(tmp_path).pixels[0], by_gdcm(path))


def test_jpeg_ls_of_12_bits_has_its_sign_in_bit_11(tmp_path):
    data = dataset(signed_image(), BitsStored=16, HighBit=15)
    save(compressed(data, JPEG_LS, [SIGNED_JPEG_LS]), tmp_path / "file")
    assert np.array_equal(read_series(tmp_path).pixels[0], signed_image())


@pytest.mark.parametrize("kind", ["JPEG lossless 1", "JPEG-LS", "JPEG 2000"])
def test_overlays_in_the_stream_are_masked(kind, tmp_path):
    truth = image_of(12, 0)
    overlay = np.random.default_rng(1).integers(0, 16, truth.shape).astype(np.uint16) << 12
    syntax, stream = stream_of(kind, truth | overlay, 16)
    save(compressed(dataset(truth, BitsStored=12, HighBit=11), syntax, [stream]), tmp_path / "file")
    assert np.array_equal(read_series(tmp_path).pixels[0], truth)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_8_bits_in_16(kind, tmp_path):
    """The header's pixels are wider than those of the stream."""
    truth = image_of(8, 0)
    syntax, stream = stream_of(kind, truth, 8)
    for stored in (8, 16):
        data = dataset(truth.astype(np.uint16), BitsStored=stored, HighBit=stored - 1)
        save(compressed(data, syntax, [stream]), tmp_path / str(stored) / "file")
        assert np.array_equal(read_series(tmp_path / str(stored)).pixels[0], truth)


@pytest.mark.parametrize("kind", LOSSLESS[::3])
@pytest.mark.parametrize("has_table", [True, False])
@pytest.mark.parametrize("pieces", [2, 5])
def test_frames_in_pieces(kind, has_table, pieces, tmp_path):
    truth = image_of(12, 0)
    syntax, stream = stream_of(kind, truth, 12)
    data = compressed(dataset(truth, BitsStored=12, HighBit=11), syntax, [stream])
    data.PixelData = encapsulate([stream], fragments_per_frame=pieces, has_bot=has_table)
    save(data, tmp_path / "file")
    assert np.array_equal(read_series(tmp_path).pixels[0], truth)


def test_only_the_chosen_frames_are_decoded(tmp_path, monkeypatch):
    images, axes = volume((6, 8, 8), high=4096), AXES["axial"]
    path = write_frames(tmp_path / "file", images, places(axes, 6), [*axes[2], *axes[1]])
    streams = [lossless_jpeg(image, 12) for image in images]
    save(compressed(pydicom.dcmread(path), JPEG_LOSSLESS, streams), path)
    decode, calls = imagecodecs.jpeg8_decode, []
    monkeypatch.setattr(imagecodecs, "jpeg8_decode", lambda s: calls.append(s) or decode(s))
    from src.dicom import read_words

    found = read_words(open_series(tmp_path), np.array([1, 4]))
    assert np.array_equal(found, images[[1, 4]]) and len(calls) == 2
    assert calls[0].startswith(streams[1]) and calls[1].startswith(streams[4])


@pytest.mark.parametrize("kind", ["JPEG", *LOSSLESS[:1], *LOSSLESS[3:]])
def test_streams_that_are_cut_inside_their_item(kind, tmp_path):
    """Nothing is filled with grey."""
    truth = image_of(8, 0)
    stream = cv2.imencode(".jpg", truth)[1].tobytes()
    syntax, stream = (JPEG, stream) if kind == "JPEG" else stream_of(kind, truth, 8)
    for kept in np.linspace(4, len(stream) - 3, 40).astype(int):
        save(compressed(dataset(truth), syntax, [stream[:kept]]), tmp_path / "file")
        assert reason(tmp_path) in ("truncated", "decode_error")


def test_sizes_in_a_stream_are_checked_before_it_is_decoded(tmp_path):
    """20,000 x 20,000 pixels, and colours, where the header says 24 x 20 grey ones."""
    image = image_of(12, 0)
    colours = np.zeros((24, 20, 3), np.uint8)
    size, huge = (24).to_bytes(2, "big"), (20_000).to_bytes(2, "big")
    wide = {
        "boxes": (JPEG_2000, jpeg_2000(image, 12, codecformat="jp2"), 2),
        "JPEG 2000": (JPEG_2000, jpeg_2000(image, 12), 2),
        "HTJ2K": (HTJ2K, imagecodecs.htj2k_encode(image, level=0, reversible=True), 2),
        "JPEG-LS": (JPEG_LS, jpeg_ls(image), 2),
        "lossless": (JPEG_LOSSLESS, jpeg_lossless(image), 0),
    }
    streams = {name: (uid, stream.replace(size, huge)) for name, (uid, stream, _) in wide.items()}
    streams["colour"] = (JPEG, cv2.imencode(".jpg", colours)[1].tobytes())
    streams["colours"] = (JPEG_2000, jpeg_2000(colours, 8, codecformat="jp2"))
    for name, (syntax, stream) in streams.items():
        save(compressed(dataset(image), syntax, [stream]), tmp_path / name / "file")
        tracemalloc.start()
        assert reason(tmp_path / name) == "decode_error", name
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
        tracemalloc.stop()


def test_a_tile_of_no_width_does_not_end_the_process(tmp_path):
    """It does in OpenJPH."""
    stream = bytearray(imagecodecs.htj2k_encode(image_of(12, 0), level=0, reversible=True))
    assert stream[:4] == b"\xff\x4f\xff\x51"
    stream[24:28] = bytes(4)
    save(compressed(dataset(image_of(12, 0)), HTJ2K, [bytes(stream)]), tmp_path / "file")
    script = f"""
from src.dicom import DicomError, read_series
try:
    read_series({str(tmp_path)!r})
except DicomError as error:
    print(error.reason)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (0, "decode_error\n")
