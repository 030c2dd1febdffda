"""Zip and tar files from strangers, unpacked within bounds: no paths, links or bombs of theirs.

Members get names of ours, {folder's number}/member-{its number}: folders stay apart, and nothing
depends on what they are called. Archives inside an archive are files as any other.
"""

import gzip
import io
import shutil
import tarfile
import zipfile
import zlib
from bz2 import BZ2File
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from src.artifacts.archive import MOST_READ, Bounded

MOST_FILES = 100_000  # members
MOST_BYTES = 16 << 30  # of all members, unpacked
MOST_TIMES = 100  # how often larger than the archive, unpacked
ALWAYS = 256 << 20  # bytes that a small archive may unpack to, however often larger
HEADER = 1 << 14  # bytes that the header of a member of a tar file may take
ZIP, GZIP, BZIP2 = (b"PK\3\4", b"PK\5\6"), b"\x1f\x8b", b"BZh"  # first bytes
DICOM = b"DICM"  # at 128
DAMAGED = (  # what the readers raise at bytes that make no sense
    zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, ValueError, OverflowError,
    RuntimeError,
)  # fmt: skip


class ArchiveError(Exception):
    """An archive that is not unpacked. The text is one sentence, without names of its members."""


class Member(NamedTuple):
    """A file of an archive."""

    number: int  # from 1
    name: str
    open: Callable[[], BinaryIO]


class Sparing:
    """A file that can be read only so far, until a tar file's header says what it holds."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.seek, self.tell = file.seek, file.tell
        self.left = 0

    def read(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            raise ValueError("a member's header is too long")
        return self.file.read(size)


def is_archive(path: Path) -> bool:
    """Return whether a file is a zip or tar file, the latter perhaps in gzip or bzip2."""
    try:
        if not path.is_file():
            return False
        with open(path, "rb") as file:
            head = file.read(132)
        if head[128:] == DICOM:
            return False
        if head.startswith(ZIP):
            return True
        with _decompressed(path, head) as plain:
            block = plain.read(tarfile.BLOCKSIZE)
            tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
        return True
    except (OSError, *DAMAGED):
        return False


def unpack(path: Path, folder: Path) -> None:
    """Unpack the files of an archive into a new folder. Raise ArchiveError if that is refused."""
    folder.mkdir(parents=True)
    limit = min(MOST_BYTES, max(ALWAYS, MOST_TIMES * path.stat().st_size))
    free = shutil.disk_usage(folder).free
    try:
        with open(path, "rb") as file:
            head = file.read(4)
        of_kind = _zip_members if head.startswith(ZIP) else _tar_members
        _write_all(of_kind(path, head, min(limit, free)), folder)
    except _TooLarge:
        room = f"the {free >> 20} MiB that are free in {folder.parent} (set TMPDIR to another disk)"
        most = room if free < limit else f"{limit >> 20} MiB"
        raise ArchiveError(f"{path} would unpack to more than {most}: unpack it first") from None
    except DAMAGED as error:
        raise ArchiveError(f"{path} is damaged or cut ({type(error).__name__})") from None
    except OSError as error:  # gzip's own, of damaged files, have no number
        what = error.strerror or "it is damaged"
        raise ArchiveError(f"{path} cannot be unpacked into {folder.parent}: {what}") from None
    except ArchiveError as error:
        raise ArchiveError(f"{path} {error}: unpack it first") from None


class _TooLarge(Exception):
    """The archive would unpack to more than it may."""


def _write_all(members: Iterator[Member], folder: Path) -> None:
    parents: dict[PurePosixPath, int] = {}
    for member in members:
        if member.number > MOST_FILES:
            raise ArchiveError(f"has more than {MOST_FILES} members")
        place = PurePosixPath(member.name.replace("\\", "/"))
        if place.is_absolute() or ".." in place.parts:
            raise ArchiveError(f"has a path that leads out of it (member {member.number})")
        if any(part.startswith((".", "__MACOSX")) for part in place.parts):
            continue  # as src/dicom/folder.py does
        number = parents.setdefault(place.parent, len(parents) + 1)
        target = folder / str(number) / f"member-{member.number}"
        target.parent.mkdir(exist_ok=True)
        with member.open() as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file)


def _zip_members(path: Path, _head: bytes, limit: int) -> Iterator[Member]:
    with Bounded(path) as file, zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > limit:
            raise _TooLarge
        for number, entry in enumerate(entries, 1):
            if entry.is_dir():
                continue
            if entry.flag_bits & 1:
                raise ArchiveError("is encrypted")
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ArchiveError("is compressed in a way that is not read here")
            kind = entry.external_attr >> 28  # of a file of Unix; 0: made elsewhere
            if kind not in (0, 8):
                raise ArchiveError(f"holds a link or a device (member {number})")
            yield Member(number, entry.orig_filename, lambda entry=entry: archive.open(entry))


def _tar_members(path: Path, head: bytes, limit: int) -> Iterator[Member]:
    with _decompressed(path, head) as plain:
        sparing = Sparing(plain)
        sparing.left = HEADER
        with tarfile.open(fileobj=sparing, mode="r:") as archive:
            number = 0
            while (member := archive.next()) is not None:
                number += 1
                if member.offset_data + member.size > limit:
                    raise _TooLarge
                if not (member.isreg() or member.isdir()) or member.issparse():
                    raise ArchiveError(f"holds a link or a device (member {number})")
                sparing.left = member.size + MOST_READ
                if member.isreg():
                    yield Member(number, member.name, lambda one=member: archive.extractfile(one))
                archive.members = []  # tarfile would keep them all
                sparing.left = HEADER


def _decompressed(path: Path, head: bytes) -> io.BufferedIOBase:
    if head.startswith(GZIP):
        return gzip.open(path)
    return BZ2File(path) if head.startswith(BZIP2) else open(path, "rb")
