"""A runner in this process: threads for `def`, one event loop for `async def`.

For the teaching consumers, for tests and for debugging: the process that fails is the one that owns the partitions.
One invariant: an attempt is either waiting, and can be recalled, or has started, and ends in an outcome.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from yadtq.attempt import Attempt, Lease, Outcome, Place, Recalled, Started
from yadtq.runners.execution import execute, execute_async
from yadtq.runners.protocol import Sink
from yadtq.runners.submits import Publish, Submits
from yadtq.service import Clock, SystemClock
from yadtq.task import Registry, Task

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

Around = Callable[[Attempt], AbstractContextManager[None]]


class InlineRunner:
    """Runs at most `slots` attempts at a time.

    Those that are to run alone run among the others, and no time limit ends one: a thread cannot be killed.

    Args:
        around: Entered before and left after each run of user code, on its thread; for consumers that fail on purpose.
        publish: Publishes what tasks submit, in the name of an attempt. None: tasks cannot submit.
    """

    isolates = False

    def __init__(
        self,
        registry: Registry,
        slots: int,
        sink: Sink,
        result_limit_bytes: int,
        around: Around | None = None,
        publish: Publish | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._registry = registry
        self._slots = slots
        self._sink = sink
        self._limit_bytes = result_limit_bytes
        self._around = around or (lambda _: contextlib.nullcontext())
        self._submits = Submits(publish)
        self._clock = clock or SystemClock()
        self._lease = Lease()
        self._waiting: deque[Attempt] = deque()
        self._running = 0
        self._closed = False
        self._changed = threading.Condition()
        self._loop: AbstractEventLoop | None = None
        self._threads = [
            threading.Thread(target=self._slot, name=f"yadtq-slot-{at}", daemon=True) for at in range(slots)
        ]
        for thread in self._threads:
            thread.start()

    def room(self, place: Place = "shared") -> int:
        if place != "shared":
            return 0
        with self._changed:
            return max(self._slots - self._running - len(self._waiting), 0)

    def start(self, attempts: Sequence[Attempt]) -> None:
        with self._changed:
            self._waiting.extend(attempts)
            self._changed.notify(len(attempts))

    def recall(self, numbers: Sequence[int]) -> None:
        wanted = set(numbers)
        with self._changed:
            recalled = [attempt for attempt in self._waiting if attempt.number in wanted]
            self._waiting = deque(attempt for attempt in self._waiting if attempt.number not in wanted)
        if recalled:
            self._sink([Recalled(attempt.number) for attempt in recalled])

    def renew(self, lease: Lease) -> None:
        self._lease = lease

    def close(self, timeout_s: float) -> bool:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            idle = self._changed.wait_for(lambda: self._running == 0, timeout_s)
        if self._loop is not None and idle:
            self._loop.call_soon_threadsafe(self._loop.stop)
        if idle:
            self._submits.close()
        return idle

    def kill(self) -> None:
        """Threads cannot be ended from outside; they end with the process."""

    def _slot(self) -> None:
        while (attempt := self._next()) is not None:
            task = self._registry.get(attempt.task_type)
            if task is None:
                raise AssertionError(f"an attempt of the unknown task {attempt.task_type!r} was started")
            if not self._lease.allows(attempt.incarnation, self._clock.mono_s()):  # C6
                self._give_back(attempt)
                continue
            self._sink([Started(attempt.number)])
            if task.is_async:
                self._run_coroutine(self._run_async(task, attempt))
            else:
                with self._around(attempt):
                    outcome = execute(task, attempt, self._limit_bytes, self._submits.put)
                self._finish(outcome)

    def _next(self) -> Attempt | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or (self._waiting and self._running < self._slots))
            if self._closed:
                return None
            self._running += 1
            return self._waiting.popleft()

    def _finish(self, outcome: Outcome) -> None:
        self._leave_slot()
        self._sink([outcome])

    def _give_back(self, attempt: Attempt) -> None:
        self._leave_slot()
        self._sink([Recalled(attempt.number)])

    def _leave_slot(self) -> None:
        with self._changed:
            self._running -= 1
            self._changed.notify_all()

    async def _run_async(self, task: Task[..., Any], attempt: Attempt) -> None:
        with self._around(attempt):
            outcome = await execute_async(task, attempt, self._limit_bytes, self._submits.put)
        self._finish(outcome)

    def _run_coroutine(self, coroutine: Coroutine[Any, Any, None]) -> None:
        import asyncio  # only for who has an `async def`

        with self._changed:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="yadtq-loop", daemon=True).start()
            loop = self._loop
        asyncio.run_coroutine_threadsafe(coroutine, loop)
