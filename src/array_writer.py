"""Writes the arrays of one series, image by image and whole or not at all: the sequence and, in the same pass, its slices."""

import io
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from src.artifacts import ArtifactError, DataFolder, atomic


def write_volume(data: DataFolder, uid: str, images: Iterable[np.ndarray], shape: tuple[int, int, int], write_slices: bool) -> None:
    """The array (n, S, S) float16 of a series and, with `write_slices`, each image (S, S) as a file of its own."""
    folder = data.slice_folder(uid)
    temporary = folder.with_name(f".{uid}.tmp")
    slice_head = _npy_head(shape[1:])
    try:
        with atomic(data.sequence(uid), sync=False) as file:
            file.write(_npy_head(shape))
            if write_slices:
                shutil.rmtree(temporary, ignore_errors=True)  # what a killed run left
                temporary.mkdir(parents=True)
            for index, image in enumerate(images):
                file.write(image.data)
                if write_slices:
                    _write(temporary / data.slice(uid, index).name, slice_head, image)
        if write_slices:
            shutil.rmtree(folder, ignore_errors=True)
            temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def has_arrays(data: DataFolder, uid: str, write_slices: bool) -> bool:
    """Whether a series is done: its facts are written last."""
    return data.facts(uid).exists() and data.sequence(uid).exists() and (not write_slices or data.slice_folder(uid).exists())


def _write(path: Path, head: bytes, image: np.ndarray) -> None:
    with open(path, "wb", buffering=0) as file:
        if os.writev(file.fileno(), [head, image.data]) != len(head) + image.nbytes:
            raise ArtifactError(f"{path} cannot be written whole: free space or choose another folder")


def _npy_head(shape: tuple[int, ...]) -> bytes:
    """What stands before the data of a float16 array in an npy file."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f2", "fortran_order": False, "shape": shape})
    return head.getvalue()
