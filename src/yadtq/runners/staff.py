"""Which children a crew has: how many, which are to be replaced, and when the next one may start.

One invariant: a child is let go only when its successor can take work, and only one successor starts at a time. So new
code that cannot be imported costs nothing, and a replacement never leaves the crew without a runner.
"""

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from yadtq.catalogue import Rules
from yadtq.errors import SettingsError
from yadtq.runners.pace import AHEAD_MOST
from yadtq.runners.process import RunnerProcess, Stage

START_S = 60.0  # an app that takes longer to import counts as one that cannot be
IDLE_S = 10.0  # a child beyond those that are wanted is kept so long for the next attempt
MEMORY_EVERY_S = 1.0
HEAVY_DRAIN_S = 1.5  # a child over its memory is given nothing more after this, also where no successor is ready yet,
HEAVY_KILL_S = 3.5  # and is killed after this: it ends within 5 s, whatever runs in it
CORES = os.cpu_count() or 1
BACKOFF_S = 0.05
BACKOFF_MOST_S = 3.0
BACKOFF_TASK_S = 0.3  # the longest after a death by a task: a task brings about three, so there is an end to them
PROC = Path("/proc")


class Backoff:
    """The first start after a death is immediate; while nothing finishes in between, each further one waits longer.

    Not much longer where tasks end their process, or quick ones would wait for a minute behind a few poisonous ones.
    """

    def __init__(self) -> None:
        self.at_mono = 0.0
        self._in_a_row = 0

    def failed(self, now_mono: float, *, by_task: bool = False) -> None:
        most_s = BACKOFF_TASK_S if by_task else BACKOFF_MOST_S
        wait_s = min(BACKOFF_S * 2 ** (self._in_a_row - 1), most_s) if self._in_a_row else 0.0
        self._in_a_row = min(self._in_a_row + 1, 10)
        self.at_mono = now_mono + wait_s

    def reset(self) -> None:
        self._in_a_row = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """How many children there are, and what one of them may do."""

    slots: int
    least: int  # so many are kept, also without work
    most: int
    spare: int = 0  # so many are kept ready beside those at work, within `most`
    ahead_most: int = AHEAD_MOST  # attempts that one is given beyond its slots
    max_tasks: int = 0  # one that has run so many is replaced; 0: never
    max_memory_mb: int = 0  # one that holds more is replaced; 0: never

    @property
    def elastic(self) -> bool:
        """Children come when there is work for them."""
        return self.least < self.most

    def wanted(self, at_work: int) -> int:
        return min(max(at_work + self.spare, self.least), self.most)


class Renewal(Enum):
    """How far the replacement of all children is that was asked for last."""

    GOES_ON = auto()
    COMPLETE = auto()  # those that take attempts were all started after it
    GIVEN_UP = auto()  # a successor could not start, so the old ones stay


