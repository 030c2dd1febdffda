"""npy and json files that want to crash, to hang or to fill the memory, and such that mislead."""

import io
import json
import struct

import numpy as np

from src.labels import LABELS


def npy(header: str, data: bytes = bytes(64), version: int = 1) -> bytes:
    """Return an npy file with any header."""
    written = header.encode()
    size = struct.pack("<H" if version == 1 else "<I", len(written) + 1)
    return b"\x93NUMPY" + bytes([version, 0]) + size + written + b"\n" + data


def described(shape: str, code: str = "<f2", fortran: str = "False") -> str:
    return f"{{'descr': '{code}', 'fortran_order': {fortran}, 'shape': {shape}, }}"


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def arrays() -> dict[str, bytes]:
    whole = saved(np.zeros((2, 4, 4), np.float16))
    bomb, minus = "(" * 4000 + ")" * 4000, "-" * 9000 + "1"
    return {
        "below zero": npy(described("(-1, -32)")),
        "below zero, one axis": npy(described("(-32,)")),
        "wraps": npy(described(f"({2**62}, 4, 2)"), b""),
        "huge": npy(described(f"({2**40}, 4, 4)")),
        "huge and empty": npy(described(f"(0, {2**40}, 4)"), b""),
        "no axes": npy(described("()"), bytes(2)),
        "objects": saved(np.array([None, 1], object)),
        "fields": saved(np.zeros(2, [("a", "<i4"), ("b", "<f4")])),
        "text": saved(np.array(["a", "bc"])),
        "complex": saved(np.ones(3, complex)),
        "bool": saved(np.ones(3, bool)),
        "columns first": saved(np.asfortranarray(np.ones((3, 4), np.float16))),
        "big-endian": saved(np.ones(3, ">f2")),
        "nested brackets": npy(described(bomb)),
        "a long sum": npy(described("(" + "+".join("1" * 4000) + ",)")),
        "many minus signs": npy(described(f"({minus},)")),
        "a power": npy(described("(9**9**9,)")),
        "a call": npy(described("(__import__('os').getpid(),)")),
        "a number of 5,000 digits": npy(described(f"({'9' * 5000},)")),
        "true axes": npy(described("(True, 32)")),
        "a header of 4 GB": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{",
        "version 3 in Greek": npy(described("(4,)", "λ"), version=3),
        "version 9": npy(described("(32,)"), version=9),
        "no header": npy(""),
        "other keys": npy("{'descr': '<f2'}"),
        "an unknown type": npy(described("(32,)", "f9")),
        "cut short": whole[:-1],
        "too long": whole + b"\x00",
        "only its first bytes": b"\x93NUMPY",
        "empty": b"",
        "a pickle": b"\x80\x04}.",
    }


def jsons() -> dict[str, bytes]:
    return {
        "nested lists": b"[" * 200_000,
        "nested names": b'{"a":' * 200_000,
        "5,000 digits": b'{"length": ' + b"9" * 5000 + b"}",
        "NaN": b'{"length": NaN}',
        "infinity": b'{"length": -Infinity}',
        "1e999": b'{"length": 1e999}',
        "a list": b'[{"length": 3}]',
        "a number": b"3",
        "lists without end": b'{"length": [' + b"[]," * 6_000_000 + b"1]}",
        "no UTF-8": b'{"length": "\xff\xfe"}',
        "zeros": bytes(100),
        "empty": b"",
    }


def lines() -> dict[str, bytes]:
    return {
        "nested lists": b'{"epoch": 1}\n' + b"[" * 200_000,
        "a list": b'{"epoch": 1}\n[2]\n',
        "an empty line": b'{"epoch": 1}\n\n{"epoch": 2}\n',
        "5,000 digits": b'{"epoch": ' + b"9" * 5000 + b"}",
    }


def calibrations() -> dict[str, bytes]:
    good = {label: {"scale": 1.5, "offset": -0.5} for label in LABELS}
    last = LABELS[-1]
    maps = {
        "zero": {"scale": 0, "offset": 0},
        "below zero": {"scale": -1.5, "offset": 0},
        "text": {"scale": "1.5", "offset": 0},
        "true": {"scale": True, "offset": 0},
        "null": {"scale": 1, "offset": None},
        "too large": {"scale": 1, "offset": 10**400},
        "no offset": {"scale": 1},
        "a number": 1.5,
    }
    found = {name: {"labels": good | {last: content}} for name, content in maps.items()}
    found |= {f"findings: {name}": {"findings": content} for name, content in maps.items()}
    found["a label is missing"] = {"labels": dict(list(good.items())[:-1])}
    found["a list"] = {"labels": [1.5] * 14}
    whole = {"labels": good, "findings": None}
    files = {name: json.dumps(whole | content).encode() for name, content in found.items()}
    files["NaN"] = files["null"].replace(b"null", b"NaN")
    files["infinity"] = files["null"].replace(b"null", b"1e400")
    files["no labels"] = b"{}"
    files["nothing of findings"] = json.dumps({"labels": good}).encode()
    files["temperatures of an older version"] = json.dumps({"temperatures": {last: 1.5}}).encode()
    return files
