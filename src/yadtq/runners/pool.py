"""Child processes that run user code: the worker's side of them, as one runner.

    shared: always there, many attempts each      solo, suspect: one attempt at a time each, started when needed

One invariant: an attempt that is to run alone is never in a process with another one, so ending it ends nothing else.
When the worker dies, its children end with it, and with them, by the minder, whatever user code had started.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from yadtq.attempt import Attempt, Lease, Place
from yadtq.catalogue import Rules
from yadtq.errors import SettingsError
from yadtq.runners.crew import Crew
from yadtq.runners.groups import Groups
from yadtq.runners.protocol import OnEvent, Sink
from yadtq.runners.reload import Reload
from yadtq.runners.spawn import ChildProcess
from yadtq.runners.staff import Plan
from yadtq.runners.submits import Publish, Submits
from yadtq.service import SystemClock

OnTasks = Callable[[Sequence[Rules]], None]

SUSPECTS_MOST = 32  # where nobody says how many: each is a process of 14 MiB and more, and 0.1 s of a core to start


@dataclass(frozen=True, slots=True)
class Solo:
    """How attempts run that run alone."""

    most: int = os.cpu_count() or 1  # at a time, of those that do so by their definition
    spare: bool = False  # one process is kept ready for these: a start takes 1 ms, and not a Python's and an import
    suspects: int = 0  # at a time, of those that have ended a process; 0: what fits into one, at most SUSPECTS_MOST


class PoolRunner:
    """Runs attempts in `runners` child processes of `slots` each, and those that run alone each in one of its own.

    Args:
        target: `module:app`, imported by every child, from the working folder too.
        on_event: Told what becomes of children, as a kind (`runner_started`, `runner_replaced`, `runner_ended`,
            `runner_died`, `runner_failed`, `reloaded`, `minder_lost`) and a sentence; on a thread of the pool.
        max_tasks: A child is replaced after so many attempts; 0: never.
        max_memory_mb: A child that holds more is replaced; 0: never. What it runs may end within 3.5 s; then the child
            is killed, and what still runs is charged with a death. Needs /proc.
        on_tasks: Told the tasks that the children know, when all that take attempts know the same; on a thread of the
            pool.
        publish: Publishes what tasks submit, in the name of an attempt; on threads of its own, it may take its time.
            What it raises is raised in the task. None: tasks cannot submit.

    Raises:
        SettingsError: No child could import the app; the text has the traceback. Or the app alone is over the cap.
    """

    isolates = True

    def __init__(
        self,
        target: str,
        runners: int,
        slots: int,
        sink: Sink,
        result_limit_bytes: int,
        *,
        on_event: OnEvent | None = None,
        max_tasks: int = 0,
        max_memory_mb: int = 0,
        solo: Solo | None = None,
        on_tasks: OnTasks | None = None,
        publish: Publish | None = None,
    ) -> None:
        solo = solo or Solo()
        if runners < 1 or slots < 1 or solo.most < 1 or solo.suspects < 0:
            raise SettingsError(f"a pool has at least 1 runner of 1 slot, not {runners} of {slots}")
        on_event = on_event or (lambda _kind, _text: None)

        def tell(kind: str, text: str) -> None:
            tasks = self._shared.tasks() if on_tasks and kind == "runner_started" else None
            if on_tasks and tasks is not None:
                on_tasks(tasks)
            on_event(kind, text)
            self._reload.look()

        self._groups, self._submits = Groups(partial(on_event, "minder_lost")), Submits(publish)

        def crew(plan: Plan) -> Crew:
            spawn = partial(ChildProcess, target, plan.slots, result_limit_bytes, self._groups)
            return Crew(target, plan, spawn, sink, tell, self._submits.put, SystemClock())

        plans = _plans(runners, slots, solo, max_tasks=max_tasks, max_memory_mb=max_memory_mb)
        try:
            self._crews = {place: crew(plan) for place, plan in plans.items()}
        except BaseException:
            self._groups.close()
            raise
        self._shared, self._reload = self._crews["shared"], Reload(self._crews.values(), on_event)
        self._begin()

    def _begin(self) -> None:
        """Start the children, and wait until one can be given work."""
        for crew in self._crews.values():
            crew.begin()
        try:
            self._shared.await_first()
        except BaseException:
            self.kill()
            raise

    # -- the port ------------------------------------------------------------------------------------------------------

    def room(self, place: Place = "shared") -> int:
        return self._crews[place].room()

    def start(self, attempts: Sequence[Attempt]) -> None:
        for place, crew in self._crews.items():
            if here := [attempt for attempt in attempts if attempt.place == place]:
                crew.start(here)

    def recall(self, numbers: Sequence[int]) -> None:
        wanted = frozenset(numbers)
        for crew in self._crews.values():
            crew.recall(wanted)

    def renew(self, lease: Lease) -> None:
        for crew in self._crews.values():
            crew.renew(lease)

    def close(self, timeout_s: float) -> bool:
        """Take nothing more, give back what has not started, and wait for what runs.

        Returns False when something still runs; it goes on, and its outcome is told. Close again, or `kill`.
        """
        until_mono = time.monotonic() + timeout_s
        for crew in self._crews.values():
            crew.close(0)
        idle = all(crew.close(max(until_mono - time.monotonic(), 0.0)) for crew in self._crews.values())
        if idle:
            self._close()
        return idle

    def kill(self) -> None:
        """End every child now, with whatever runs in it."""
        for crew in self._crews.values():
            crew.kill()
        self._close()

    def _close(self) -> None:
        self._groups.close()
        self._submits.close()

    # -- beyond the port -----------------------------------------------------------------------------------------------

    def replace(self) -> None:
        """Replace every child by a new one, which imports the app anew; one after the other, with nothing lost.

        `reloaded` tells when all that take attempts are new. Where the new code cannot be imported the old children
        stay, and a `runner_failed` says why.
        """
        self._reload.begin()

    @property
    def pids(self) -> list[int]:
        """The shared runners that take attempts."""
        return self._shared.pids

    @property
    def solo_pids(self) -> list[int]:
        """The runners of one attempt at a time, of both kinds, that take one or run one."""
        return self._crews["solo"].pids + self._crews["suspect"].pids


def _plans(runners: int, slots: int, solo: Solo, **caps: int) -> dict[Place, Plan]:
    suspects = solo.suspects or min(slots, SUSPECTS_MOST)
    return {
        "shared": Plan(slots, least=runners, most=runners, **caps),
        "solo": Plan(1, least=0, most=solo.most, spare=int(solo.spare), ahead_most=0, **caps),
        "suspect": Plan(1, least=0, most=suspects, ahead_most=0, **caps),
    }
