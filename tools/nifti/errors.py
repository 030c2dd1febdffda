"""The error of a scan that cannot be imported, and the package that reads NIfTI."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType

from src.dicom import DicomError
from src.script import UserError
from src.text import printable


class NiftiError(DicomError):
    """A scan that cannot be imported, with reason and sentence as the reader's errors have them."""


def require(holds: bool, reason: str, message: str) -> None:
    """Raise NiftiError unless the condition holds."""
    if not holds:
        raise NiftiError(reason, message)


def nibabel() -> ModuleType:
    """Import the package that reads NIfTI; raise UserError if it is not installed."""
    try:
        return import_module("nibabel")
    except ImportError as error:
        advice = "NIfTI files need the package nibabel: pip install nibabel==5.4.2"
        raise UserError(advice) from error


@contextmanager
def damaged(path: Path, part: str) -> Iterator[None]:
    """Turn what a damaged file raises into a NiftiError that names it.

    part: of the file, that is read
    """
    try:
        yield
    except (NiftiError, UserError, MemoryError):
        raise
    except Exception as error:  # gzip, zlib and nibabel raise a dozen kinds
        detail = printable(error) or type(error).__name__
        message = f"{path.name}: its {part} cannot be read ({detail}): fetch the file again"
        raise NiftiError("damaged", message) from None
