"""Memory of running programs, from /proc (Linux)."""

import os
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")  # bytes


def resident(group: int) -> int:
    """Return the bytes in memory of all processes of a process group, 0 once all have ended.

    Pages that processes share count in each.
    """
    total = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            stat = process.joinpath("stat").read_text()
            pages = int(process.joinpath("statm").read_text().split()[1])
        except OSError:  # it has just ended
            continue
        _state, _parent, its_group = stat.rpartition(")")[2].split()[:3]
        if int(its_group) == group:
            total += pages * PAGE
    return total
