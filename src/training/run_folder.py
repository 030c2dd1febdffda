"""One training run on disk: settings, log, scores by epoch, best weights, state for a resume."""

import json
import math
import shutil
from pathlib import Path

from src import distributed
from src.artifacts.checkpoints import read_checkpoint
from src.artifacts.files import append_line, write_json, write_lines
from src.artifacts.paths import ArtifactError, RunFolder
from src.evaluation import metrics
from src.progress import duration
from src.script import versions
from src.text import printable
from src.training.curves import draw_progress
from src.training.saving import Saver

MAY_CHANGE = set("data_dir model_dir device workers epochs resume".split())  # in a resume
MAY_CHANGE |= set("compile accumulate checkpointing".split())
FROM_ARTIFACTS = set("held_out image_size mr_window channels stage1".split())  # not flags


class RunLog:
    """The files of a training run. Only rank 0 writes."""

    def __init__(
        self,
        folder: RunFolder,
        stage: str,
        settings: dict,
        script: Path,
        resume: bool,
        defaults: dict | None = None,
    ):
        """Look whether a run can be started or resumed; write nothing until `start`.

        defaults: values of the settings that runs of older versions, which lack them, had.

        Raise ArtifactError if the folder holds a run that is not to be, or cannot be, resumed.
        """
        self.script = script
        self.waiting: list[str] | None = []  # for the log, None after `start`
        self.epochs = 0  # of the whole run
        self.folder, self.stage, self.settings = folder, stage, settings
        self.defaults = defaults or {}
        self.saver = Saver()
        self.epoch = 0  # epochs done
        self.best: dict | None = None  # {"score", "epoch"}
        self.lines: list[str] = []  # json, one an epoch; metrics_{stage}.jsonl is a copy of them
        last = folder.last(stage)
        self.resumed = last.exists()
        if self.resumed and not resume:
            raise ArtifactError(
                f"{folder.root} already holds a {stage} run: give --resume to continue it, "
                f"or delete {last} to train again"
            )
        self.state = self._read_state() if self.resumed else None

    def say(self, line: str, more: str = "") -> None:
        """Print a line, and add it to the log as soon as the run starts. more: for the log only."""
        if not distributed.first():
            return
        print(line, flush=True)
        if self.waiting is None:
            append_line(self.folder.log(self.stage), line + more)
        else:
            self.waiting.append(line + more)

    def _read_state(self) -> dict:
        """Return the saved state; raise ArtifactError if it was trained with other settings."""
        last = self.folder.last(self.stage)
        state = read_checkpoint(last, ("learner", "epoch", "best", "lines", "settings"))
        trained = self.defaults | state["settings"]
        for name, value in self.settings.items():
            if name in MAY_CHANGE or name not in trained or trained[name] == value:
                continue
            raise ArtifactError(
                f"cannot resume with a different {name}: {last} was trained with "
                f"{name} {trained[name]}, not {value}; {remedy(name, trained[name])}, "
                "or delete the file to train again"
            )
        return state

    def start(self, learner, epochs: int) -> None:
        """Load the state after the last finished epoch, if the run is resumed; begin the log.

        Until here the run may be refused, and leaves nothing. A new one deletes what its weights
        will no longer fit.
        """
        self.epochs = epochs
        if self.resumed:
            self._restore(learner)
        if not distributed.first():
            return
        folder, stage = self.folder, self.stage
        if not self.resumed:
            folder.metrics(stage).unlink(missing_ok=True)
            folder.inference.unlink(missing_ok=True)
        write_json(folder.settings(stage), self.settings)
        shutil.copy(self.script, folder.root / self.script.name)
        header = f"{stage} {json.dumps(self.settings)} {json.dumps(versions())}"
        for line in [header, *self.waiting]:
            append_line(folder.log(stage), line)
        self.waiting = None
        if not self.resumed:
            return
        self._write_metrics()
        if self.epoch < epochs:
            self.say(f"resuming after epoch {self.epoch} of {epochs}")
        else:
            self.say(f"already finished: {self.epoch} of {epochs} epochs are done")

    def _restore(self, learner) -> None:
        """Load the saved state; raise ArtifactError if it is that of another network."""
        try:
            learner.load_state_dict(self.state["learner"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            if type(error).__name__ == "OutOfMemoryError":
                raise
            last, reason = self.folder.last(self.stage), printable(error, 100)
            raise ArtifactError(
                f"{last} does not fit this network ({reason}): delete it to train again"
            ) from error
        self.epoch = self.state["epoch"]
        self.best = self.state["best"]
        self.lines = self.state["lines"]
        self.state = None  # frees its memory

    def epoch_done(
        self, learner, loss: float, scores: dict | None, seconds: float, extra: dict | None = None
    ) -> None:
        """Log the epoch; save the moving average if its score is the best so far, and the state.

        A missing score never wins; until an epoch has a score, the latest weights are kept.
        On a GPU both files are written beside the next epoch; call `saver.finish` at the end.
        extra: settings to save with the best weights.
        """
        self.epoch += 1
        score = scores["score"] if scores else float("nan")
        is_best = self.best is None or math.isnan(self.best["score"]) or score > self.best["score"]
        if is_best:
            self.best = {"score": score, "epoch": self.epoch}
        if not distributed.first():
            return
        checkpoints = {}
        if is_best:  # the first to be written: the state must not name a best that is not there
            weights = learner.average.module.state_dict()
            settings = self.settings | (extra or {})
            content = {"weights": weights, "settings": settings, **self.best}
            checkpoints[self.folder.best(self.stage)] = content
        rates = [group["lr"] for group in learner.optimizer.param_groups]
        row = {
            "epoch": self.epoch,
            "loss": loss,
            "lr": rates[0],
            "head_lr": rates[-1],
            "seconds": seconds,
            "broken_steps": int(learner.broken),
            "scores": scores,
        }
        self.lines.append(json.dumps(row))
        checkpoints[self.folder.last(self.stage)] = {
            "learner": learner.state_dict(),
            "epoch": self.epoch,
            "best": self.best,
            "lines": self.lines,
            "settings": self.settings,
        }
        self.saver.save(checkpoints, beside=learner.device.type == "cuda")
        self._write_metrics()
        self.say(epoch_line(row, self.epochs, is_best), rates_text(row))

    def finish(self) -> None:
        """Wait until everything is on disk, and say what was kept."""
        self.saver.finish()
        if self.best is None:  # no epoch was asked for
            return
        score = self.best["score"]
        of_score = "" if math.isnan(score) else f", score {score:.4f}"
        epoch = f"epoch {self.best['epoch']} of {self.epoch}{of_score}"
        self.say(f"kept {epoch}: {self.folder.best(self.stage)}")

    def _write_metrics(self) -> None:
        """Write the json lines, and a picture of them."""
        if distributed.first():
            write_lines(self.folder.metrics(self.stage), self.lines)
            draw_progress(self.folder.metrics(self.stage), self.folder.curves(self.stage))


def remedy(name: str, value) -> str:
    """Return how to get a setting's value back: by its flag, unless it comes from the artifacts."""
    flag = name.replace("_", "-")
    if name in FROM_ARTIFACTS:
        return "restore the artifacts that it was trained on"
    if isinstance(value, bool):
        return f"give --{flag}" if value else f"give --no-{flag}"
    if isinstance(value, tuple):
        value = " ".join(map(str, value))
    return f"give --{flag} {value}"


def epoch_line(row: dict, epochs: int, is_best: bool) -> str:
    """Return the line of an epoch: its loss, its scores, and the time that is left."""
    line = "epoch {epoch:3d}/{epochs}  loss {loss:.4f}".format(**row, epochs=epochs)
    scores = row["scores"]
    if scores:
        parts = {"best" if is_best else "score": scores["score"], "present": scores["present"]}
        parts["locations"] = metrics.mean_location(scores)
        for name, value in parts.items():
            line += f"  {name} " + ("n/a" if value is None else f"{value:.3f}")
    left = epochs - row["epoch"]
    return f"{line}  {duration(left * row['seconds'])} left" if left > 0 else line


def rates_text(row: dict) -> str:
    """Return what only the log says of an epoch: learning rates and seconds."""
    heads = f", heads {row['head_lr']:.1e}" if row["head_lr"] != row["lr"] else ""
    return f"  lr {row['lr']:.1e}{heads}  {row['seconds']:.1f} s"
