"""Flags become a Config, and errors one sentence and an exit code."""

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from src.ending import SIGNALS
from src.script import UserError, run_script, wrapped

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Config:
    size: int = 3  # pixels


def run(monkeypatch, main, *arguments):
    monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        return run_script(main, Config, "What it does.")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_flags_become_the_config_and_the_result_comes_back(monkeypatch):
    assert run(monkeypatch, lambda config: config.size, "--size", "7") == 7


def stopped(error):
    def main(_):
        raise error

    return main


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("x.csv is missing: run y first"), 1, "error: x.csv is missing: run y first"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OutOfMemoryError("CUDA out of memory"), 1, "--batch-size"),
    ],
)
def test_errors_are_one_sentence_and_an_exit_code(monkeypatch, capsys, error, code, words):
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, stopped(error))
    assert stop.value.code == code
    shown = capsys.readouterr().err.strip().splitlines()
    assert len(shown) == 1
    assert words in shown[0]


def test_other_errors_are_not_hidden(monkeypatch):
    with pytest.raises(RuntimeError, match="a bug"):
        run(monkeypatch, stopped(RuntimeError("a bug")))


def test_a_wrong_flag_is_a_usage_error(monkeypatch):
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, stopped(None), "--sise", "7")
    assert stop.value.code == 2


def test_sigterm_ends_with_its_code():
    imports = (
        "import os, signal; from src.script import run_script; from tests.test_script import Config"
    )
    code = f"{imports}; run_script(lambda _: os.kill(os.getpid(), signal.SIGTERM), Config, '')"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 143


HELP = """What it does. It is a sentence that is too long for a narrow terminal.
Prose goes on here.

    python script.py --size 3 --and --many --other --flags

Reads   a.csv
        c.csv
Writes  b.csv, and a sentence about it that is too long for a narrow terminal
        d.csv      a column that
                   goes on
        e.csv, and a sentence that
          goes on
Notes
  - A point that
    goes on, and on, and is too long for a narrow terminal.
"""


def test_help_wraps_prose_and_keeps_the_lines_of_lists():
    assert wrapped(HELP, 50).splitlines() == [
        "What it does. It is a sentence that is too long",
        "for a narrow terminal. Prose goes on here.",
        "",
        "    python script.py --size 3 --and --many \\",
        "      --other --flags",
        "",
        "Reads   a.csv",
        "        c.csv",
        "Writes  b.csv, and a sentence about it that is too",
        "          long for a narrow terminal",
        "        d.csv      a column that goes on",
        "        e.csv, and a sentence that goes on",
        "Notes",
        "  - A point that goes on, and on, and is too long",
        "    for a narrow terminal.",
    ]


def test_help_shows_the_docstring_and_the_flags(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, stopped(None), "--help")
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    assert shown.startswith("What it does.") and "--size" in shown and "pixels" in shown
    assert max(map(len, shown.splitlines())) <= 60


def test_help_needs_no_torch():
    modules = "src.script, src.artifacts.tables, preprocess_data"
    code = f"import sys; import {modules}; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
