"""Compressed and deflated pixels: decoded, or a named reason, within time and memory."""

import struct
import sys
import tracemalloc
import zlib
from contextlib import contextmanager

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from src.dicom import DicomError, open_series, read_series
from tests.compressed_files import (
    HTJ2K,
    JPEG,
    JPEG_2000,
    JPEG_LOSSLESS,
    JPEG_LS,
    KINDS,
    compressed,
    encoded,
    jpeg_2000,
    jpeg_lossless,
    jpeg_ls,
)
from tests.dicom_files import AXES, dataset, places, reason, save, volume, write_frames

RLE, MPEG = str(RLELossless), "1.2.840.10008.1.2.4.100"


def test_compressed_syntaxes_decode(tmp_path):
    image = volume((32, 24), high=4096)
    smooth = cv2.GaussianBlur(volume((64, 64), high=250).astype(np.uint8), (0, 0), 6)
    twelve = {"BitsStored": 12, "HighBit": 11}
    files = {
        "RLE": dataset(image, **twelve),
        "JPEG-LS": compressed(dataset(image, **twelve), JPEG_LS, [jpeg_ls(image)]),
        "deflated": dataset(image, **twelve),
        "JPEG lossless": compressed(
            dataset(image, **twelve), JPEG_LOSSLESS, [jpeg_lossless(image)]
        ),
        "JPEG 2000": compressed(dataset(image), JPEG_2000, [jpeg_2000(image)]),
        "JPEG": compressed(dataset(smooth), JPEG, [cv2.imencode(".jpg", smooth)[1].tobytes()]),
    }
    files["RLE"].compress(RLELossless)
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
    with at_most(megabytes=50):
        assert reason(tmp_path) == "too_large"


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


@pytest.mark.parametrize("syntax", [JPEG, JPEG_LOSSLESS, JPEG_LS, JPEG_2000, HTJ2K, RLE])
def test_a_missing_decoder(syntax, tmp_path, monkeypatch):
    save(compressed(dataset(volume()[0]), syntax, [b"12345678"]), tmp_path / "one" / "file")
    save(dataset(volume()[0]), tmp_path / "plain" / "file")
    monkeypatch.setitem(sys.modules, "imagecodecs", None)  # importing it fails
    with pytest.raises(DicomError, match=r"pip install imagecodecs$") as caught:
        open_series(tmp_path / "one")
    assert caught.value.reason == "missing_decoder"
    assert pydicom.uid.UID(syntax).name in str(caught.value)
    assert np.array_equal(read_series(tmp_path / "plain").pixels[0], volume()[0])


def test_a_syntax_without_a_decoder(tmp_path):
    save(compressed(dataset(volume()[0]), MPEG, [b"12345678"]), tmp_path / "file")
    with pytest.raises(DicomError, match=r"MPEG2 Main Profile.*convert the files") as caught:
        open_series(tmp_path)
    assert caught.value.reason == "missing_decoder"


@pytest.mark.parametrize("syntax", [JPEG, JPEG_LOSSLESS, JPEG_LS, JPEG_2000, HTJ2K, RLE])
def test_noise_for_a_compressed_stream(syntax, tmp_path):
    noise = np.random.default_rng(0).bytes(500)
    save(compressed(dataset(volume()[0]), syntax, [noise]), tmp_path / "file")
    assert reason(tmp_path) == "decode_error"


@pytest.mark.parametrize("kind", ["JPEG", "JPEG-LS", "JPEG 2000"])
def test_a_stream_larger_than_its_header_says(kind, tmp_path):
    image = volume((32, 24), high=250).astype(np.uint8)
    data = dataset(volume((32, 24)) if kind == "JPEG 2000" else image)
    if kind == "JPEG-LS":
        compressed(data, JPEG_LS, [jpeg_ls(image)])
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
