"""The process that runs user code: `python -m yadtq.runners.child`, started by a pool and by nobody else.

    main thread: reads jobs and recalls, never sends      slots: threads for `def`      one loop for `async def`
    sender: the only one that sends, and that may block

One invariant: a job is in `_jobs` until exactly one of a slot, the loop or a recall takes it out, and whatever is taken
out is answered through the sender. When the worker dies this process ends with it: by the death signal of the kernel,
and where there is none by the end of the stream.
"""

import ctypes
import faulthandler
import itertools
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from yadtq.attempt import Attempt, Outcome
from yadtq.catalogue import rules_of
from yadtq.errors import YadtqError
from yadtq.runners import frames
from yadtq.runners.execution import execute, execute_async, now_ms, raised
from yadtq.runners.loading import find, no_app
from yadtq.runners.seats import Seats
from yadtq.service import SystemClock
from yadtq.task import Call, Registry, Task
from yadtq.within import enter_child

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future

PR_SET_PDEATHSIG = 1
BATCH = 500
Answer = Outcome | frames.Returned | frames.Submit | frames.Pong
SWITCH_S = 0.0005  # beside one busy task the others wait 0.7 ms for their turn; 5.2 ms with Python's default


class Child:
    """Runs jobs: at most `slots` functions and at most `slots` coroutines at a time."""

    def __init__(self, worker: socket.socket, seats: Seats, registry: Registry, slots: int, limit_bytes: int) -> None:
        self._worker = worker
        self._seats = seats
        self._registry = registry
        self._slots = slots
        self._limit_bytes = limit_bytes
        self._now_s = SystemClock().mono_s
        self._jobs: dict[int, frames.Job] = {}  # not started yet; `pop` decides a race between a slot and a recall
        self._queue: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._requests: dict[int, Future[list[str]]] = {}
        self._request_numbers = itertools.count(1)
        self._threads: list[threading.Thread] = []
        self._coroutines: Coroutines | None = None

    def run(self) -> None:
        """Serve until the worker closes the stream."""
        threading.Thread(target=self._send, name="yadtq-sender", daemon=True).start()
        inbound = frames.Inbound()
        while inbound.receive(self._worker):
            for frame in inbound.frames():
                match frames.decode_to_child(frame):
                    case frames.Jobs(jobs):
                        self._take(jobs)
                    case frames.Recall(numbers):
                        self._outbox.put(frames.Returned([n for n in numbers if self._jobs.pop(n, None) is not None]))
                    case frames.Ping():
                        self._outbox.put(frames.Pong())
                    case frames.Submitted(request, ids, failure):
                        self._submitted(self._requests.pop(request), ids, failure)

    def _take(self, jobs: Sequence[frames.Job]) -> None:
        coroutines = []
        for job in jobs:
            task = self._registry.get(job.task_type)
            self._jobs[job.number] = job
            if task is not None and task.is_async:
                coroutines.append(job.number)
            else:
                self._queue.put(job.number)
        if len(coroutines) < len(jobs) and not self._threads:
            self._threads = [threading.Thread(target=self._slot, name=f"yadtq-slot-{n}") for n in range(self._slots)]
            for thread in self._threads:
                thread.daemon = True
                thread.start()
        if coroutines:
            if self._coroutines is None:
                self._coroutines = Coroutines(self._slots, self._start_coroutine)
            self._coroutines.put(coroutines)

    def _slot(self) -> None:
        while True:
            job = self._jobs.pop(self._queue.get(), None)
            if job is None:  # recalled
                continue
            attempt, task = job.to_attempt(), self._registry.get(job.task_type)
            if not self._starts(job):
                continue
            outcome = execute(task, attempt, self._limit_bytes, self._submit) if task else unknown(attempt)
            self._seats.end(job.seat, job.number)
            self._outbox.put(outcome)

    def _starts(self, job: frames.Job) -> bool:
        """Note the start of a job, or give it back where its lease is over (C6). User code comes next."""
        if not self._seats.allows(job.lease, self._now_s()):
            self._outbox.put(frames.Returned([job.number]))
            return False
        self._seats.start(job.seat, job.number)
        return True

    def _start_coroutine(self, number: int) -> "asyncio.Task[None] | None":
        job = self._jobs.pop(number, None)
        task = self._registry.get(job.task_type) if job is not None else None
        if job is None or task is None or self._coroutines is None:  # recalled
            return None
        return self._coroutines.loop.create_task(self._run_coroutine(task, job))

    async def _run_coroutine(self, task: Task[..., Any], job: frames.Job) -> None:
        if not self._starts(job):
            return
        outcome = await execute_async(task, job.to_attempt(), self._limit_bytes, self._submit)
        self._seats.end(job.seat, job.number)
        self._outbox.put(outcome)

    def _submit(self, attempt: Attempt, calls: Sequence[Call]) -> "Future[list[str]]":
        """The port of what runs here: the worker publishes."""
        from concurrent.futures import Future  # comes with `logging`; few tasks submit

        request, future = next(self._request_numbers), Future[list[str]]()
        self._requests[request] = future
        self._outbox.put(frames.Submit(request, attempt.number, attempt.task_id, attempt.attempt, list(calls)))
        return future

    def _submitted(self, future: "Future[list[str]]", ids: list[str], failure: frames.Failure | None) -> None:
        if not future.set_running_or_notify_cancel():  # whoever awaited it was cancelled
            return
        if failure is None:
            future.set_result(ids)
        else:
            future.set_exception(frames.error_of(failure))

    def _send(self) -> None:
        """One frame for all that is there; nothing waits on a timer to fill one."""
        try:
            while True:
                answers = self._gather()
                done = [answer for answer in answers if isinstance(answer, Outcome)]
                if done:
                    self._worker.sendall(frames.frame_of(frames.Finished(done)))
                for answer in answers:
                    if not isinstance(answer, Outcome):
                        self._worker.sendall(frames.frame_of(answer))
        except OSError:  # the worker is gone
            os._exit(1)

    def _gather(self) -> list[Answer]:
        answers = [self._outbox.get()]
        size = _size(answers[0])
        try:
            while len(answers) < BATCH and size < frames.FRAME_BYTES:
                answers.append(self._outbox.get_nowait())
                size += _size(answers[-1])
        except queue.Empty:
            return answers
        return answers


