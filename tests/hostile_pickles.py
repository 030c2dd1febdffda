"""Pickles that want to crash, to hang, to fill the memory or to run code."""

import collections
import os
import pickle
import pickletools
import struct
from pathlib import Path

import numpy as np

OPCODES = {opcode.name: opcode.code.encode("latin1") for opcode in pickletools.opcodes}
DEEP = 300_000
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"


class Calls:
    """Pickles into a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def op(name: str, argument: bytes = b"") -> bytes:
    return OPCODES[name] + argument


def text(value: str) -> bytes:
    return op("BINUNICODE", struct.pack("<I", len(value)) + value.encode())


def in_dict(value: bytes) -> bytes:
    """Return a pickle {"1.2": value}."""
    return b"\x80\x04}" + text("1.2") + value + b"s."


def dtype(code: str, state: bytes = b"") -> bytes:
    """state: what follows the byte order; the last is the flags."""
    rest = state or b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00"
    made = b"cnumpy\ndtype\n" + text(code) + b"\x89\x88\x87R"
    return made + b"(K\x03" + text("<" if code[1:] != "1" else "|") + rest + b"tb"


def array(shape: bytes, of: bytes, raw: bytes) -> bytes:
    """shape, of: pickled; raw: the array's bytes."""
    held = op("BINBYTES", struct.pack("<I", len(raw)) + raw)
    return RECONSTRUCT + b"(K\x01" + shape + of + b"\x89" + held + b"tb"


def with_flags(code: str, flags: int, size: int = 8) -> bytes:
    """Return an array whose numbers would become addresses of objects, if the flags say so."""
    state = b"NNNK" + bytes([size]) + b"K\x01K" + bytes([flags])
    of = dtype(code, state).replace(text("<"), text("|"))
    return in_dict(array(b"K\x01\x85", of, b"\x41" * size))


def number_of(shape: tuple) -> bytes:
    return pickle.dumps(shape, protocol=2)[2:-1]


def laughs(kind: str) -> bytes:
    """Return 10^30 values in 30 containers, each with the one before ten times."""
    start, end = (b"(", b"t") if kind == "tuple" else (b"](", b"e")
    pickled = b"](" + text("ha") + b"q\x00"
    for level in range(30):
        pickled += (
            start + op("BINGET", bytes([level])) * 10 + end + op("BINPUT", bytes([level + 1]))
        )
    return in_dict(pickled + b"e")


def encoded(rounds: int) -> bytes:
    """Return a chain of codecs, each of which makes the text longer."""
    call, value = b"c_codecs\nencode\n", text("\\" * 1000)
    back = b"c_codecs\nencode\n"
    for _ in range(rounds):
        value = call + value + text("unicode_escape") + b"\x86R"
        value = back + value + text("hex") + b"\x86R"
    return in_dict(value)


def object_array(trace: Path) -> np.ndarray:
    return np.array([Calls(os.mkdir, str(trace))], object)


def structured() -> np.ndarray:
    return np.zeros(2, [("a", "<i4"), ("b", "O")])