class Staff:
    """The children. All but `hire` is called under the crew's lock."""

    def __init__(self, plan: Plan, make: Callable[[float], RunnerProcess]) -> None:
        if plan.max_memory_mb and not PROC.joinpath("self/statm").exists():
            raise SettingsError("the memory of a runner cannot be limited here: there is no /proc")
        self.children: list[RunnerProcess] = []
        self.backoff = Backoff()
        self.wanted = plan.wanted(0)
        self.leaving = False  # no new ones, and those that are there shall go
        self._make = make
        self._replacing: deque[RunnerProcess] = deque()
        self._old: set[RunnerProcess] = set()  # those that were there when all were to be replaced
        self._least = plan.least
        self._at_once = CORES if plan.elastic else plan.most
        self._max_tasks = plan.max_tasks
        self._max_memory_mb = plan.max_memory_mb
        self._weighed_mono = 0.0

    def replace(self, child: RunnerProcess) -> None:
        if not self.replaced(child):
            self._replacing.append(child)

    def replace_all(self) -> None:
        self._old = set(self.children)
        for child in self.children:
            self.replace(child)

    def renewal(self) -> Renewal:
        """On any thread, also without the lock."""
        steady = [child for child in list(self.children) if child.stage is not Stage.DRAINING]
        if not self._old.isdisjoint(steady):
            return Renewal.GOES_ON if self._replacing else Renewal.GIVEN_UP
        ready = sum(child.stage is Stage.READY for child in steady)
        return Renewal.COMPLETE if ready >= self._least else Renewal.GOES_ON

    def replaced(self, child: RunnerProcess) -> bool:
        """It is to be replaced, or has been."""
        return child in self._replacing or child.stage is Stage.DRAINING

    @property
    def settled(self) -> bool:
        """Nothing here changes unless a child dies."""
        steady = all(child.stage is Stage.READY for child in self.children) and len(self.children) == self.wanted
        return steady and not (self._replacing or self._max_memory_mb or self.leaving)

    def ready(self, child: RunnerProcess, tasks: list[Rules]) -> RunnerProcess | None:
        """A child can take work. Return the one that it replaces, which is to drain."""
        child.tasks = tasks
        if child.stage is Stage.STARTING:
            child.stage = Stage.READY
        old, child.replaces = child.replaces, None
        if old is not None:
            old.stage = Stage.DRAINING
        return old

    def tasks(self) -> list[Rules] | None:
        """The tasks that every child knows; None while they do not know the same: one is still to be replaced."""
        told = [child.tasks for child in self.children if child.stage is Stage.READY]
        return told[0] if told and all(tasks == told[0] for tasks in told) else None

    def retire(self, child: RunnerProcess) -> None:
        """Let a child drain before its successor is ready."""
        child.stage = Stage.DRAINING
        for other in self.children:
            if other.replaces is child:
                other.replaces = None

    def remove(self, child: RunnerProcess) -> None:
        """A child has ended."""
        self.children.remove(child)
        self._old.discard(child)
        if child.replaces is not None:  # its successor could not start: the old ones stay
            self._replacing.clear()
        if child in self._replacing:
            self._replacing.remove(child)
        for other in self.children:
            if other.replaces is child:
                other.replaces = None

    def worn(self, now_mono: float) -> list[tuple[RunnerProcess, str]]:
        """Those that have run or hold too much since this was asked last, and why they are to be replaced."""
        weigh = self._max_memory_mb and now_mono - self._weighed_mono >= MEMORY_EVERY_S
        if weigh:
            self._weighed_mono = now_mono
        found = []
        for child in self.children:
            held_mb = memory_mb(child.pid) if weigh and not child.heavy else 0
            if held_mb > self._max_memory_mb:
                child.heavy, child.heavy_mono = f"held {held_mb} MiB, with a cap of {self._max_memory_mb}", now_mono
                found.append((child, child.heavy))
            elif self._max_tasks and child.finished >= self._max_tasks and not self.replaced(child):
                found.append((child, f"has run {child.finished} tasks, with a cap of {self._max_tasks}"))
        return found

    @property
    def too_small(self) -> str:
        """What is wrong with the cap, if children without any work are over it: they would be replaced for ever."""
        most_mb = max((memory_mb(child.pid) for child in self.children if child.stage is Stage.READY), default=0)
        if not self._max_memory_mb or most_mb <= self._max_memory_mb:
            return ""
        return (
            f"a runner holds {most_mb} MiB before its first task; the cap of {self._max_memory_mb} must be above that"
        )

    def too_heavy(self, now_mono: float) -> list[RunnerProcess]:
        """Those that hold too much and cannot wait for a successor."""
        return [
            child
            for child in self.children
            if child.heavy and child.stage is Stage.READY and now_mono - child.heavy_mono > HEAVY_DRAIN_S
        ]

    def dismiss(self, now_mono: float) -> None:
        """Let go those that are done, and end those that do not get ready."""
        for child in self.children:
            late = now_mono - child.since_mono > START_S
            if child.heavy and now_mono - child.heavy_mono > HEAVY_KILL_S:
                child.kill(f"{child.heavy}, did not end within {HEAVY_KILL_S:g} s and was killed")
            elif child.stage is Stage.STARTING and (late or self.leaving):
                child.kill()
            elif self.leaving or (child.stage is Stage.DRAINING and not child.flights):
                child.leave()

    def surplus(self, now_mono: float) -> list[RunnerProcess]:
        """Those beyond the wanted ones that have had nothing to do for a while."""
        steady = [child for child in self.children if child.stage is Stage.READY and not self.replaced(child)]
        idle = [child for child in steady if not child.flights and child.idle_s(now_mono) > IDLE_S]
        return idle[: max(len(steady) - self.wanted, 0)]

    def vacancies(self, now_mono: float) -> list[RunnerProcess | None]:
        """The starts that are due: each names the child that it replaces, if any.

        Of those that come with the work, as many start at a time as there are cores, or as are ready already. So the
        first ones are not slowed by those behind them: where tasks are quick they do them all, and where tasks are long
        the last ones come as soon.
        """
        if self.leaving or now_mono < self.backoff.at_mono:
            return []
        own = [child for child in self.children if child.stage is not Stage.DRAINING and child.replaces is None]
        starting = sum(child.stage is Stage.STARTING for child in own)
        more = max(self._at_once, len(own) - starting) - starting
        due: list[RunnerProcess | None] = [None] * min(self.wanted - len(own), more)
        while self._replacing and self._replacing[0].stage is Stage.DRAINING:
            self._replacing.popleft()
        if self._replacing and all(child.replaces is None for child in self.children):
            due.append(self._replacing[0])
        return due

    def hire(self, replaces: RunnerProcess | None, now_mono: float) -> RunnerProcess:
        """Start a child; raises OSError where the system has no room for one. Not under the lock: it takes a while."""
        child = self._make(now_mono)
        child.replaces = replaces if replaces in self.children else None
        return child


def memory_mb(pid: int) -> int:
    """What a process holds in memory; 0 where it has ended."""
    try:
        pages = PROC.joinpath(str(pid), "statm").read_text().split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE") >> 20
