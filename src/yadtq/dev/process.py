"""A service's process: started apart from us, known again later, ended for certain.

One invariant: a signal goes only to the process that was started here. A pid alone does not say so, since the system
gives it to the next one; a pid with the moment of its birth does.

When this process dies: a detached service goes on, a minded one is killed by its minder.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from yadtq.dev import minder

POLL_S = 0.02
KILL_S = 10.0  # what the system may take to bury a killed process whose memory is large


class Interrupt:
    """Whether Ctrl+C or SIGTERM came in.

    A handler that raised at once could do so between a fork and the line that notes the new pid. So a handler only
    sets the flag, and every wait looks at it.
    """

    def __init__(self) -> None:
        self.raised = False

    def check(self) -> None:
        """Raise what came in.

        Raises:
            KeyboardInterrupt: A signal came in.
        """
        if self.raised:
            raise KeyboardInterrupt


def wait_until(condition: Callable[[], bool], timeout_s: float, interrupt: Interrupt, every_s: float = POLL_S) -> bool:
    """Poll until the condition holds; False when it never did.

    Raises:
        KeyboardInterrupt: A signal came in meanwhile.
    """
    deadline_mono = time.monotonic() + timeout_s
    while not condition():
        interrupt.check()
        if time.monotonic() > deadline_mono:
            return False
        time.sleep(every_s)
    return True


def said(program: Path, *words: str) -> str:
    """What a program says on stdout and stderr and leaves; empty where it is none."""
    try:
        # In a session of its own, so that Ctrl+C does not make it look like a program that says nothing.
        shown = subprocess.run(
            [program, *words], capture_output=True, text=True, check=False, timeout=30, start_new_session=True
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return shown.stdout + shown.stderr


@dataclass(frozen=True)
class Identity:
    """One process, never the next one with its pid."""

    pid: int
    birth: str

    @property
    def alive(self) -> bool:
        """Whether it still runs. A zombie does not."""
        return birth(self.pid) == self.birth

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process is gone."""
        if self.alive:
            os.kill(self.pid, number)


class Process:
    """A service's process, started by us or by an earlier `yadtq up`."""

    def __init__(self, identity: Identity, child: subprocess.Popen[bytes] | None = None) -> None:
        self.identity = identity
        self._child = child  # ours to reap, and its stdin is the minder's pipe

    @property
    def alive(self) -> bool:
        return self.identity.alive

    def stop(self, timeout_s: float, interrupt: Interrupt) -> bool:
        """Ask the process to end, and kill it when it has not after `timeout_s`. False when it had to be killed."""
        self.identity.signal(signal.SIGTERM)
        # A process that was paused does not hear SIGTERM before it goes on.
        self.identity.signal(signal.SIGCONT)
        ended = wait_until(lambda: not self.alive, timeout_s, interrupt)
        self.kill()
        return ended

    def kill(self) -> None:
        """End the process and what it started now, and wait until it is gone."""
        if self.alive:
            os.killpg(self.identity.pid, signal.SIGKILL)  # it leads a group, since it has a session of its own
        wait_until(lambda: not self.alive, KILL_S, Interrupt())
        if self._child is not None and not self.alive:
            self._child.wait()
            if self._child.stdin is not None:
                self._child.stdin.close()


def start(
    command: Sequence[str], *, log: Path, folder: Path, environment: Mapping[str, str], minded: bool = False
) -> Process:
    """Start a command in a session of its own, so that Ctrl+C in our terminal does not reach it.

    Args:
        command: The first word is a path.
        log: Takes what the command writes, after what is there.
        folder: The command's working folder.
        environment: Laid over ours.
        minded: End it when this process ends, however it ends.
    """
    if minded:
        command = [sys.executable, "-I", "-S", minder.__file__, *command]
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if minded else subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    # A child that has not been reaped keeps its pid, so this is its birth and nobody else's.
    return Process(Identity(child.pid, birth(child.pid) or "ended at once"), child)


def birth(pid: int) -> str | None:
    """When a process began, in words that no other process with its pid has; None when there is none.

    On Linux these are the machine's boot and the clock ticks since: setting the clock does not change them.
    """
    return _birth_on_linux(pid) if Path("/proc/self/stat").exists() else _birth_by_ps(pid)


def _birth_by_ps(pid: int) -> str | None:
    shown = subprocess.run(
        ["ps", "-o", "stat=", "-o", "lstart=", "-p", str(pid)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C", "TZ": "UTC"},
    )
    state, _, began = shown.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else began.strip()


def _birth_on_linux(pid: int) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name stands in parentheses and may hold spaces and parentheses itself; what follows the last one is regular.
    fields = stat.rpartition(")")[2].split()
    state, ticks = fields[0], fields[19]
    return None if state in "ZX" else f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {ticks}"
