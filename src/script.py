"""How a script runs: command line to Config, errors to one sentence and an exit code, and the first lines of its log. No torch here: help is quick."""

import platform
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tyro

OK, FAILED, USAGE, SOME_FAILED, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 130, 143  # exit codes
TRACED_PACKAGES = ("torch", "timm", "numpy", "pydicom")


class UserError(Exception):
    """Something the user can mend. The message is one sentence: what, where, what to do."""


def run_script(main: Callable, config_type: type, description: str) -> Any:
    """Parse the command line into `config_type`, call `main` with it and return its result; end the process on an error."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        return main(tyro.cli(config_type, description=description))
    except KeyboardInterrupt:
        _stop(
            "interrupted; what is finished is kept: training goes on with --resume, stages 1 and 5 when they are started again",
            INTERRUPTED,
        )
    except UserError as error:
        _stop(f"error: {error}", FAILED)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        _stop(
            "error: the device ran out of memory: lower --batch-size, or in training keep it and take --accumulate 4 or --checkpointing",
            FAILED,
        )


def _stop(message: str, code: int) -> None:
    print(message, file=sys.stderr)
    sys.exit(code)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide about results."""
    found = {"python": platform.python_version()}
    for package in TRACED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def settings_of(config: Any) -> dict:
    """The fields of a script's Config as plain values, for json and checkpoints."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in asdict(config).items()
    }
