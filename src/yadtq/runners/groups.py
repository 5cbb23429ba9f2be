"""The process groups that must not outlive this process: those of the runners, with all that user code started.

One invariant: a group is told to the minder before its runner is given work, and taken back while the dead runner is
still unburied, so that its number cannot be anyone else's yet. When this process dies, the minder kills what is left.
A minder that is ended itself has a successor at once, which is told all groups; until then they are not minded.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from yadtq.runners import minder

LEAVE_S = 5.0
AGAIN_S = 1.0  # between two starts: where no minder can run, trying is to cost nothing


class Groups:
    """Tells the minder, and starts another when something has ended it.

    Args:
        on_lost: Told how the minder was ended, on a thread of its own, when another is there.
    """

    def __init__(self, on_lost: Callable[[str], None]) -> None:
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._closing = threading.Event()
        self._on_lost = on_lost
        self._minder = _start()
        self._watch = threading.Thread(target=self._replace, name="yadtq-minder", daemon=True)
        self._watch.start()

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
            self._closing.set()
            _pipe(self._minder).close()
        self._watch.join(LEAVE_S)
        if self._watch.is_alive():
            self._minder.kill()

    def _tell(self, line: str) -> None:
        if not self._closing.is_set():
            with contextlib.suppress(BrokenPipeError):  # its successor is told all of them
                _pipe(self._minder).write(line.encode())

    def _replace(self) -> None:
        """Wait for the minder's end and start the next, until it is let go."""
        while True:
            began_mono = time.monotonic()
            code = self._minder.wait()
            if self._closing.wait(max(began_mono + AGAIN_S - time.monotonic(), 0.0)):
                return
            try:
                follows = self._start_next()
            except OSError as error:  # no memory, no processes, no descriptors: later, perhaps
                self._on_lost(f"the minder {_ended(code)}, and no other could be started: {error}; it is tried again")
                continue
            if follows:
                self._on_lost(f"the minder {_ended(code)}; process {self._minder.pid} has taken its place")

    def _start_next(self) -> bool:
        with self._lock:
            if self._closing.is_set():
                return False
            lost, self._minder = self._minder, _start()
            _pipe(lost).close()
            self._tell("".join(f"+{group}\n" for group in self._groups))
            return True


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


def _ended(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _pipe(process: subprocess.Popen[bytes]) -> IO[bytes]:
    if process.stdin is None:
        raise AssertionError("the minder was started with a pipe")
    return process.stdin