class Coroutines:
    """One event loop on a thread of its own, and what waits for its turn there. asyncio is loaded with the first."""

    def __init__(self, most: int, start: Any) -> None:
        import asyncio

        self.loop = asyncio.new_event_loop()
        self._most = most
        self._start = start
        self._waiting: deque[int] = deque()
        self._running: set[asyncio.Task[None]] = set()  # the loop itself holds its tasks weakly
        threading.Thread(target=self.loop.run_forever, name="yadtq-loop", daemon=True).start()

    def put(self, numbers: list[int]) -> None:
        self.loop.call_soon_threadsafe(self._put, numbers)

    def _put(self, numbers: list[int]) -> None:
        self._waiting.extend(numbers)
        self._fill()

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self._most:
            task = self._start(self._waiting.popleft())
            if task is not None:
                self._running.add(task)
                task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        self._fill()


def unknown(attempt: Attempt) -> Outcome:
    return raised(attempt, now_ms(), LookupError(f"the app in this runner has no task {attempt.task_type!r}"))


def _size(answer: Answer) -> int:
    return len(answer.result or answer.error_log or "") if isinstance(answer, Outcome) else 0


def die_with(worker_pid: int) -> None:
    """End when the worker ends. The signal is for a process that holds the GIL and cannot see the end of the stream."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != worker_pid:  # it ended before the line above
        os._exit(1)


def settle_in() -> None:
    """Leave Ctrl+C and SIGTERM to the worker: a terminal and systemd send them to every process.

    A handler, not SIG_IGN: what is ignored stays ignored in every program that user code starts.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    os.register_at_fork(after_in_child=_as_usual)
    faulthandler.enable(all_threads=False)  # one thread has crashed; those of all slots would hide it
    sys.setswitchinterval(SWITCH_S)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True)  # one write a line: nothing is lost when the process is killed


def _as_usual() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def load(target: str) -> Registry:
    """Import `module:app`, from the working folder too, and return the app's tasks.

    An app is known by its registry: whoever runs tasks needs nothing else of it.
    """
    registry = getattr(find(target), "registry", None)
    if not isinstance(registry, Registry):
        raise no_app(target)
    return registry


def main(numbers: Sequence[str], target: str) -> None:
    worker_pid, stream, page, seats, slots, limit_bytes = map(int, numbers)
    die_with(worker_pid)
    settle_in()
    worker = socket.socket(fileno=stream)
    enter_child()
    try:
        registry = load(target)
    except BaseException as error:  # user code runs here; it may raise anything
        told = str(error) if isinstance(error, YadtqError) else traceback.format_exc()
        error_log = told.encode("utf-8", "backslashreplace").decode()
        worker.sendall(frames.frame_of(frames.Broken(error_log)))
        os._exit(1)
    worker.sendall(frames.frame_of(frames.Hello(rules_of(registry))))
    try:
        Child(worker, Seats(page, seats), registry, slots, limit_bytes).run()
    except ConnectionError:  # the worker is gone
        os._exit(1)
    os._exit(0)  # user code has threads that need not end


if __name__ == "__main__":
    main(sys.argv[1:7], sys.argv[7])
