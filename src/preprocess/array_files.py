"""Write the arrays of one series atomically, image by image: the sequence and its slices."""

import io
import math
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from src.artifacts.atomic import atomic, remove_stale, temporary, unwritable
from src.artifacts.files import read_json
from src.artifacts.paths import ArtifactError, DataFolder


def write_volume(
    data: DataFolder,
    uid: str,
    images: Iterable[np.ndarray],
    shape: tuple[int, int, int],
    write_slices: bool,
) -> None:
    """Write the array (n, S, S) float16 of a series from its images.

    write_slices: in the same pass, also write each image (S, S) as a file of its own.
    """
    folder = data.slice_folder(uid)
    partial = temporary(folder)
    slice_head = _npy_head(shape[1:])
    try:
        with atomic(data.sequence(uid), sync=False) as file:
            file.write(_npy_head(shape))
            if write_slices:
                partial.mkdir(parents=True)
            for index, image in enumerate(images):
                file.write(image.data)
                if write_slices:
                    _write(partial / data.slice(uid, index).name, slice_head, image)
        if write_slices:
            shutil.rmtree(folder, ignore_errors=True)
            partial.replace(folder)
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def has_arrays(data: DataFolder, uid: str, image_size: int, write_slices: bool) -> bool:
    """Return whether a series is done.

    Its metadata are written last. Arrays that a power cut left shorter than they say do not count.
    """
    try:
        length = read_json(data.facts(uid), {"length": int})["length"]
        if data.sequence(uid).stat().st_size != _npy_bytes((length, image_size, image_size)):
            return False
        if not write_slices:
            return True
        with os.scandir(data.slice_folder(uid)) as files:
            sizes = [file.stat().st_size for file in files]
        return sizes == [_npy_bytes((image_size, image_size))] * length
    except (ArtifactError, OSError):
        return False


def remove_partial(data: DataFolder) -> None:
    """Remove what killed workers left."""
    remove_stale(data.sequences)
    remove_stale(data.slices)


def _write(path: Path, head: bytes, image: np.ndarray) -> None:
    with open(path, "wb") as file:
        file.write(head)
        file.write(image.data)


def _npy_bytes(shape: tuple[int, ...]) -> int:
    """Return the size of the npy file of a float16 array."""
    return len(_npy_head(shape)) + 2 * math.prod(shape)


def _npy_head(shape: tuple[int, ...]) -> bytes:
    """Return the header of the npy file of a float16 array."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "<f2", "fortran_order": False, "shape": shape}
    )
    return head.getvalue()
