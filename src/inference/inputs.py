"""What people name to predict: folders, archives and single files, as opened series."""

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from src.artifacts.unpack import ArchiveError, is_archive, unpack
from src.dicom import DicomError, Series, open_all
from src.text import printable
from src.worker_pool import Failure

LONGEST_PATH = 4096  # characters
Opened = tuple[str, Series | Failure]  # UID, or what was named; the series without pixels


def batches(paths: tuple[Path, ...], temporary: Path) -> Iterator[Iterator[Opened]]:
    """Yield the series of all folders and files, then those of each archive.

    An archive is unpacked in `temporary`; its files are gone when the next batch is asked for.
    """
    archives = [path for path in paths if is_archive(path)]
    yield _of_places([path for path in paths if path not in archives])
    for archive in archives:
        folder = temporary / archive.name
        yield _of_archive(archive, folder)
        shutil.rmtree(folder, ignore_errors=True)


def _of_archive(archive: Path, folder: Path) -> Iterator[Opened]:
    try:
        unpack(archive, folder)
    except ArchiveError as error:
        yield printable(archive, LONGEST_PATH), Failure("bad_archive", printable(error, 1000))
    else:
        yield from _of_folder(archive, folder)


def _of_places(paths: list[Path]) -> Iterator[Opened]:
    files: dict[Path, list[Path]] = {}  # by the folder that they are in
    for path in paths:
        if path.is_file():
            files.setdefault(path.parent, []).append(path)
        else:
            yield from _of_folder(path, path)
    for folder, named in files.items():
        yield from _of_files(folder, named)


def _of_folder(named: Path, folder: Path) -> Iterator[Opened]:
    """Yield every series in a folder and below it. named: what the user calls it."""
    try:
        found, strangers = open_all(folder)
    except DicomError as error:
        found, strangers = [("", error)], []
    for reason, count in Counter(reason for _, reason in strangers).items():
        files = "1 file belongs" if count == 1 else f"{count} files belong"
        print(f"{printable(named)}: {files} to no series ({reason})")
    for uid, series in found:
        yield _named(uid, named, series)


def _of_files(folder: Path, files: list[Path]) -> Iterator[Opened]:
    """Yield once each the series that files of one folder belong to, with all its files there."""
    alone: dict[str, tuple[Path, Series | DicomError]] = {}
    for path in files:
        try:
            of_file, _ = open_all(path)
        except DicomError as error:
            yield _named("", path, error)
            continue
        for uid, series in of_file:
            alone.setdefault(uid, (path, series))
    found = []
    if alone:
        with suppress(DicomError):  # of a folder that nobody may list
            found, _ = open_all(folder, below=False)
    for uid, series in found:
        if uid in alone:
            yield _named(uid, alone[uid][0], series)
    for uid in sorted(alone.keys() - {uid for uid, _ in found}):  # of hidden files
        yield _named(uid, *alone[uid])


def _named(uid: str, named: Path, series: Series | DicomError) -> Opened:
    if isinstance(series, DicomError):
        series = Failure(series.reason, str(series))
    return printable(uid or named, LONGEST_PATH), series
