"""The memory of running programs, from /proc (Linux)."""

import os
from pathlib import Path


def resident(group: int) -> int:
    """Bytes in memory of all processes of a process group, what they share counted for each; 0 once all have ended."""
    return sum(
        _resident(process)
        for process in Path("/proc").iterdir()
        if process.name.isdigit() and _group(process) == group
    )


def _group(process: Path) -> int | None:
    try:
        return int(
            process.joinpath("stat").read_text().rpartition(")")[2].split()[2]
        )  # state, parent, group
    except OSError:
        return None


def _resident(process: Path) -> int:
    try:
        return int(process.joinpath("statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
