"""Atomic writes, and reads that never run code: arrays, json, pickles, text."""

import json
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np

from src.artifacts.paths import ArtifactError, RunFolder, remedy, require


def temporary(path: Path, part: str = "1/1") -> Path:
    """Where `path` is written until it is whole: one name, so that the next run clears what a killed one left.

    part: "i/n", the i-th of n processes that may write the same file at once; each has its own name.
    """
    own = "" if part == "1/1" else f".{part.replace('/', 'of')}"
    return path.with_name(f".{path.name}{own}.tmp")


@contextmanager
def atomic(path: Path, mode: str = "wb", sync: bool = True, part: str = "1/1") -> Iterator[IO]:
    """Open a temporary file beside `path`; rename it to `path` when the block ends well, remove it when not.

    sync: wait until the disk has it, so that it outlives a power failure.
    part: as in `temporary`.
    """
    partial = temporary(path, part)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, mode) as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def unwritable(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"{path} cannot be written ({getattr(error, 'strerror', None) or error}): free space or choose another folder"
    )


def write_array(path: Path, array: np.ndarray) -> None:
    with atomic(path) as file:
        np.save(file, array, allow_pickle=False)


def read_array(path: Path) -> np.ndarray:
    try:
        return np.load(require(path), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ArtifactError(
            f"{path} is not a whole array ({error}): delete it and {remedy(path)}"
        ) from error


def read_layout(path: Path) -> tuple[int, tuple[int, ...], np.dtype]:
    """(offset of the data in bytes, shape, dtype) of an npy file; a file that is cut short raises."""
    try:
        with open(require(path), "rb") as file:
            major, _ = np.lib.format.read_magic(file)
            reader = (
                np.lib.format.read_array_header_1_0
                if major == 1
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = reader(file)
            offset, end = file.tell(), os.fstat(file.fileno()).st_size
    except (ValueError, OSError) as error:
        raise ArtifactError(
            f"{path} is not an array ({error}): delete it and {remedy(path)}"
        ) from error
    if fortran or dtype.hasobject or end - offset != dtype.itemsize * int(np.prod(shape)):
        raise ArtifactError(f"{path} is not a whole array: delete it and {remedy(path)}")
    return offset, shape, dtype


@cache
def array_layout(path: Path) -> tuple[int, tuple[int, ...], np.dtype]:
    """`read_layout`, once a process: for files that many samples are read from."""
    return read_layout(path)


def read_slices(path: Path, indices: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Slices (k, S, S) of an array (n, S, S) by positioned reads: only their bytes are read, and errors come as exceptions."""
    offset, shape, dtype = array_layout(path)
    out = np.empty((len(indices), *shape[1:]), dtype) if out is None else out
    size = out[0].nbytes
    with open(path, "rb", buffering=0) as file:
        for slice_, index in zip(out, indices, strict=True):
            if (
                os.preadv(file.fileno(), [memoryview(slice_).cast("B")], offset + int(index) * size)
                != size
            ):
                raise ArtifactError(
                    f"{path} ends before slice {index}: delete it and {remedy(path)}"
                )
    return out


def write_json(path: Path, content: dict, sync: bool = True, part: str = "1/1") -> None:
    with atomic(path, "w", sync, part) as file:
        json.dump(content, file, indent=1)


def write_lines(path: Path, lines: list[str]) -> None:
    with atomic(path, "w") as file:
        file.writelines(f"{line}\n" for line in lines)


def append_line(path: Path, line: str) -> None:
    """One line more at the end of a text."""
    try:
        with open(path, "a") as file:
            print(line, file=file)
    except OSError as error:
        raise unwritable(path, error) from error


def read_json(path: Path) -> dict:
    try:
        return json.loads(require(path).read_text())
    except ValueError as error:
        raise ArtifactError(
            f"{path} is not whole json ({error}): delete it and run the stage that makes it again"
        ) from error


def read_json_lines(path: Path) -> list[dict]:
    """One dict a line, as `run.Run` writes them."""
    try:
        return [json.loads(line) for line in require(path).read_text().splitlines()]
    except ValueError as error:
        raise ArtifactError(
            f"{path} has a line that is not json ({error}): delete that line"
        ) from error


class PlainUnpickler(pickle.Unpickler):
    """Admits numpy arrays, numpy scalars and plain containers; any other class or function is refused before it is called."""

    NUMPY = {"_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"}
    NUMPY_MODULES = {
        "numpy",
        "numpy.core.multiarray",
        "numpy._core.multiarray",
        "numpy.core.numeric",
        "numpy._core.numeric",
    }

    def find_class(self, module: str, name: str) -> Any:
        numpy_piece = module in self.NUMPY_MODULES and name in self.NUMPY
        if numpy_piece or (module, name) in {
            ("_codecs", "encode"),
            ("collections", "OrderedDict"),
            ("builtins", "set"),
        }:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def write_pickle(path: Path, content: dict) -> None:
    with atomic(path) as file:
        pickle.dump(content, file, protocol=4)


def read_pickle(path: Path) -> dict:
    """A pickled {uid: arrays or plain values}; anything that is not plain data is refused and not executed."""
    try:
        with open(require(path), "rb") as file:
            return PlainUnpickler(file).load()
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
        ImportError,
    ) as error:
        raise ArtifactError(
            f"{path} is not a pickle of plain arrays ({error}): make it anew"
        ) from error


def has_features(run: RunFolder, uid: str) -> bool:
    """Return whether both files of a series exist and are complete."""
    try:
        return all(read_layout(path) for path in (run.feature(uid), run.logit(uid)))
    except ArtifactError:
        return False
