"""Real scripts that a signal meets at work: with a thread, with loader processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from src.artifacts.checkpoints import read_checkpoint
from src.artifacts.paths import RunFolder
from src.inference.ensemble import Predictor
from tests.clean_process import be_script
from tests.conftest import CROP
from tests.networks import ENCODER, write_both
from tests.processes import hear_interrupts, processes_of_session
from tools import predict

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")


def predict_and_hang(*words) -> None:
    """Run this in a fork: tools/predict.py, whose thread hangs at the third series."""
    really, done = Predictor.prepare, []

    def prepare(predictor, series):
        done.append(series)
        if len(done) == 3:
            print("hangs", flush=True)
            time.sleep(300)
        return really(predictor, series)

    Predictor.prepare = prepare
    be_script([str(ROOT / "tools/predict.py"), *words], str(ROOT), {})


def start(*command) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hear_interrupts,
    )


def stop(child: subprocess.Popen, send, number: int, code: int) -> str:
    """Send a signal; require an end in 5 s with this code and nothing left. Return stderr."""
    patience = 5 * max(1, os.getloadavg()[0] / os.cpu_count())
    before = time.monotonic()
    send(child.pid, number)
    _, err = child.communicate()
    assert child.returncode == code, err
    assert "Traceback" not in err and "ignored" not in err, err
    while running := processes_of_session(child.pid):
        assert time.monotonic() < before + patience, running
        time.sleep(0.05)
    assert time.monotonic() < before + patience
    return err


def test_predict_whose_thread_hangs_writes_what_it_has(tiny, tmp_path, clean_process):
    write_both(tiny, tmp_path / "model")
    words = [tiny.root / "series", "--out", tmp_path / "out", "--model-dir", tmp_path / "model"]
    words += ["--encoder", ENCODER, "--device", "cpu"]
    child = clean_process.begin(predict_and_hang, *map(str, words))
    while "hangs" not in child.texts()[0] or len(list(tmp_path.glob("out/*.html"))) < 2:
        assert child.poll() is None, child.communicate()
        time.sleep(0.05)
    assert predict.STOPPED in stop(child, os.kill, signal.SIGTERM, 143)
    assert len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == 2
    assert (tmp_path / "out" / "index.html").exists()
    assert not list(tmp_path.glob("out/.*"))


@pytest.mark.parametrize(
    ("send", "number", "code"),
    [(os.kill, signal.SIGTERM, 143), (os.killpg, signal.SIGINT, 130)],
)
def test_training_with_loader_processes(send, number, code, tiny, tmp_path, clean_process):
    """Interrupted as by a terminal, loader processes and all, it is a new Python that ends."""
    flags = ["--data-dir", tiny.root, "--model-dir", tmp_path, "--encoder", ENCODER]
    flags += ["--crop-size", CROP, "--batch-size", 4, "--workers", 2, "--epochs", 1000]
    flags += ["--no-pretrained", "--device", "cpu"]
    if send is os.killpg:
        child = start("train_stage1.py", *flags)
    else:
        child = clean_process.start("train_stage1", *flags)
    run = RunFolder(tmp_path, ENCODER, 0)
    while not run.curves("stage1").exists():
        assert child.poll() is None, child.communicate()
        time.sleep(0.05)
    assert len(processes_of_session(child.pid)) > 2
    assert "--resume" in stop(child, send, number, code)
    assert read_checkpoint(run.last("stage1"), ("epoch",))["epoch"] >= 1
