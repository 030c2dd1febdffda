"""A process that reads hostile files and says what came of each, a line of json a file."""

import contextlib
import faulthandler
import json
import resource
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import constants

from src.artifacts import calibration, checkpoints, files
from src.artifacts.paths import EncoderFolder, RunFolder
from src.inference.both_stages import BothStages
from src.script import UserError

LONGEST = 60  # s, then the process ends itself
ROOM = 3 * 2**30  # bytes of address space that a file may take


def read_npy(path: Path) -> None:
    """Read an array in both ways that the stages do; the error of one is enough."""
    with contextlib.suppress(UserError):
        files.read_slices(path, np.array([0]))
        raise AssertionError("read_slices takes it")
    files.read_array(path)


def read_networks(path: Path) -> None:
    """path: model/net/fold-0/weights_inference.pth"""
    run = RunFolder(path.parents[2], "net", 0)
    BothStages(checkpoints.read_joined(run), torch.device("cpu"))


def read_calibration(path: Path) -> None:
    calibration.read_calibration(EncoderFolder(path.parents[1], "net"))


HOW = {
    "pickle": files.read_pickle,
    "npy": read_npy,
    "json": files.read_json,
    "lines": files.read_json_lines,
    "calibration": read_calibration,
    "checkpoint": read_networks,
}


def memory(name: str) -> int:
    """Return a line of /proc/self/status in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) // 1024


def outcome(how: str, path: Path) -> dict:
    """Return the error's type and text, and the peak of memory above that before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before, kind, text = memory("VmRSS"), None, ""
    try:
        HOW[how](path)
    except Exception as error:
        kind, text = type(error).__name__, str(error)
        if isinstance(error, UserError):
            kind = "UserError"
    return {"kind": kind, "text": text, "mib": memory("VmHWM") - before}


def read_all(cases: list[tuple[str, str, str]]) -> None:
    """Read the cases (name, how, path). Run this in a process of its own, which it limits."""
    constants.HF_HUB_OFFLINE = True
    limit = memory("VmSize") * 2**20 + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, how, path in cases:
        faulthandler.dump_traceback_later(LONGEST, exit=True)
        found = outcome(how, Path(path))
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps({"name": name, **found}), flush=True)
