"""Writes are whole or not there, whoever else writes the same file, and leave nothing behind."""

import errno
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from src.artifacts import atomic as module
from src.artifacts.atomic import atomic, remove_stale, temporary, unwritable
from src.artifacts.paths import ArtifactError, DataFolder

ROOT = Path(__file__).resolve().parents[1]
SIZE = 3_000_000  # bytes: many writes of the system
WRITER = """
import sys
from pathlib import Path
from src.artifacts.atomic import atomic
letter, path = sys.argv[1].encode(), Path(sys.argv[2])
print("ready", flush=True)
input()
for _ in range(60):
    with atomic(path, sync=False) as file:
        for _ in range(30):
            file.write(letter * {part})
"""


def python(code, *arguments, **options):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, text=True, **options)


def test_two_processes_that_write_one_file_leave_it_whole_at_every_moment(tmp_path):
    path, code = tmp_path / "file", WRITER.format(part=SIZE // 30)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    writers = [python(code, letter, path, **pipes) for letter in "ab"]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    reads = {b"a": 0, b"b": 0}
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            content = path.read_bytes()
            assert content in (b"a" * SIZE, b"b" * SIZE)
            reads[content[:1]] += 1
    assert [writer.communicate()[1] for writer in writers] == ["", ""]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert min(reads.values()) > 0, "they did not write at the same time"
    assert list(tmp_path.iterdir()) == [path]


PREPARER = """
import sys
from pathlib import Path
import numpy as np
from src.artifacts.paths import ArtifactError, DataFolder
from src.preprocess.array_files import write_volume
data, images = DataFolder(Path(sys.argv[1])), np.full((40, 64, 64), 3, np.float16)
print("ready", flush=True)
input()
for _ in range(40):
    try:
        write_volume(data, "1.2", images, images.shape, write_slices=True)
    except ArtifactError as error:
        assert "another run" in str(error) and "free space" not in str(error), error
"""


def test_two_runs_that_prepare_one_series_leave_it_whole(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    runs = [python(PREPARER, tmp_path, **pipes) for _ in range(2)]
    for run in runs:
        assert run.stdout.readline() == "ready\n"
    for run in runs:
        run.stdin.write("\n")
        run.stdin.flush()
    assert [run.communicate()[1] for run in runs] == ["", ""]
    data = DataFolder(tmp_path)
    slices = sorted(data.slice_folder("1.2").iterdir())
    assert len(slices) == 40
    for array in (np.load(path) for path in [data.sequence("1.2"), *slices]):
        assert array.dtype == np.float16 and (array == 3).all()
    assert sorted(path.name for path in tmp_path.rglob("*.tmp")) == []


def test_what_a_killed_process_left_goes_with_the_next_write_in_its_folder(tmp_path):
    path = tmp_path / "file"
    code = (
        "import os, sys; from pathlib import Path; from src.artifacts.atomic import *\n"
        "path = Path(sys.argv[1]); temporary(path.parent / 'folder').mkdir()\n"
        "with atomic(path) as file: file.write(b'half'); file.flush(); os.kill(os.getpid(), 9)"
    )
    assert python(code, path).wait() == -9
    assert len(list(tmp_path.glob(".*.tmp"))) == 2 and not path.exists()
    module.remove_stale_once.cache_clear()
    with atomic(path) as file:
        file.write(b"whole")
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"whole"


def test_what_may_still_be_written_stays(tmp_path):
    """By this machine's living processes, by other machines for a day, and files of people."""
    gone = python("pass")
    gone.wait()
    here, path = platform.node(), tmp_path / "file"
    alive = [temporary(path), tmp_path / ".notes.tmp", tmp_path / "x.tmp"]
    alive += [tmp_path / f".file.{gone.pid}-00000000@elsewhere.tmp"]
    old = [tmp_path / ".old.tmp", tmp_path / f".file.{os.getpid()}-11111111@elsewhere.tmp"]
    stale = [tmp_path / f".file.{gone.pid}-00000000@{here}.tmp", *old]
    for file in (*alive, *stale):
        file.touch()
    for file in old:
        os.utime(file, (0, time.time() - 90_000))
    remove_stale(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(alive)


def test_each_write_has_a_name_of_its_own(tmp_path):
    assert temporary(tmp_path / "x") != temporary(tmp_path / "x")
    assert temporary(tmp_path / "x").parent == tmp_path


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY])
def test_who_meets_another_run_is_not_advised_to_free_space(number, tmp_path):
    text = str(unwritable(tmp_path / "x", OSError(number, os.strerror(number))))
    assert "another run" in text and "free space" not in text
    assert "free space" in str(unwritable(tmp_path / "x", OSError(errno.ENOSPC, "no space")))


def test_a_file_whose_temporary_vanishes_is_one_sentence(tmp_path):
    with pytest.raises(ArtifactError, match="another run"), atomic(tmp_path / "x") as file:
        Path(file.name).unlink()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_what_a_process_left_that_nobody_waited_for_is_removed(tmp_path):
    """In a container such a process may be listed for as long as the container runs."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    while "Z" not in Path(f"/proc/{child.pid}/stat").read_text().split(") ")[1][:1]:
        time.sleep(0.01)
    left = tmp_path / f".file.{child.pid}-00000000@{platform.node()}.tmp"
    left.touch()
    remove_stale(tmp_path)
    assert not left.exists()
    child.wait()
