"""How a script runs: flags to Config, errors to one sentence and an exit code.

No torch here: help is quick.
"""

import platform
import re
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tyro

OK, FAILED, SOME_FAILED, INTERRUPTED, TERMINATED = 0, 1, 3, 130, 143  # exit codes; 2: wrong flags
KEPT = "finished work is kept: training continues with --resume, stages 1 and 5 when you rerun them"
OUT_OF_MEMORY = (
    "the device ran out of memory: lower --batch-size, "
    "or in training keep it and take --accumulate 4 or --checkpointing"
)
TRACED_PACKAGES = ("torch", "timm", "numpy", "pydicom")


class UserError(Exception):
    """An error the user can fix. The message is one sentence: what, where, what to do."""


def run_script(main: Callable, config_type: type, description: str, interrupted: str = KEPT) -> Any:
    """Parse the flags into `config_type`, call `main` with it and return its result.

    End the process with a sentence and an exit code on an error that the user can fix.
    description: the script's docstring, for --help.
    interrupted: what to say after an interrupt.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    if not {"-h", "--help"}.isdisjoint(sys.argv):
        print(wrapped(description, shutil.get_terminal_size().columns))
    try:
        return main(tyro.cli(config_type, description=""))
    except KeyboardInterrupt:
        message, code = f"interrupted; {interrupted}", INTERRUPTED
    except UserError as error:
        message, code = f"error: {error}", FAILED
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        message, code = f"error: {OUT_OF_MEMORY}", FAILED
    print(message, file=sys.stderr)
    sys.exit(code)


def wrapped(description: str, width: int) -> str:
    """Wrap a docstring to `width` columns (tyro would join lines that begin with a letter).

    Paragraphs with an indented line are lists and keep their lines; what does not fit continues
    below the line's last column.
    """
    lines = []
    for paragraph in description.strip().split("\n\n"):
        is_list = "\n " in f"\n{paragraph}" or paragraph.startswith(("Reads  ", "Writes  "))
        for line in paragraph.splitlines() if is_list else [paragraph]:
            columns = [gap.end() for gap in re.finditer(r"^ +|\S  +", line)]
            indent = columns[-1] if columns and columns[-1] < width - 30 else 8 * is_list
            lines += textwrap.wrap(
                line,
                width,
                subsequent_indent=" " * indent,
                break_long_words=False,
                break_on_hyphens=False,
            )
        lines.append("")
    return "\n".join(lines)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that affect results."""
    found = {"python": platform.python_version()}
    for package in TRACED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def settings_of(config: Any) -> dict:
    """Return the fields of a Config as plain values, for json and checkpoints."""
    settings = asdict(config)
    for name, value in settings.items():
        if isinstance(value, Path):
            settings[name] = str(value)
    return settings