def calls(trace: Path) -> dict[str, bytes]:
    """Return pickles that name what they must not; several would make the folder `trace`."""
    folder = str(trace)
    made = text(folder) + b"\x85R"
    return {
        "mkdir": pickle.dumps({"1.2": Calls(os.mkdir, folder)}),
        "mkdir, protocol 0": pickle.dumps({"1.2": Calls(os.mkdir, folder)}, protocol=0),
        "mkdir in an array": pickle.dumps({"1.2": object_array(trace)}),
        "mkdir as a key": b"\x80\x04}cos\nmkdir\n" + made + b"Ns.",
        "eval": in_dict(
            b"cbuiltins\neval\n" + text(f"__import__('os').mkdir({folder!r})") + b"\x85R"
        ),
        "INST": in_dict(b"(" + text(folder) + b"ios\nmkdir\n"),
        "OBJ": in_dict(b"(cos\nmkdir\n" + text(folder) + b"o"),
        "NEWOBJ": in_dict(b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85\x81"),
        "a dotted name": in_dict(text("numpy") + text("load.__globals__") + b"\x93"),
        "bytearray": in_dict(b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R"),
        "a Counter": pickle.dumps({"1.2": collections.Counter("aab")}),
        "an extension code": in_dict(b"\x82\x01"),
        "a persistent id": in_dict(b"Pabc\n"),
        "a persistent id on the stack": in_dict(text("abc") + b"Q"),
        "a type as a value": in_dict(b"cnumpy\nndarray\n"),
        "a call of a type": in_dict(b"cnumpy\nndarray\n" + number_of((2**36,)) + b"\x85R"),
        "a call of text": in_dict(text("a") + b")R"),
        "the state of a type": in_dict(b"cnumpy\nndarray\n}" + text("a") + b"K\x01sb"),
        "the state of a number": in_dict(b"K\x01}b"),
        "a chain of codecs": encoded(40),
        "an unknown codec": in_dict(b"c_codecs\nencode\n" + text("a") + text("zip") + b"\x86R"),
    }


def sizes() -> dict[str, bytes]:
    """Return pickles that promise more than they hold."""
    return {
        "4 GB in 11 bytes": b"\x80\x05\x96" + struct.pack("<Q", 2**32),
        "2^63 bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**63),
        "2^62 characters": b"\x80\x04\x8d" + struct.pack("<Q", 2**62),
        "2 GB of characters": b"\x80\x04X" + struct.pack("<I", 2**31),
        "a number of 2 GB": in_dict(b"\x8b" + struct.pack("<i", 2**31 - 1)),
        "a number of 250 bytes": in_dict(b"\x8a\xfa" + b"\x01" * 250),
        "a number of 300,000 digits": in_dict(b"I" + b"9" * DEEP + b"\n"),
        "a far place of the memo": in_dict(b"Nr" + struct.pack("<I", 2**29)),
        "a place beyond memory": in_dict(b"Np99999999999\n"),
        "a missing place": in_dict(b"j" + struct.pack("<I", 2**31)),
        "10^7 empty sets": in_dict(b"(" + b"\x8f" * 10**7 + b"l"),
        "10^7 empty lists": in_dict(b"(" + b"]" * 10**7 + b"l"),
    }


def arrays() -> dict[str, bytes]:
    """Return pickles of arrays that are none."""
    byte, huge = dtype("u1"), op("LONG1", b"\x08" + struct.pack("<q", 2**62))
    return {
        "objects of addresses": with_flags("O8", 0),
        "objects of addresses, 1": with_flags("O8", 1),
        "objects of addresses, 4": with_flags("O8", 4),
        "objects of addresses, 61": with_flags("O8", 61),
        "flags of u8": with_flags("u8", 63),
        "flags of f8": with_flags("f8", 1),
        "flags of V16": with_flags("V16", 61, 16),
        "objects": pickle.dumps({"1.2": np.array([None, "a"], object)}),
        "fields": pickle.dumps({"1.2": structured()}),
        "text": pickle.dumps({"1.2": np.array(["a", "bc"])}),
        "times": pickle.dumps({"1.2": np.array(["2020-01-01"], "datetime64[D]")}),
        "complex numbers": pickle.dumps({"1.2": np.ones(3, complex)}),
        "a shape below zero": in_dict(array(number_of((-1, -4)), byte, b"abcd")),
        "a shape that wraps": in_dict(array(b"(" + huge + b"K\x04K\x04t", byte, b"")),
        "a huge shape": in_dict(array(number_of((2**40,)), byte, b"abcd")),
        "a shape of fractions": in_dict(
            array(b"G" + struct.pack(">d", 4) + b"\x85", byte, b"abcd")
        ),
        "a shape of 100 axes": in_dict(array(number_of((1,) * 100), byte, b"a")),
        "no state": in_dict(RECONSTRUCT),
        "no bytes": in_dict(RECONSTRUCT + b"(K\x01K\x01\x85" + byte + b"\x89]tb"),
        "a large array at once": in_dict(RECONSTRUCT.replace(b"K\x00\x85", number_of((2**33,)))),
        "a number of an object": in_dict(
            b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n" + text("O8") + b"\x89\x88\x87RN\x86R"
        ),
    }


def shapes() -> dict[str, bytes]:
    """Return pickles whose containers are no tree, or no {series: content}."""
    return {
        "nested tuples": in_dict(b")" + b"\x85" * DEEP),
        "nested tuples as a key": b"\x80\x04})" + b"\x85" * DEEP + b"Ns.",
        "nested lists": in_dict(b"]" * DEEP + b"a" * (DEEP - 1)),
        "nested dicts": in_dict(b"}" + (text("a") + b"}") * 100_000 + b"s" * 100_000),
        "a list in itself": in_dict(b"]q\x00h\x00a"),
        "a dict in itself": b"\x80\x04}q\x00" + text("a") + b"h\x00s.",
        "a tuple in itself": in_dict(b"]q\x00h\x00\x85q\x01ah\x01"),
        "billions of tuples": laughs("tuple"),
        "billions of lists": laughs("list"),
        "a list as a key": b"\x80\x04}]Ns.",
        "a key without value": b"\x80\x04}(" + text("a") + b"u.",
        "no dict": pickle.dumps([1, 2]),
        "numbers as series": pickle.dumps({1: np.arange(3)}),
        "nothing": b"",
        "only an end": b".",
        "no end": pickle.dumps({"1.2": np.arange(3)})[:-1],
        "an empty stack": b"\x80\x04a.",
        "marks": b"(" * DEEP + b".",
        "an unknown opcode": b"\x80\x04\xff.",
        "text for a pickle": b"SeriesInstanceUID,f\n1.2,3\n",
    }


def pickles(trace: Path) -> dict[str, bytes]:
    return calls(trace) | sizes() | arrays() | shapes()
