"""One child process as the operating system knows it: started, watched, killed and buried.

One invariant: when its end is told, everything in its process group has been killed, and the number of the group was
not anyone else's when that was done.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from yadtq.runners.groups import Groups, kill_group


class Process(Protocol):
    """What a runner needs of its process."""

    @property
    def pid(self) -> int: ...

    @property
    def how_it_ended(self) -> str:
        """In words, once it has."""

    def watch(self, on_end: Callable[[], None]) -> None:
        """Have this called, on a thread of its own, when the process has ended and its group is swept."""

    def kill(self, why: str = "") -> None:
        """Kill it and all that it started. why: What `how_it_ended` is to say."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What a child is given: its end of the stream and the page. It takes them over; the opener closes its own."""

    stream: socket.socket
    page: int  # a descriptor
    seats: int


Spawn = Callable[[Opening], Process]


class ChildProcess:
    """`python -m yadtq.runners.child`."""

    def __init__(self, target: str, slots: int, result_limit_bytes: int, groups: Groups, opening: Opening) -> None:
        stream = opening.stream.fileno()
        numbers = (os.getpid(), stream, opening.page, opening.seats, slots, result_limit_bytes)
        self._groups = groups
        self._buried = threading.Lock()
        self._killed_for = ""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "yadtq.runners.child", *map(str, numbers), target],
            pass_fds=(stream, opening.page),
            stdin=subprocess.DEVNULL,
            process_group=0,
        )
        self.pid = self._process.pid
        groups.add(self.pid)

    def watch(self, on_end: Callable[[], None]) -> None:
        threading.Thread(target=self._wait, args=(on_end,), name=f"yadtq-wait-{self.pid}", daemon=True).start()

    def kill(self, why: str = "") -> None:
        with self._buried:
            if self._process.returncode is None:
                self._killed_for = self._killed_for or why
                kill_group(self.pid)

    def _wait(self, on_end: Callable[[], None]) -> None:
        """Its death is not seen by the stream alone: a process that it started may hold the other end open."""
        if hasattr(os, "waitid"):  # seen but not buried, so that its group's number is nobody else's yet
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            kill_group(self.pid)
            self._groups.discard(self.pid)
            with self._buried:
                self._process.wait()
        else:
            self._process.wait()
            kill_group(self.pid)
            self._groups.discard(self.pid)
        on_end()

    @property
    def how_it_ended(self) -> str:
        code = self._process.returncode
        if code == -signal.SIGKILL and self._killed_for:
            return self._killed_for
        if code is None or code >= 0:
            return f"ended by itself with exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = "a signal"
        hint = ": by hand, or by the kernel for want of memory" if -code == signal.SIGKILL else ""
        return f"was ended by {name} (signal {-code}){hint}"
