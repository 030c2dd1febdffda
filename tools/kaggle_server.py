"""Serve the trained networks to the challenge's inference server: one valid row a series.

In a Kaggle notebook to which this repository and the trained model/ are attached:

    !pip install --no-index --find-links /kaggle/input/wheels -r requirements.txt
    !python tools/kaggle_server.py --model-dir /kaggle/input/model --folds 0 1 2 3 4

or, where a bundle is attached: --bundle /kaggle/input/bundle/aneurysms.bundle

Networks are loaded at the first call, in a process of their own. A series that cannot be read gets
the frequencies of the labels in training; the reason goes to the log. So does one that takes longer
than --seconds or kills the process, which the next call starts again.
The gateway's folder of temporary files is cleared after each call.

Reads   model/{encoder}/fold-{k}/weights_inference.pth (train_stage2.py), or a bundle
          (tools/export_bundle.py)
        the series that the gateway names
"""

import multiprocessing
import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.artifacts.bundle import require_sealed
from src.artifacts.paths import ALL_DATA, RunFolder, require
from src.device import choose_device
from src.dicom import open_series
from src.inference.ensemble import Predictor
from src.inference.sources import require_no_other
from src.labels import LABELS
from src.progress import Clock
from src.script import UserError, run_script
from src.text import printable

NO_NETWORK = np.full(len(LABELS), 0.5)  # if not even the networks could be loaded


@dataclass
class Config:
    model_dir: Path = Path("model")  # trained networks
    encoder: str = "convnext_base.dinov3_lvd1689m"  # the one that was trained
    folds: tuple[int, ...] = (0,)  # whose networks; of several the mean
    train_on_all: bool = False  # the networks of --train-on-all instead of those of folds
    bundle: Path | None = None  # of tools/export_bundle.py: its networks instead, all of them
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...

    both_steps: bool = False  # mean over neighbours at step 1 and at step 2; doubles the work
    mirror: bool = False  # mean with the mirrored head, left and right swapped; doubles the work
    batch_size: int = 128  # slices per batch
    seconds: float = 1500.0  # a series may take; the challenge allows 30 minutes
    temporary: Path = Path("/kaggle/shared")  # the gateway's files, cleared after each call


class Server:
    """Answers the gateway. `predict` never raises."""

    def __init__(self, config: Config):
        self.config = config
        self.child: Child | None = None
        self.prior = NO_NETWORK  # what a series without an answer gets
        self.one_at_a_time = Lock()

    def predict(self, series_path: str) -> pd.DataFrame:
        """Return one row with the 14 columns, each finite and in 0..1."""
        start, note = time.perf_counter(), "predicted"
        try:
            with self.one_at_a_time:
                probabilities = self._in_time(series_path)
        except Exception as error:  # whatever it is, the next series must be predicted
            note = f"{type(error).__name__}: {error}"
            probabilities = self.prior
        with suppress(OSError, ValueError):  # nobody reads the log
            seconds = time.perf_counter() - start
            print(f"{printable(series_path)}: {printable(note)}, {seconds:.1f} s", flush=True)
        shutil.rmtree(self.config.temporary, ignore_errors=True)
        return pd.DataFrame([probabilities], columns=list(LABELS))

    def _in_time(self, series_path: str) -> np.ndarray:
        """Return the probabilities (14,). End the process if it is late or answers nonsense."""
        if not os.path.isdir(series_path):  # Path("") would be the current folder
            raise FileNotFoundError("no such folder")
        self.child = self.child or Child(self.config)
        try:
            what, content = self._ask(series_path)
        except Exception:
            self.child.kill()
            self.child = None
            raise
        if what == "error":
            raise RuntimeError(content)
        return checked(content)

    def _ask(self, series_path: str) -> tuple[str, np.ndarray | str]:
        """Return the process' answer about a series, and keep its prior."""
        deadline = time.monotonic() + self.config.seconds
        connection = self.child.connection
        connection.send(series_path)
        while connection.poll(max(0.0, deadline - time.monotonic())):
            what, content = connection.recv()
            if what != "prior":
                return what, content
            self.prior = checked(content)
        raise TimeoutError(f"no answer in {self.config.seconds:g} s")


class Child:
    """A process that predicts. It is a daemon, and ends when its connection does."""

    def __init__(self, config: Config):
        context = multiprocessing.get_context("spawn")  # CUDA needs a clean process
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=answer, args=(theirs, config), daemon=True)
        self.process.start()
        theirs.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def checked(probabilities: np.ndarray) -> np.ndarray:
    """Return a valid row (14,) float64; raise ValueError if it is none."""
    row = np.asarray(probabilities, np.float64)
    if row.shape != (len(LABELS),) or not np.all((row >= 0) & (row <= 1)):
        raise ValueError("not 14 probabilities in 0..1")
    return row


def answer(connection: Connection, config: Config) -> None:
    """Answer paths with ("prior", ...) once and ("probabilities", ...) or ("error", text)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server ends this process
    predictor = None
    with suppress(EOFError, OSError):  # the server has ended
        while True:
            series_path = connection.recv()
            try:
                if predictor is None:
                    predictor = load(config)
                    connection.send(("prior", predictor.prior))
                prepared = predictor.prepare(open_series(series_path))
                series = [(series_path, prepared)]
                ((_, probabilities),) = predictor.predict(series, config.batch_size, Clock())
                connection.send(("probabilities", probabilities))
            except Exception as error:
                connection.send(("error", f"{type(error).__name__}: {error}"))


def folds_of(config: Config) -> tuple[int | str, ...]:
    """Return whose networks predict."""
    return (ALL_DATA,) if config.train_on_all else config.folds


def load(config: Config) -> Predictor:
    return Predictor(
        config.model_dir,
        config.encoder,
        folds_of(config),
        choose_device(config.device),
        both_steps=config.both_steps,
        mirror=config.mirror,
        bundle=config.bundle,
    )


def require_networks(config: Config) -> None:
    """Raise UserError for a wrong path now, before it makes 2,500 useless rows."""
    require_no_other(config)
    if config.bundle:
        require_sealed(config.bundle)
        return
    for fold in folds_of(config):
        require(RunFolder(config.model_dir, config.encoder, fold).inference)


def main(config: Config) -> None:
    try:
        from kaggle_evaluation.rsna_inference_server import RSNAInferenceServer
    except ImportError as error:
        raise UserError(
            "kaggle_evaluation is not here: run this in a notebook of the challenge, "
            "or use tools/predict.py"
        ) from error
    require_networks(config)
    server = RSNAInferenceServer(Server(config).predict)
    if os.environ.get("KAGGLE_IS_COMPETITION_RERUN"):
        server.serve()
    else:
        server.run_local_gateway()


if __name__ == "__main__":
    run_script(main, Config, __doc__, interrupted="run it again")
