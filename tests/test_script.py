import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from src.progress import Clock, in_thread
from src.script import TRACED_PACKAGES, UserError, run_script, versions

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Config:
    size: int = 3  # pixels


def run(monkeypatch, main, *arguments):
    monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
    before = signal.getsignal(signal.SIGTERM)
    try:
        return run_script(main, Config, "What it does.")
    finally:
        signal.signal(signal.SIGTERM, before)


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


def test_a_thread_is_one_item_ahead_and_keeps_the_order():
    started, done = [], []
    for item in in_thread(lambda item: started.append(item) or item, range(5)):
        time.sleep(0.02)
        assert started == list(range(min(item + 2, 5)))
        done.append(item)
    assert done == list(range(5))


def test_an_error_in_the_thread_comes_where_its_item_is_due():
    due = in_thread(lambda item: 1 // item, [2, 1, 0, 3])
    assert [next(due), next(due)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(due)


def test_a_clock_adds_up_parts_and_waits():
    clock = Clock()
    for _ in clock.waiting("wait", (time.sleep(0.02) for _ in range(3))):
        with clock.part("work"):
            time.sleep(0.01)
    assert 0.06 <= clock.seconds["wait"] < 1
    assert 0.03 <= clock.seconds["work"] < 1


def test_versions_name_what_decides_about_results():
    assert set(versions()) == {"python", *TRACED_PACKAGES}
    assert "not installed" not in versions().values()


def test_help_needs_no_torch():
    code = "import sys; import src.script, src.artifacts.tables, preprocess_data; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
