"""How a script runs: flags to Config, errors to one sentence and an exit code.

No torch here: help is quick.
"""

import errno
import platform
import re
import shutil
import sys
import textwrap
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tyro

from src import ending
from src.ending import INTERRUPTED, NOBODY_READS, TERMINATED
from src.text import printable

OK, FAILED, SOME_FAILED = 0, 1, 3  # exit codes; 2: wrong flags; those of src/ending.py
KEPT = "finished work is kept: training continues with --resume, stages 1 and 5 when you rerun them"
LONGEST_SENTENCE = 2000  # characters
OUT_OF_MEMORY = (
    "the device ran out of memory: lower --batch-size, "
    "or in training keep it and take --accumulate 4 or --checkpointing"
)
LABEL = 8  # columns of "Reads   " and "Writes  "
HANG = 2  # columns by which an entry without columns goes on farther to the right
COMMAND = re.compile(r" +(\w+=\S+ )?!?python ")  # of an example
TRACED_PACKAGES = ("torch", "timm", "numpy", "pydicom")


class UserError(Exception):
    """An error the user can fix. The message is one sentence: what, where, what to do."""


def run_script(
    main: Callable,
    config_type: type,
    description: str,
    interrupted: str = KEPT,
    following: Callable[[Any], str] | None = None,
) -> Any:
    """Parse the flags into `config_type`, call `main` with it and return its result.

    End the process with a sentence and an exit code on an error that the user can fix.
    description: the script's docstring, for --help.
    interrupted: what to say after an interrupt.
    following: Config -> the last line, which says what to run next (src/artifacts/next_stage.py).
    """
    ending.open_closed_streams()
    stop = ending.Stop()
    wants_help = not {"-h", "--help"}.isdisjoint(sys.argv)
    try:
        config = _flags(config_type, description if wants_help else "")
        result = main(config)
        if following and (line := following(config)):
            print(line)
        sys.stdout.flush()  # a full disk shows now, not when Python ends
        stop.check()
        return result
    except KeyboardInterrupt as error:
        code = getattr(error, "code", INTERRUPTED)
        message = f"{'terminated' if code == TERMINATED else 'interrupted'}; {interrupted}"
    except UserError as error:
        message, code = f"error: {printable(error, LONGEST_SENTENCE)}", FAILED
    except BrokenPipeError:
        code = NOBODY_READS
        message = "" if wants_help else f"nobody reads the output any more; {interrupted}"
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        message, code = f"error: {error.strerror} for what is printed or written", FAILED
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        message, code = f"error: {OUT_OF_MEMORY}", FAILED
    finally:
        stop.release()
    ending.say_last(message)
    sys.exit(code)


def _flags(config_type: type, description: str) -> Any:
    """Return the Config. Exit after --help, with the description, and after wrong flags."""
    if description:
        print(wrapped(description, shutil.get_terminal_size().columns))
    try:
        return tyro.cli(config_type, description="")
    except SystemExit:
        sys.stdout.flush()
        raise


def wrapped(description: str, width: int) -> str:
    """Wrap a docstring to `width` columns (tyro would join lines that begin with a letter).

    Paragraphs with an indented line are lists and keep their entries; what does not fit continues
    below the entry's last column, or HANG to the right of its only one.
    """
    lines = []
    for paragraph in description.strip().split("\n\n"):
        is_list = "\n " in f"\n{paragraph}" or paragraph.startswith(("Reads  ", "Writes  "))
        for line in _entries(paragraph) if is_list else [paragraph]:
            columns = _columns(line)
            indent = columns[-1] if columns and columns[-1] < width - 30 else LABEL * is_list
            indent += HANG * (len(columns) == 1)
            goes_on = " \\" if COMMAND.match(line) else ""  # as the shell wants it
            pieces = textwrap.wrap(
                line,
                width - len(goes_on),
                subsequent_indent=" " * indent,
                break_long_words=False,
                break_on_hyphens=False,
            )
            lines += [piece + goes_on for piece in pieces[:-1]] + pieces[-1:]
        lines.append("")
    return "\n".join(lines)


def _columns(line: str) -> list[int]:
    """Return where the columns of a list's line begin, but for the first one at 0."""
    return [gap.end() for gap in re.finditer(r"^ +|\S  +", line)]


def _entries(paragraph: str) -> list[str]:
    """Return the entries of a list; the lines on which one goes on are joined to it."""
    entries: list[str] = []
    for line in paragraph.splitlines():
        before, columns = _columns(entries[-1]) if entries else [], _columns(line)
        below = columns == before[-1:] and columns and columns[0] > LABEL
        if below or (before and columns == [before[-1] + HANG]):
            entries[-1] += " " + line.strip()
        else:
            entries.append(line)
    return entries


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
