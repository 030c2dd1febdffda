"""Files of arrays, json, pickles, text: reads never run code, writes are whole."""

import json
import math
import os
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np

from src.artifacts.atomic import atomic, unwritable
from src.artifacts.paths import ArtifactError, RunFolder, remedy, require
from src.artifacts.pickles import MOST_BYTES, load_arrays
from src.text import printable

MOST_JSON = 2**24  # bytes; the metadata of a series with 1,000 slices have 0.1 MB
NPY_VERSIONS = {(1, 0): 2, (2, 0): 4, (3, 0): 4}  # version: bytes of the header's length
NPY_HEADER = re.compile(
    rb"{'descr': '([<|][iuf][1248])', 'fortran_order': False, 'shape': \(([0-9, ]{1,200})\), } *\n"
)


@contextmanager
def reading(path: Path, what: str, advice: str = "") -> Iterator[None]:
    """Require `path`, and turn what goes wrong while it is read into an ArtifactError.

    what: what the file should be. advice: what to do if it is not.
    """
    require(path)
    if not path.is_file():  # a pipe would wait for ever
        raise ArtifactError(f"{path} is no file but should be {what}: {remedy(path)}")
    try:
        yield
    except (ArtifactError, MemoryError):
        raise
    except Exception as error:  # a broken file raises almost anything
        reason = printable(str(error).partition("\n")[0]) or type(error).__name__
        advice = advice or f"delete it and {remedy(path)}"
        raise ArtifactError(f"{path} is not {what} ({reason}): {advice}") from error


def write_array(path: Path, array: np.ndarray) -> None:
    with atomic(path) as file:
        np.save(file, array, allow_pickle=False)


def read_array(path: Path) -> np.ndarray:
    offset, shape, dtype = read_layout(path)
    with reading(path, "a whole array"):
        return np.fromfile(path, dtype, math.prod(shape), offset=offset).reshape(shape)


def read_layout(path: Path) -> tuple[int, tuple[int, ...], np.dtype]:
    """Return (offset of the data in bytes, shape, dtype) of an npy file of numbers.

    Raise ArtifactError if the file has not just the bytes that its shape needs.
    """
    with reading(path, "a whole array"), open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        if version not in NPY_VERSIONS:
            raise ValueError(f"it has the unknown version {version[0]}")
        width = NPY_VERSIONS[version]
        header = file.read(min(int.from_bytes(file.read(width), "little"), 10_000))
        written = NPY_HEADER.fullmatch(header)
        if not written:
            raise ValueError("its header does not describe an array of numbers as numpy does")
        dtype = np.dtype(written[1].decode())
        shape = tuple(int(length) for length in written[2].replace(b",", b" ").split())
        size = os.fstat(file.fileno()).st_size - file.tell()
        if not shape or size <= 0 or size != dtype.itemsize * math.prod(shape):
            raise ValueError("its size does not fit its shape")
        return file.tell(), shape, dtype


array_layout = cache(read_layout)  # read once per process: for files that many samples come from


def read_slices(
    path: Path,
    indices: np.ndarray,
    out: np.ndarray | None = None,
    layout: tuple[int, tuple[int, ...], np.dtype] | None = None,
) -> np.ndarray:
    """Return slices (k, S, S) of an array file (n, S, S), into `out` if given.

    layout: of a file that this process may have read when it was another.
    Positioned reads fetch only their bytes, and errors come as exceptions (not as with mmap).
    """
    offset, shape, dtype = layout or array_layout(path)
    out = np.empty((len(indices), *shape[1:]), dtype) if out is None else out
    size = out[0].nbytes
    with open(path, "rb", buffering=0) as file:
        for slice_, index in zip(out, indices, strict=True):
            buffer = memoryview(slice_).cast("B")
            file.seek(offset + int(index) * size)
            if file.readinto(buffer) != size:
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


def read_json(path: Path, needed: dict[str, type] | None = None) -> dict:
    """Return the object that a json file holds. Its numbers are finite.

    needed: {name: type} of what it must have.
    """
    advice = "delete it and run the stage that makes it again"
    with reading(path, "whole json", advice):
        content = parse_json(_text(path))
        for name, kind in (needed or {}).items():
            if type(content.get(name)) is not kind:
                raise ValueError(f"it has no {name!r}")
        return content


def parse_json(text: str) -> dict:
    """Return the object that a text of json holds; raise ValueError if a number is not finite."""
    content = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    if type(content) is not dict:
        raise ValueError("it holds no names")
    return content


def _text(path: Path) -> str:
    """Return a text of json. Its lists of lists would need many times the memory of the file."""
    if path.stat().st_size > MOST_JSON:
        raise ValueError(f"it has more than {MOST_JSON >> 20} MiB")
    return path.read_text()


def _refuse(constant: str) -> None:
    raise ValueError(f"it holds {constant}")


def _finite(text: str) -> float:
    if math.isinf(float(text)):
        raise ValueError(f"it holds {text}")
    return float(text)


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
    """Return one dict per line, as src/training/run_folder.py writes them: NaN is allowed."""
    with reading(path, "json in every line", "delete the line that is not"):
        rows = [json.loads(line) for line in _text(path).splitlines()]
        if not set(map(type, rows)) <= {dict}:
            raise ValueError("a line holds no names")
        return rows


def write_pickle(path: Path, content: dict) -> None:
    with atomic(path) as file:
        pickle.dump(content, file, protocol=4)


def read_pickle(path: Path) -> dict:
    """Return a pickled {uid: arrays or plain values}.

    Raise ArtifactError, and run nothing, if it holds more than plain data.
    """
    with reading(path, "a pickle of plain arrays"):
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES >> 20} MiB")
        content = load_arrays(path.read_bytes())
        if type(content) is not dict or not set(map(type, content)) <= {str}:
            raise ValueError("it is not {series: content}")
        return content
