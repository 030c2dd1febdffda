"""Checkpoints of a run, written while the next epoch is already computed."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map

from src.artifacts.checkpoints import write_checkpoint


class Saver:
    """Writes checkpoints one after another, in the order in which they are given."""

    def __init__(self) -> None:
        self.thread: ThreadPoolExecutor | None = None
        self.writing: Future | None = None

    def save(self, checkpoints: dict[Path, dict], beside: bool) -> None:
        """Write the checkpoints; those that were given before are on disk first.

        beside: copy them to the CPU's memory and write the copy in a thread. What goes wrong there
            is raised by the next `save` or `finish`. Python waits for the thread when it ends.
        """
        self.finish()
        if not beside:
            write_all(checkpoints)
            return
        if self.thread is None:
            self.thread = ThreadPoolExecutor(1)
        self.writing = self.thread.submit(write_all, on_cpu(checkpoints))

    def finish(self) -> None:
        """Wait until everything is on disk. Raise what the thread raised, such as ArtifactError."""
        writing, self.writing = self.writing, None
        if writing is not None:
            writing.result()


def write_all(checkpoints: dict[Path, dict]) -> None:
    for path, content in checkpoints.items():
        write_checkpoint(path, content)


def on_cpu(content: Any) -> Any:
    """Return a copy of nested dicts and lists, all tensors in the CPU's memory."""

    def copied(value: Any) -> Any:
        return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value

    return tree_map(copied, content)
