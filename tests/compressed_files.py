"""Compressed DICOM files for tests."""

from io import BytesIO

import cv2
import imagecodecs
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from tests.dicom_files import dataset, volume

JPEG, JPEG_LOSSLESS, JPEG_LS, JPEG_2000, HTJ2K = (
    f"1.2.840.10008.1.2.4.{number}" for number in (50, 70, 80, 90, 201)
)
KINDS = ("plain", "deflated", "RLE", "JPEG", "JPEG lossless", "JPEG-LS", "JPEG 2000", "HTJ2K")
# (6, 5) of 12 bits, signed: what CharLS made of it. JPEG-LS has no sign.
SIGNED_JPEG_LS = bytes.fromhex(
    "ffd8fff7000b0c0006000501011100ffda0008010100000000000000001ffd0c24791a4580000350"
    "522408e0a46b046114441206ad020820000002d10c42104472aa100fe7e0f0ffd900"
)


def signed_image() -> np.ndarray:
    """Return the image (6, 5) int16 in SIGNED_JPEG_LS: all of 12 bits, -2048 to 2047."""
    image = (np.arange(30).reshape(6, 5) * 137 - 2040).astype(np.int16)
    image[0, 0], image[-1, -1] = -2048, 2047
    return image


def encoded(kind: str, shape: tuple[int, int] = (6, 5)) -> Dataset:
    """Return one image of 12 bits (JPEG: 8, JPEG 2000: 16), stored as one of KINDS."""
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
    elif kind == "JPEG-LS":
        compressed(data, JPEG_LS, [jpeg_ls(image)])
    elif kind == "HTJ2K":
        compressed(data, HTJ2K, [imagecodecs.htj2k_encode(image, level=0, reversible=True)])
    elif kind == "RLE":
        data.compress(RLELossless, generate_instance_uid=False)
    return data


def compressed(data: Dataset, syntax: str, frames: list[bytes]) -> Dataset:
    """Replace the pixels of a data set by these encoded frames, and return it."""
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = encapsulate(frames)
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    return data


def jpeg_2000(image: np.ndarray) -> bytes:
    """Return a lossless JPEG 2000 stream of 16 bits."""
    stream = BytesIO()
    Image.fromarray(image).save(stream, "JPEG2000", no_jp2=True, num_resolutions=1)
    return stream.getvalue()


def jpeg_ls(image: np.ndarray) -> bytes:
    """Return a lossless JPEG-LS stream of the bits of the image's type."""
    return imagecodecs.jpegls_encode(image, out=2 * image.nbytes + 1000)


def jpeg_lossless(image: np.ndarray) -> bytes:
    """Return a lossless JPEG stream of an image (h, w) uint16 of 12 bits.

    It is process 14 with first-order prediction.
    """
    height, width = image.shape
    values = image.astype(int)
    prediction = np.empty_like(values)
    prediction[:, 1:] = values[:, :-1]  # the left neighbour
    prediction[1:, 0] = values[:-1, 0]  # the first of a row: the one above
    prediction[0, 0] = 1 << 11
    bits = []
    for difference in (values - prediction).ravel():
        size = int(abs(difference)).bit_length()
        bits.append(f"{size:05b}")  # the Huffman table gives each size a code of 5 bits
        if size:
            bits.append(
                format(difference if difference > 0 else difference + (1 << size) - 1, f"0{size}b")
            )
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    scan = int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\x00")
    counts = bytes([0, 0, 0, 0, 17] + [0] * 11)
    table = b"\xff\xc4" + (2 + 1 + 16 + 17).to_bytes(2, "big") + b"\x00" + counts + bytes(range(17))
    frame = (
        b"\xff\xc3"
        + (11).to_bytes(2, "big")
        + bytes([12])
        + height.to_bytes(2, "big")
        + width.to_bytes(2, "big")
        + bytes([1, 1, 0x11, 0])
    )
    return (
        b"\xff\xd8"
        + frame
        + table
        + b"\xff\xda"
        + (8).to_bytes(2, "big")
        + bytes([1, 1, 0, 1, 0, 0])
        + scan
        + b"\xff\xd9"
    )
