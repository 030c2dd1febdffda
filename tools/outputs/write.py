"""The files of a predicted series for other programs; a kind is loaded when it is asked for."""

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from warnings import catch_warnings, simplefilter

from pydicom.config import disable_value_validation

from src.inference.ensemble import Prediction
from src.preprocess.images import PreparedSeries
from src.script import UserError
from tools.outputs.source import OutputError

KINDS = ("slicer", "nifti", "sr", "capture")  # each is a module here with a function `write`
PACKAGES = {"nifti": "nibabel==5.4.2", "sr": "highdicom==0.28.2"}


def require_packages(kinds: Iterable[str]) -> None:
    """Raise UserError if a kind of output needs a package that is not installed."""
    for kind in kinds:
        package = PACKAGES.get(kind, "")
        name = package.partition("==")[0]
        if name and find_spec(name) is None:
            raise UserError(f"--output {kind} needs the package {name}: pip install {package}")


def write_outputs(
    kinds: Iterable[str], out: Path, name: str, prepared: PreparedSeries, prediction: Prediction
) -> dict[str, str]:
    """Write the files of each kind into `out`; return {kind: why} of those that are refused.

    name: with which all of them begin.
    """
    refused = {}
    for kind in dict.fromkeys(kinds):
        try:
            module = import_module(f"tools.outputs.{kind}")
            # What is copied from the source stays as it is, and warnings would quote names.
            with disable_value_validation(), catch_warnings():
                simplefilter("ignore")
                module.write(out, name, prepared, prediction)
        except UserError:  # such as a full disk: the next series would meet it, too
            raise
        except OutputError as error:
            refused[kind] = str(error)
        except Exception as error:  # its text may quote the patient's name
            kind_of_error = type(error).__name__
            refused[kind] = f"the files of the series do not allow it ({kind_of_error})"
    return refused
