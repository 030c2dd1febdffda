"""Zip files whose entries are not compressed: none takes more memory than the file has bytes."""

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterable

MOST_READ = 2**22  # bytes at once
MOST_LIST = 2**23  # bytes more, of the zip file's list of entries and what is read in one piece


class Bounded(io.FileIO):
    """A file that gives no more than a few MB at once."""

    def read(self, size: int = -1) -> bytes:
        if size > MOST_READ + MOST_LIST:
            raise ValueError("its list of entries is too long")
        return super().read(size if size >= 0 else MOST_READ)


def stored_entries(
    archive: zipfile.ZipFile, size: int, name_of: Callable[[str], str] = str
) -> dict[str, zipfile.ZipInfo]:
    """Return the entries by their names; raise ValueError if one could not be as large as it says.

    size: bytes of the zip file.
    name_of: returns the name of an entry, given the one that is written there.
    """
    infos = archive.infolist()
    entries = {name_of(info.orig_filename): info for info in infos}
    if len(entries) != len(infos):
        raise ValueError("two of its entries have one name")
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
        raise ValueError("it is compressed")
    if sum(info.file_size for info in infos) > size:
        raise ValueError("its entries are larger than the file")
    return entries


def read_parts(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterable[bytes]:
    """Yield the content of an entry in parts; raise ValueError if there is less of it."""
    left = entry.file_size
    with archive.open(entry) as file:
        while left > 0:
            part = file.read(min(left, MOST_READ))
            if not part:
                raise ValueError(f"{entry.filename} is cut short")
            left -= len(part)
            yield part


def read_hashed(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> tuple[bytes, str]:
    """Return the content of an entry and its SHA-256."""
    found, parts = hashlib.sha256(), []
    for part in read_parts(archive, entry):
        found.update(part)
        parts.append(part)
    return b"".join(parts), found.hexdigest()
