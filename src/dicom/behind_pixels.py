"""The rest of a header that stands behind the pixels, where some writers put it."""

import os
from contextlib import suppress
from typing import BinaryIO

from src.dicom.fields import (
    BIG_ENDIAN,
    DEFLATED,
    FLOAT_PIXELS,
    PIXEL_TAGS,
    UNDEFINED_LENGTH,
    PixelElement,
    read_elements,
)

MAX_PIXEL_ELEMENTS, MAX_ITEMS = 8, 10_000  # that are passed by
ITEM = b"\xfe\xff\x00\xe0"


def read_on(file: BinaryIO, fields: dict, element: PixelElement) -> tuple[dict, PixelElement]:
    """Return the same with what is behind the pixels.

    If there are pixels again, the larger ones are meant, the last of equals: others are an icon.
    Compressed pixels are passed only if the header lacks what it must have.
    """
    if fields["TransferSyntaxUID"] == DEFLATED:
        return fields, element
    last = element
    with suppress(Exception):  # what follows the pixels may be no DICOM at all
        for _ in range(MAX_PIXEL_ELEMENTS):
            if last.length == UNDEFINED_LENGTH and "PixelRepresentation" in fields:
                break  # to find the end of compressed pixels takes long
            if not _goes_on(file, fields["TransferSyntaxUID"], last):
                break
            more, last = read_elements(file, fields["TransferSyntaxUID"])
            fields = fields | more
            if last.tag not in PIXEL_TAGS:
                break
            element = max(last, element, key=lambda element: element.length)
    return fields, element


def _goes_on(file: BinaryIO, syntax: str, element: PixelElement) -> bool:
    """Go behind an element. Return whether a tag follows that belongs before pixels."""
    if element.length != UNDEFINED_LENGTH:
        file.seek(element.offset + element.length)
    else:
        _pass_items(file, element)
    start = file.tell()
    group = int.from_bytes(file.read(2), "big" if syntax == BIG_ENDIAN else "little")
    file.seek(start)
    return 0x0008 <= group < FLOAT_PIXELS >> 16


def _pass_items(file: BinaryIO, element: PixelElement) -> None:
    """Go behind the items of compressed pixels, and behind their end."""
    file.seek(element.offset)
    for _ in range(MAX_ITEMS):
        head = file.read(8)
        if head[:4] != ITEM:
            break
        file.seek(int.from_bytes(head[4:], "little"), os.SEEK_CUR)
