"""How a process ends: at a signal, with a broken output; quickly, and with the code that says so.

A signal raises an exception, so that what is half done is tidied up. Where that exception gets
lost, or where tidying takes too long, the process ends without it.
"""

import _thread
import io
import multiprocessing
import os
import signal
import sys
import time
from types import FrameType

INTERRUPTED, TERMINATED = 130, 143  # exit codes: 128 and the number of the signal
NOBODY_READS = 141  # exit code: stdout is a pipe whose reader is gone, as in `script | head`
SIGNALS = (signal.SIGINT, signal.SIGTERM)
GRACE = 3.0  # seconds for tidying up after a signal


class Stopped(KeyboardInterrupt):
    """A signal asks this process to end."""

    def __init__(self, code: int):
        super().__init__(code)
        self.code = code


class Stop:
    """Raises Stopped in the main thread at the first signal; later ones change nothing.

    From its making until `release`.
    """

    def __init__(self) -> None:
        self.code = 0  # of the signal that came
        self.owner = os.getpid()
        self.hook_before = sys.unraisablehook
        sys.unraisablehook = self.raise_again
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, self)

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if self.code:
            return
        self.code = 128 + number
        if os.getpid() != self.owner:  # in a process that was forked from it
            interrupted = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if interrupted else signal.SIG_DFL)
            return os.kill(os.getpid(), number)
        _thread.start_new_thread(_end_late, (self.code,))  # takes no lock, as Thread would
        raise Stopped(self.code)

    def raise_again(self, lost) -> None:
        """Raise outside a destructor what was raised, and lost, inside one (sys.unraisablehook)."""
        if not isinstance(lost.exc_value, Stopped):
            return self.hook_before(lost)
        _thread.start_new_thread(self._send_again, ())  # here it would be lost, too

    def _send_again(self) -> None:
        time.sleep(0.01)
        number, self.code = self.code - 128, 0
        os.kill(os.getpid(), number)

    def check(self) -> None:
        """Raise Stopped if a signal came and something swallowed its exception."""
        if self.code:
            raise Stopped(self.code)

    def release(self) -> None:
        """Let signals end the process at once: while Python ends, an exception would be lost."""
        sys.unraisablehook = self.hook_before
        for number in SIGNALS:
            if signal.getsignal(number) is self:
                signal.signal(number, signal.SIG_DFL)


def _end_late(code: int) -> None:
    time.sleep(GRACE)
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)


def open_closed_streams() -> None:
    """Give streams that are closed (`>&-`) the null device.

    Otherwise the next file that is opened would get their number, and what C libraries print.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal cannot show


def say_last(message: str) -> None:
    """Print a message on stderr, then what waits in stdout; drop what cannot be written."""
    for stream, text in (("stderr", message), ("stdout", "")):
        try:
            print(text, file=getattr(sys, stream), end="\n" if text else "", flush=True)
        except (OSError, ValueError):  # a full disk, a reader that is gone; a closed file
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115
