"""The one error of the reader: a reason code for scripts, and a sentence for people."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from src.text import printable

QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")  # an error may quote the patient's name


class DicomError(Exception):
    """A file or folder that cannot be read: `reason` is a short code, `message` is for people."""

    def __init__(self, reason: str, message: str):
        super().__init__(reason, message)  # both, so that it survives pickling between processes
        self.reason = reason
        self.message = printable(message, 1000)

    def __str__(self) -> str:
        return self.message


def require(holds: bool, reason: str, message: str) -> None:
    """Raise DicomError unless the condition holds."""
    if not holds:
        raise DicomError(reason, message)


@contextmanager
def named_errors(path: Path, damaged: str) -> Iterator[None]:
    """Turn any exception into a DicomError that names the file.

    damaged: the reason where a parser or decoder stumbles over the bytes
    """
    try:
        yield
    except DicomError as error:
        raise DicomError(error.reason, f"{path.name}: {error}") from None
    except EOFError:
        raise DicomError("truncated", f"{path.name}: the file ends inside its header") from None
    except RecursionError:
        raise DicomError("too_deep", f"{path.name}: sequences are nested too deeply") from None
    except MemoryError:
        raise DicomError("too_large", f"{path.name}: it does not fit into memory") from None
    except OSError as error:
        # The system's errors have a number; pydicom raises its own without one where a file ends.
        reason = "unreadable" if error.errno else "truncated"
        raise DicomError(reason, f"{path.name}: {error.strerror or error}") from None
    except Exception as error:
        # Damaged bytes make parsers and decoders raise anything, even StopIteration.
        detail = f"{type(error).__name__}: {QUOTED.sub('...', str(error))}"
        raise DicomError(damaged, f"{path.name}: {detail}") from None
