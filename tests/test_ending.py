"""How scripts end: at signals, wherever they meet the process, and with outputs that break."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import hear_interrupts

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import atexit, multiprocessing, os, signal, sys, time
from dataclasses import dataclass
from src.progress import in_thread, progress
from src.script import UserError, run_script

@dataclass
class Config:
    how: str = ""
    lines: int = 0
    error: str = ""

def send():
    os.kill(os.getpid(), getattr(signal, os.environ["SIGNAL"]))
    time.sleep(0.2)

class Destructor:
    def __del__(self):
        send()

def hang(_=None):
    time.sleep(300)

def main(config):
    for line in progress(range(config.lines), "lines", " lines"):
        print("line", line)
    if config.error:
        raise UserError(config.error)
    if config.how == "loop":
        send()
    elif config.how == "twice":
        try:
            send()
        finally:
            send()
            print("tidied up")
    elif config.how == "destructor":
        Destructor()
        hang()
    elif config.how == "swallowed":
        try:
            send()
        except:
            pass
    elif config.how == "swallowed, hangs":
        try:
            send()
        except:
            hang()
    elif config.how == "thread":
        for item in in_thread(lambda item: item and hang(), [0, 1]):
            send()
    elif config.how == "child":
        multiprocessing.get_context("fork").Process(target=hang, daemon=True).start()
        send()
    elif config.how == "tqdm":
        for item in progress(range(10), "items", " items"):
            send()
    elif config.how == "late":
        atexit.register(send)
    elif config.how == "result":
        return 3

if __name__ == "__main__":
    sys.exit(run_script(main, Config, "What it does.", "it is kept"))
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> list[str]:
    path = tmp_path_factory.mktemp("script") / "script.py"
    path.write_text(SCRIPT)
    return [sys.executable, str(path)]


def environment(**more) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)} | more


CODES = {"SIGINT": 130, "SIGTERM": 143}
HOW = ["loop", "twice", "tqdm", "destructor", "swallowed", "swallowed, hangs", "thread", "child"]


@pytest.fixture(scope="module")
def signalled(script) -> Iterator[dict[tuple[str, str], subprocess.Popen]]:
    """Processes that a signal ends, by how and which: side by side, as they mostly wait."""
    children = {
        (how, name): subprocess.Popen(
            [*script, "--how", how],
            env=environment(SIGNAL=name),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=hear_interrupts,
        )
        for how in HOW
        for name in CODES
    }
    yield children
    for child in children.values():
        child.kill()
        child.wait()


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("name", "code"), CODES.items())
def test_a_signal_ends_with_its_code_wherever_it_arrives(signalled, how, name, code):
    child = signalled[how, name]
    out, err = child.communicate(timeout=120)
    assert child.returncode == code
    assert "Traceback" not in err and "ignored" not in err
    if how != "swallowed, hangs":
        assert err.splitlines()[-1].endswith("; it is kept")
    assert ("tidied up" in out) == (how == "twice")
    deadline = time.monotonic() + 2
    with pytest.raises(ProcessLookupError):  # soon no process of its session is left
        while time.monotonic() < deadline:
            os.killpg(child.pid, 0)
            time.sleep(0.02)


def test_how_long_a_signal_may_take(script):
    """At most 5 s after it, even if tidying up never ends; the process says when it came."""
    code = script[1]
    text = (
        Path(code).read_text().replace("def send():\n", "def send():\n    print(1, flush=True)\n")
    )
    Path(code).with_name("loud.py").write_text(text)
    command = [sys.executable, str(Path(code).with_name("loud.py")), "--how", "swallowed, hangs"]
    child = subprocess.Popen(command, env=environment(SIGNAL="SIGTERM"), stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"1\n"
    start = time.monotonic()
    assert child.wait(timeout=60) == 143
    patience = max(1, os.getloadavg()[0] / os.cpu_count())
    assert 2 < time.monotonic() - start < 5 * patience


def test_a_signal_after_the_work_ends_at_once(script):
    """While Python tears itself down an exception would be lost, and the code 0."""
    command = [*script, "--how", "late"]
    done = subprocess.run(command, env=environment(SIGNAL="SIGTERM"), capture_output=True)
    assert (done.returncode, done.stderr) == (-signal.SIGTERM, b"")  # 143 in the shell


def test_what_was_ignored_stays_ignored(script):
    command = ["sh", "-c", 'trap "" INT; "$@"', "sh", *script, "--how", "loop"]
    assert subprocess.run(command, env=environment(SIGNAL="SIGINT")).returncode == 0


def test_the_result_comes_back(script):
    assert subprocess.run([*script, "--how", "result"], env=environment()).returncode == 3


LOST = "nobody reads the output any more; it is kept\n"
FULL = "error: No space left on device for what is printed or written\n"


BUFFERED = [  # the output breaks while it is printed, or only when it is flushed
    ("--lines 9999", "| head -1", 141, LOST),
    ("--lines 3", "| true", 141, LOST),
    ("--lines 9999", "2>&1 | head -1", 141, ""),
    ("--help", "| true", 141, ""),
    ("--lines 3", "> /dev/full", 1, FULL),
    ("--help", "> /dev/full", 1, FULL),
]


@pytest.mark.parametrize(("arguments", "redirection", "code", "shown"), BUFFERED)
def test_broken_outputs_without_a_buffer(script, arguments, redirection, code, shown):
    assert ends(script, arguments, redirection, PYTHONUNBUFFERED="1") == (code, shown)


@pytest.mark.parametrize(
    ("arguments", "redirection", "code", "shown"),
    [
        *BUFFERED,
        ("--lines 3 --error bad", "2> /dev/full", 1, ""),
        ("--lines 3", ">&-", 0, ""),
        ("--lines 3", "2>&-", 0, ""),
        ("--lines 3", "<&- >&- 2>&-", 0, ""),
        ("--error bad", ">&-", 1, "error: bad\n"),
        ("--error bad", "2>&-", 1, ""),
        ("--error bad", "> /dev/full", 1, "error: bad\n"),
    ],
)
def test_broken_outputs(script, arguments, redirection, code, shown):
    assert ends(script, arguments, redirection, PYTHONUNBUFFERED="") == (code, shown)


def ends(script, arguments, redirection, **more) -> tuple[int, str]:
    """Run the script in a shell; return its exit code and what it says on stderr."""
    command = f"{' '.join(script)} {arguments} {redirection}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], env=environment(**more), capture_output=True, text=True
    )
    return done.returncode, done.stderr


def test_a_file_does_not_get_the_number_of_a_closed_stream(tmp_path):
    """What a C library prints on 1 or 2 must not end in a file of ours."""
    code = """
import os, sys
from dataclasses import dataclass
from src.script import run_script

@dataclass
class Config:
    path: str

def main(config):
    with open(config.path, "w"):
        os.write(1, b"from C")
        os.write(2, b"from C")

run_script(main, Config, "")
"""
    path = tmp_path / "file"
    command = ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "bash", sys.executable, "-c", code]
    done = subprocess.run([*command, "--path", str(path)], env=environment())
    assert done.returncode == 0 and path.read_bytes() == b""


def test_no_text_of_a_message_reaches_the_terminal_raw(script):
    names = ["a\x1b[31mb", "a\x07b", "a\u202eb", "a\udc80b"]
    command = [*map(os.fsencode, script), b"--error", os.fsencode(" ".join(names))]
    done = subprocess.run(command, env=environment(), capture_output=True)
    line = done.stderr.decode()
    assert done.returncode == 1 and line.startswith("error: ") and line.strip().isprintable()
    shown = line.split()[1:]
    assert len(shown) == len(names)
    assert all(name.startswith("a\\") and name.endswith("b") for name in shown)
