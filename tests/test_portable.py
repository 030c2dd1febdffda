"""Calls that only POSIX systems have stay in the worker pool, and where somebody asks first."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = set("fcntl grp posix pty pwd resource syslog termios tty".split())
NAMES = {
    "os": "fchmod fchown fork forkpty fstatvfs getegid geteuid getgid getgroups getloadavg getpgid "
    "getpgrp getpriority getresuid getsid getuid killpg lchown major mkfifo mknod nice openpty "
    "posix_fadvise posix_fallocate posix_spawn pread preadv pwrite pwritev readv register_at_fork "
    "sched_getaffinity sched_setaffinity sendfile setpgid setpriority setsid setuid statvfs sync "
    "sysconf tcgetpgrp ttyname uname wait wait3 wait4 waitid WNOHANG writev O_CLOEXEC",
    "signal": "SIGALRM SIGBUS SIGCHLD SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGUSR1 SIGUSR2 "
    "SIG_BLOCK SIG_SETMASK SIG_UNBLOCK alarm getitimer pause pthread_kill pthread_sigmask "
    "setitimer siginterrupt sigpending sigtimedwait sigwait",
}
ALLOWED = {
    ("src/worker_pool.py", None): "whose business they are",
    ("src/sampling/loader.py", "signal.SIGCHLD"): "behind hasattr",
    ("tools/experiments/soak_stages.py", None): "it kills stages as a system does",
    ("tools/benchmarks/all_stages.py", None): "it measures on Linux, from /proc",
    ("tools/benchmarks/memory.py", None): "it reads /proc",
}


def posix_only(text: str) -> set[str]:
    """Return the calls and modules in a source file that Windows lacks."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in NAMES.get(node.value.id, "").split():
                found.add(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.Import):
            found |= MODULES & {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= MODULES & {node.module}
            wanted = NAMES.get(node.module, "").split()
            found |= {f"{node.module}.{a.name}" for a in node.names if a.name in wanted}
    return found


def test_no_call_that_windows_lacks():
    strangers = []
    for path in [*ROOT.glob("*.py"), *ROOT.glob("src/**/*.py"), *ROOT.glob("tools/**/*.py")]:
        name = path.relative_to(ROOT).as_posix()
        for call in posix_only(path.read_text()):
            if not {(name, call), (name, None)} & set(ALLOWED):
                strangers.append(f"{name}: {call}")
    assert not strangers


def test_what_is_looked_for_is_found():
    text = "import resource, os\nfrom signal import SIGKILL\nos.writev(1, [])\nos.write(1, b'')"
    assert posix_only(text) == {"resource", "signal.SIGKILL", "os.writev"}
