"""Read pickles of numpy arrays and plain values, and nothing else."""

import gc
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from src.artifacts.stack_machine import CONTAINERS, LEAVES, Calls, Machine, Unbuilt

MOST_BYTES = 2**28  # of a pickle; the largest of 4,348 series has 70 MB
MOST_LEVELS = 12  # of containers in containers; checkpoints have 6
MOST_AXES = 8
NUMBER_TYPE = re.compile(r"[biuf][1248]")  # bool, integers, floats: numpy's codes


def load_arrays(data: bytes) -> Any:
    """Return what a pickle of numpy arrays, numpy numbers and plain values holds.

    Raise ValueError, or another error of a broken file, if it holds anything else.
    """
    return load_plain(data, NUMPY_CALLS, NUMPY_LEAVES)


def load_plain(data: bytes, calls: Calls, leaves: set[type], load: Callable | None = None) -> Any:
    """Return what a pickle holds: dicts, lists, tuples and leaves.

    calls, load: as in `Machine`.
    leaves: types of values beside text, numbers, bools and None.
    """
    with _no_collection():
        try:
            value = Machine(data, calls, load).run()
        except IndexError as error:
            raise ValueError("it ends early") from error
        _require_plain(value, LEAVES | leaves)
    return value


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector from looking at millions of new containers again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _require_plain(value: Any, leaves: set[type]) -> None:
    """Raise ValueError if a tree is too deep or holds values of other types than `leaves`."""
    level = [[value]]  # the containers of one level
    for _ in range(MOST_LEVELS):
        inner = []
        for container in level:
            items = container.values() if type(container) is dict else container
            kinds = set(map(type, items))
            for kind in kinds - leaves - CONTAINERS:
                raise ValueError(f"it holds a value of type {kind.__name__}")
            if kinds & CONTAINERS:
                inner += [item for item in items if type(item) in CONTAINERS]
        level = inner
    if level:
        raise ValueError(f"it nests deeper than {MOST_LEVELS} levels")


def _new_dtype(code: str, *_) -> Unbuilt:
    """Return a number type whose byte order follows.

    numpy would also take flags from the file: with some, numbers become addresses of objects.
    """
    if type(code) is not str or not NUMBER_TYPE.fullmatch(code):
        raise ValueError(f"it holds an array of {code}, not of numbers")

    def build(state: tuple) -> np.dtype:
        _, order, *rest = state
        if order not in ("<", ">", "|", "=") or rest != [None, None, None, -1, -1, 0]:
            raise ValueError(f"it holds an array of {code} with a state of its own")
        return np.dtype(order + code)

    return Unbuilt(build)


def _new_array(*_) -> Unbuilt:
    def build(state: tuple) -> np.ndarray:
        _, shape, dtype, fortran_order, raw = state
        return _array(raw, dtype, shape, "F" if fortran_order else "C")

    return Unbuilt(build)


def _array(
    raw: bytes, dtype: np.dtype, shape: tuple, order: str, axes: tuple | None = None
) -> np.ndarray:
    """Return a new array, in the byte order of this machine. axes: their order for "K"."""
    is_shape = type(shape) is tuple and len(shape) <= MOST_AXES and set(map(type, shape)) <= {int}
    if type(raw) is not bytes or not isinstance(dtype, np.dtype) or not is_shape:
        raise ValueError("it holds an array that is not made of bytes")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(raw):
        raise ValueError(f"it holds an array whose shape {shape} does not fit its bytes")
    if dtype.kind == "b":  # a byte that is neither 0 nor 1 would break numpy's count of them
        array = np.frombuffer(raw, np.uint8).astype(bool)
    else:
        array = np.frombuffer(raw, dtype).astype(dtype.newbyteorder("="))
    if order == "K":
        return array.reshape(shape).transpose(axes)
    return array.reshape(shape, order=order)


def _number(dtype: np.dtype, raw: bytes) -> np.generic:
    return _array(raw, dtype, (), "C")[()]


def _encoded(text: str, encoding: str) -> bytes:
    """Return the bytes that protocols 0 to 2 write as text."""
    if encoding != "latin1":
        raise ValueError(f"it asks for the encoding {encoding}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _new_dict() -> dict:
    return {}


NUMPY_CALLS: Calls = {
    "numpy.dtype": _new_dtype,
    "numpy.ndarray": None,
    "numpy._core.multiarray._reconstruct": _new_array,
    "numpy._core.multiarray.scalar": _number,
    "numpy._core.numeric._frombuffer": _array,
    "_codecs.encode": _encoded,
    "__builtin__.bytes": _no_bytes,  # protocols 0 to 2 write no bytes so
    "collections.OrderedDict": _new_dict,
}
NUMBERS = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64"
NUMPY_LEAVES = {np.ndarray} | {np.dtype(name).type for name in NUMBERS.split()}
