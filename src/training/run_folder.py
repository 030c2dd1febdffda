"""One training run on disk: settings, a log for people, a json line an epoch, a picture of it, the best weights and all that a resume needs."""

import json
import math
import shutil
from pathlib import Path

from src import distributed
from src.artifacts.checkpoints import read_checkpoint, write_checkpoint
from src.artifacts.files import append_line, write_json, write_lines
from src.artifacts.paths import ArtifactError, RunFolder
from src.evaluation import metrics
from src.script import UserError, versions
from src.training.curves import draw_progress

MAY_CHANGE = (
    "data_dir",
    "model_dir",
    "device",
    "workers",
    "epochs",
    "resume",
    "compile",
    "channels_last",
    "accumulate",
    "checkpointing",
    "tensorboard",
)


class Run:
    """The folder of a run while it trains. Only rank 0 writes."""

    def __init__(self, folder: RunFolder, stage: str, settings: dict, script: Path, resume: bool):
        self.folder, self.stage, self.settings = folder, stage, settings
        self.epoch, self.best = 0, None  # epochs done; score and epoch of the best
        self.lines: list[
            str
        ] = []  # json, one an epoch; kept in the state, of which metrics_{stage}.jsonl is a copy to be read
        self.resumed = folder.last(stage).exists()
        if self.resumed and not resume:
            raise ArtifactError(
                f"{folder.root} holds a {stage} run already: go on with it by --resume, or delete {folder.last(stage)}"
            )
        self.state = self._checked_state() if self.resumed else None
        if not distributed.first():
            return
        if not self.resumed:
            folder.metrics(stage).unlink(missing_ok=True)
        write_json(folder.settings(stage), settings)
        shutil.copy(script, folder.root / script.name)
        self.events = _event_writer(folder) if settings.get("tensorboard") else None
        self.say(f"{stage} {json.dumps(settings)} {json.dumps(versions())}", quiet=True)

    def say(self, line: str, quiet: bool = False) -> None:
        """A line for the log and, unless quiet, the screen."""
        if not distributed.first():
            return
        if not quiet:
            print(line, flush=True)
        append_line(self.folder.log(self.stage), line)

    def _checked_state(self) -> dict:
        """What a resume needs, where the settings are still those of the run."""
        last = self.folder.last(self.stage)
        state = read_checkpoint(last, ("learner", "epoch", "best", "lines", "settings"))
        for name, value in self.settings.items():
            if name not in MAY_CHANGE and state["settings"].get(name) != value:
                raise ArtifactError(
                    f"{last} was trained with {name} {state['settings'].get(name)}, not {value}: it cannot go on so"
                )
        return state

    def restore(self, learner) -> None:
        """Go on where the last finished epoch ended."""
        if not self.resumed:
            return
        learner.load_state_dict(self.state["learner"])
        self.epoch, self.best, self.lines = (
            self.state["epoch"],
            self.state["best"],
            self.state["lines"],
        )
        self.state = None
        self._show_lines()
        self.say(f"going on after epoch {self.epoch}")

    def epoch_done(
        self, learner, loss: float, scores: dict | None, seconds: float, extra: dict | None = None
    ) -> None:
        """Log the epoch and save: the moving average where its score is the best so far, then everything that a resume needs.

        A score that is missing never wins; where no epoch had one yet, the latest weights are kept.
        """
        self.epoch += 1
        score = scores["score"] if scores else float("nan")
        is_best = self.best is None or math.isnan(self.best["score"]) or score > self.best["score"]
        if is_best:
            self.best = {"score": score, "epoch": self.epoch}
        if not distributed.first():
            return
        if is_best:
            content = {
                "weights": learner.average.module.state_dict(),
                "settings": self.settings | (extra or {}),
                **self.best,
            }
            write_checkpoint(self.folder.best(self.stage), content)
        lr = learner.optimizer.param_groups[0]["lr"]
        row = {
            "epoch": self.epoch,
            "loss": loss,
            "lr": lr,
            "seconds": seconds,
            "broken_steps": int(learner.broken),
            "scores": scores,
        }
        self.lines.append(json.dumps(row))
        state = {
            "learner": learner.state_dict(),
            "epoch": self.epoch,
            "best": self.best,
            "lines": self.lines,
            "settings": self.settings,
        }
        write_checkpoint(self.folder.last(self.stage), state)
        self._show_lines()
        self._report(loss, lr, scores, seconds)

    def _show_lines(self) -> None:
        """The json lines, and a picture of them, as files."""
        if not distributed.first():
            return
        write_lines(self.folder.metrics(self.stage), self.lines)
        draw_progress(self.folder.metrics(self.stage), self.folder.curves(self.stage))

    def _report(self, loss: float, lr: float, scores: dict | None, seconds: float) -> None:
        """The epoch in tensorboard, in the log and on the screen."""
        if self.events:
            for name, value in {
                "loss": loss,
                "lr": lr,
                "score": scores["score"] if scores else None,
            }.items():
                if value is not None:
                    self.events.add_scalar(f"{self.stage}/{name}", value, self.epoch)
            self.events.flush()
        line = f"epoch {self.epoch:3d}  loss {loss:8.5f}  lr {lr:7.1e}  {seconds:6.1f} s"
        if scores:
            line += f"  score {scores['score']:.4f}  present {scores['present']:.4f}  locations {metrics.mean_location(scores):.4f}"
        self.say(line + ("  best" if self.best["epoch"] == self.epoch else ""))


def _event_writer(folder: RunFolder):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "--tensorboard needs its package: pip install tensorboard, or leave the flag out"
        ) from error
    return SummaryWriter(str(folder.events))
