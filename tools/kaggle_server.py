"""Serve the trained networks to the challenge's inference server: one valid row a series.

In a Kaggle notebook to which this repository and the trained model/ are attached:

    !pip install --no-index --find-links /kaggle/input/wheels -r requirements.txt
    !python tools/kaggle_server.py --model-dir /kaggle/input/model --folds 0 1 2 3 4

Networks are loaded at the first call. A series that cannot be read, or takes longer than
--seconds, gets the frequencies of the labels in training; the reason goes to the log.
The gateway's folder of temporary files is cleared after each call.

Reads   model/{encoder}/fold-{k}/weights_inference.pth (train_stage2.py)
        the series that the gateway names
"""

import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Lock, Thread

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from src.artifacts.paths import RunFolder, require
from src.device import choose_device
from src.dicom import open_series
from src.inference.ensemble import Predictor
from src.labels import LABELS
from src.progress import Clock
from src.script import UserError, run_script

NO_NETWORK = np.full(len(LABELS), 0.5)  # if not even the networks could be loaded


@dataclass
class Config:
    model_dir: Path = Path("model")  # trained networks
    encoder: str = "convnext_base.dinov3_lvd1689m"  # the one that was trained
    folds: tuple[int, ...] = (0,)  # whose networks; of several the mean
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
        self.predictor: Predictor | None = None
        self.loading = Lock()

    def predict(self, series_path: str) -> pd.DataFrame:
        """Return one row with the 14 columns, each finite and in 0..1."""
        start, note = time.perf_counter(), "predicted"
        try:
            probabilities = self._in_time(series_path)
            if not np.all((probabilities >= 0) & (probabilities <= 1)):
                raise ValueError("probabilities outside [0, 1]")
        except Exception as error:  # whatever it is, the next series must be predicted
            note = f"{type(error).__name__}: {error}"
            probabilities = NO_NETWORK if self.predictor is None else self.predictor.prior
        print(f"{series_path}: {note}, {time.perf_counter() - start:.1f} s", flush=True)
        shutil.rmtree(self.config.temporary, ignore_errors=True)
        return pd.DataFrame([np.asarray(probabilities, np.float64)], columns=list(LABELS))

    def _in_time(self, series_path: str) -> np.ndarray:
        """Return the probabilities (14,), computed in a thread that is abandoned if it is late.

        It is a daemon: it does not keep the process from ending.
        """
        answer: Queue = Queue()

        def work() -> None:
            try:
                answer.put(self._probabilities(series_path))
            except Exception as error:
                answer.put(error)

        Thread(target=work, daemon=True).start()
        try:
            found = answer.get(timeout=self.config.seconds)
        except Empty:
            raise TimeoutError(f"no answer in {self.config.seconds:g} s") from None
        if isinstance(found, Exception):
            raise found
        return found

    def _probabilities(self, series_path: str) -> np.ndarray:
        config = self.config
        with self.loading:
            if self.predictor is None:
                self.predictor = Predictor(
                    config.model_dir,
                    config.encoder,
                    config.folds,
                    choose_device(config.device),
                    both_steps=config.both_steps,
                    mirror=config.mirror,
                )
        prepared = self.predictor.prepare(open_series(series_path))
        ((_, probabilities),) = self.predictor.predict(
            [(series_path, prepared)], config.batch_size, Clock()
        )
        return probabilities


def main(config: Config) -> None:
    try:
        from kaggle_evaluation.rsna_inference_server import RSNAInferenceServer
    except ImportError as error:
        raise UserError(
            "kaggle_evaluation is not here: run this in a notebook of the challenge, "
            "or use tools/predict.py"
        ) from error
    for fold in config.folds:  # a wrong path is reported now, not by 2,500 useless rows
        require(RunFolder(config.model_dir, config.encoder, fold).inference)
    server = RSNAInferenceServer(Server(config).predict)
    if os.environ.get("KAGGLE_IS_COMPETITION_RERUN"):
        server.serve()
    else:
        server.run_local_gateway()


if __name__ == "__main__":
    run_script(main, Config, __doc__, interrupted="run it again")
