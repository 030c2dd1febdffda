"""Writes that are whole or not there: under a temporary name first, which is of this process."""

import errno
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO

from src.artifacts.paths import ArtifactError

TEMPORARY = re.compile(r"\..*\.(?P<process>\d+)-[0-9a-f]{8}@(?P<machine>.*)\.tmp")
DAY = 24 * 3600  # seconds


def temporary(path: Path) -> Path:
    """Return where `path` is written until it is complete: a name that nobody else writes to.

    It says which process writes it, on which machine.
    """
    writer = f"{os.getpid()}-{uuid.uuid4().hex[:8]}@{platform.node()}"
    return path.with_name(f".{path.name}.{writer}.tmp")


def remove_stale(folder: Path) -> None:
    """Remove the temporary files and folders in `folder` that nobody writes any more."""
    for path in folder.glob(".*.tmp"):
        if not _is_stale(path):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            path.unlink()


def _is_stale(path: Path) -> bool:
    """Return whether the process that wrote a temporary file is gone.

    Whether one of another machine is gone cannot be known: its files are stale after a day.
    """
    name = TEMPORARY.fullmatch(path.name)
    if name and name["machine"] == platform.node() and _has_ended(int(name["process"])):
        return True
    with suppress(OSError):
        return time.time() - path.lstat().st_mtime > DAY
    return False


def _has_ended(process: int) -> bool:
    if os.name != "posix":  # elsewhere, to ask would end it
        return False
    try:
        os.kill(process, 0)  # only asks
    except ProcessLookupError:
        return True
    except OSError:  # somebody else's
        return False
    with suppress(OSError):  # it ended, but nobody has asked how: in a container this may last
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        return state in "ZX"
    return False


remove_stale_once = cache(remove_stale)  # per process: a folder may hold thousands of files


@contextmanager
def atomic(path: Path, mode: str = "wb", sync: bool = True) -> Iterator[IO]:
    """Open a temporary file beside `path` and rename it to `path` if the block succeeds.

    The first one in a folder removes what killed runs left there.
    sync: wait until the disk has it, so that it survives a power failure.
    """
    remove_stale_once(path.parent)
    partial = temporary(path)
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
    """Return what to say of a file that cannot be written, and what to do."""
    reason = getattr(error, "strerror", None) or error
    advice = "free space or choose another folder"
    met = getattr(error, "errno", None) in (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY)
    if met and path.parent.is_dir():
        advice = "another run writes it, or deletes its folder; let that run end first"
    return ArtifactError(f"{path} cannot be written ({reason}): {advice}")
