"""Processes that tests start and stop."""

import signal
from contextlib import suppress
from pathlib import Path


def hear_interrupts() -> None:
    """As preexec_fn: let SIGINT reach a script; a shell's background job ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def processes_of_session(session: int) -> list[str]:
    """Return the living processes of a session, from /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
            found += [path.parent.name] if int(its_session) == session and state != "Z" else []
    return found
