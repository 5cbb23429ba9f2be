"""The process groups that must not outlive this process: those of the runners, with all that user code started.

One invariant: a group is told to the minder before its runner is given work, and taken back while the dead runner is
still unburied, so that its number cannot be anyone else's yet. When this process dies, the minder kills what is left.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from yadtq.runners import minder

LEAVE_S = 5.0


class Groups:
    """Tells the minder, and starts another when something has ended it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._closed = False
        self._minder = _start()

    def add(self, group: int) -> None:
        with self._lock:
            self._groups.add(group)
            self._tell(f"+{group}\n")

    def discard(self, group: int) -> None:
        with self._lock:
            self._groups.discard(group)
            self._tell(f"-{group}\n")

    def close(self) -> None:
        """Let the minder go, which kills what is left."""
        with self._lock:
            self._closed = True
            _pipe(self._minder).close()
            try:
                self._minder.wait(LEAVE_S)
            except subprocess.TimeoutExpired:
                self._minder.kill()

    def _tell(self, line: str) -> None:
        if self._closed:
            return
        try:
            _pipe(self._minder).write(line.encode())
        except BrokenPipeError:
            self._minder.wait()
            self._minder = _start()
            _pipe(self._minder).write("".join(f"+{group}\n" for group in self._groups).encode())


def kill_group(group: int) -> None:
    """Kill a group whose leader is known to be unburied."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: all that is left of it has ended
        os.killpg(group, signal.SIGKILL)


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", minder.__file__],
        cwd=Path("/"),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        process_group=0,
    )


def _pipe(process: subprocess.Popen[bytes]) -> IO[bytes]:
    if process.stdin is None:
        raise AssertionError("the minder was started with a pipe")
    return process.stdin
