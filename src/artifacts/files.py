"""Files of arrays, json, pickles, text: reads never run code, writes are whole."""

import json
import math
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from src.artifacts.atomic import atomic, unwritable
from src.artifacts.paths import ArtifactError, RunFolder, remedy, require


@contextmanager
def reading(path: Path, what: str, advice: str = "") -> Iterator[None]:
    """Require `path`, and turn what goes wrong while it is read into an ArtifactError.

    what: what the file should be. advice: what to do if it is not.
    """
    require(path)
    try:
        yield
    except (ArtifactError, MemoryError):
        raise
    except Exception as error:  # a broken file raises almost anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        advice = advice or f"delete it and {remedy(path)}"
        raise ArtifactError(f"{path} is not {what} ({reason}): {advice}") from error


def write_array(path: Path, array: np.ndarray) -> None:
    with atomic(path) as file:
        np.save(file, array, allow_pickle=False)


def read_array(path: Path) -> np.ndarray:
    with reading(path, "a whole array"):
        return np.load(path, allow_pickle=False)


def read_layout(path: Path) -> tuple[int, tuple[int, ...], np.dtype]:
    """Return (offset of the data in bytes, shape, dtype) of an npy file.

    Raise ArtifactError if the file is cut short.
    """
    with reading(path, "a whole array"), open(path, "rb") as file:
        first = np.lib.format.read_magic(file) == (1, 0)
        formats = np.lib.format
        read_header = formats.read_array_header_1_0 if first else formats.read_array_header_2_0
        shape, fortran_order, dtype = read_header(file)
        offset = file.tell()
        size = os.fstat(file.fileno()).st_size
        if fortran_order or dtype.hasobject or size != offset + dtype.itemsize * math.prod(shape):
            raise ValueError("unexpected size or layout")
    return offset, shape, dtype


array_layout = cache(read_layout)  # read once per process: for files that many samples come from


def read_slices(path: Path, indices: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return slices (k, S, S) of an array file (n, S, S), into `out` if given.

    Positioned reads fetch only their bytes, and errors come as exceptions (not as with mmap).
    """
    offset, shape, dtype = array_layout(path)
    out = np.empty((len(indices), *shape[1:]), dtype) if out is None else out
    size = out[0].nbytes
    with open(path, "rb", buffering=0) as file:
        for slice_, index in zip(out, indices, strict=True):
            buffer = memoryview(slice_).cast("B")
            if os.preadv(file.fileno(), [buffer], offset + int(index) * size) != size:
                raise ArtifactError(
                    f"{path} ends before slice {index}: delete it and {remedy(path)}"
                )
    return out


def has_features(run: RunFolder, uid: str) -> bool:
    """Return whether both files of a series exist and are complete."""
    try:
        return all(read_layout(path) for path in (run.feature(uid), run.logit(uid)))
    except ArtifactError:
        return False


def write_json(path: Path, content: dict, sync: bool = True) -> None:
    with atomic(path, "w", sync) as file:
        json.dump(content, file, indent=1)


def read_json(path: Path) -> dict:
    with reading(path, "whole json", "delete it and run the stage that makes it again"):
        return json.loads(path.read_text())


def write_lines(path: Path, lines: list[str]) -> None:
    with atomic(path, "w") as file:
        file.writelines(f"{line}\n" for line in lines)


def append_line(path: Path, line: str) -> None:
    try:
        with open(path, "a") as file:
            print(line, file=file)
    except OSError as error:
        raise unwritable(path, error) from error


def read_json_lines(path: Path) -> list[dict]:
    """Return one dict per line, as src/training/run_folder.py writes them."""
    with reading(path, "json in every line", "delete the line that is not"):
        return [json.loads(line) for line in path.read_text().splitlines()]


class _PlainUnpickler(pickle.Unpickler):
    """Load numpy arrays, numpy scalars and plain containers; refuse all other classes and calls."""

    NUMPY_MODULES = {"numpy", "numpy._core.multiarray", "numpy._core.numeric"}
    NUMPY_NAMES = {"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"}
    PLAIN = {("_codecs", "encode"), ("collections", "OrderedDict"), ("builtins", "set")}

    def find_class(self, module: str, name: str) -> Any:
        now_called = module.replace("numpy.core.", "numpy._core.")  # renamed in numpy 2
        is_numpy = now_called in self.NUMPY_MODULES and name in self.NUMPY_NAMES
        if is_numpy or (module, name) in self.PLAIN:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def write_pickle(path: Path, content: dict) -> None:
    with atomic(path) as file:
        pickle.dump(content, file, protocol=4)


def read_pickle(path: Path) -> dict:
    """Return a pickled {uid: arrays or plain values}.

    Raise ArtifactError, and run nothing, if it holds more than plain data.
    """
    with reading(path, "a pickle of plain arrays"), open(path, "rb") as file:
        return _PlainUnpickler(file).load()
