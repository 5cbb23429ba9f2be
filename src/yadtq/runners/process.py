"""One child process as its pool sees it: what it was given, what it has answered, and how it ended.

One invariant: every attempt that was given is in `flights` until the child answers for it or is buried, and nothing
here waits: what the socket does not take stays in a buffer of ours. Calls are made under the pool's lock, but for
`receive`, which belongs to the pool's thread.
"""

import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum, auto

import msgspec

from yadtq.attempt import Attempt, Ending, Outcome
from yadtq.catalogue import Rules
from yadtq.runners import frames
from yadtq.runners.execution import now_ms
from yadtq.runners.pace import SLOW_S, STALE_S, Pace
from yadtq.runners.seats import Seats, open_page
from yadtq.runners.spawn import Opening, Process, Spawn

SOCKET_BYTES = 1 << 20
PING_LOOKS = 10  # a second of silence
SILENT_LOOKS = 100
HELD_BYTES = 4 << 20  # a runner with more than this before it is given nothing beyond its slots
NAMED = 5  # tasks of a dead runner that are told by their ids


class Stage(Enum):
    STARTING = auto()
    READY = auto()
    DRAINING = auto()  # finishes what it has started, is given nothing more


class Flight:
    """One attempt that was given to a child."""

    __slots__ = ("attempt", "given_mono", "recalled", "seat", "told", "wanted")

    def __init__(self, attempt: Attempt, seat: int, given_mono: float) -> None:
        self.attempt = attempt
        self.seat = seat
        self.given_mono = given_mono
        self.told = False  # its start was told
        self.recalled = False  # the child was asked to give it back
        self.wanted = False  # and the engine wants it, not another runner

    @property
    def size_bytes(self) -> int:
        return len(self.attempt.args) + len(self.attempt.kwargs)


class RunnerProcess:
    """Starts a child and keeps its books.

    Args:
        ahead_most: How many attempts it may be given beyond its slots.
        on_end: Called on a thread of its own when the process has ended and its group is swept.
    """

    def __init__(
        self, spawn: Spawn, slots: int, now_mono: float, on_end: Callable[["RunnerProcess"], None], ahead_most: int
    ) -> None:
        seats = slots + ahead_most
        self.stage = Stage.STARTING
        self.flights: dict[int, Flight] = {}
        self.since_mono = now_mono
        self.finished = 0
        self.gone = False  # its stream has ended
        self.broken: str | None = None  # why it cannot import the app
        self.replaces: RunnerProcess | None = None
        self.tasks: list[Rules] = []  # that it knows, once it is ready
        self.heavy = ""  # how much it held, once that was too much
        self.heavy_mono = 0.0  # since when
        self.overrun: Flight | None = None  # what it was killed for: it ran longer than it may
        self._heard = True  # since it was looked at last
        self._silence = 0
        self._slots = slots
        self._ahead_most = ahead_most
        self._pace = Pace()
        self._free = list(range(seats))
        self._held_bytes = 0
        self._unsent: deque[frames.Job] = deque()
        self._out: deque[bytearray | memoryview] = deque()
        self._out_bytes = 0
        self._inbound = frames.Inbound()
        self._process = self._open(spawn, seats)
        self._process.watch(lambda: on_end(self))

    def _open(self, spawn: Spawn, seats: int) -> Process:
        page = open_page(seats)
        self.socket, theirs = socket.socketpair()
        try:
            for end in (self.socket, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
            self.socket.setblocking(False)
            self.seats = Seats(page, seats)
            return spawn(Opening(theirs, page, seats))
        except BaseException:
            self.socket.close()
            raise
        finally:
            theirs.close()
            os.close(page)

    @property
    def pid(self) -> int:
        return self._process.pid

    # -- what it may be given ------------------------------------------------------------------------------------------

    def room(self, now_mono: float) -> int:
        """How many more attempts it would start without delay."""
        if self.stage is not Stage.READY or self._out_bytes > HELD_BYTES:
            return 0
        ahead = min(self._pace.ahead(now_mono), self._ahead_most) if self._held_bytes < HELD_BYTES else 0
        room = min(self._slots + ahead - len(self.flights), len(self._free))
        return room if room > 0 and not (self.flights and self.stuck(now_mono)) else 0

    def stuck(self, now_mono: float) -> bool:
        """Something it was given waits, and nothing moves: its slots are held, or it is stopped."""
        if now_mono - self._pace.last_mono <= STALE_S:
            return False
        oldest = next((flight for flight in self.flights.values() if not flight.told), None)
        return oldest is not None and now_mono - oldest.given_mono > STALE_S and not self._touched(oldest)

    def free_slots(self, now_mono: float) -> int:
        """How many more it would start at once."""
        free = self._slots - len(self.flights)
        return min(free, self.room(now_mono)) if free > 0 else 0

    @property
    def held(self) -> bool:
        """What it was given beyond its slots waits for tasks that take long. The page is read only where they do."""
        if len(self.flights) <= self._slots or self._pace.task_s < SLOW_S:
            return False
        return sum(map(self._runs, self.flights.values())) >= self._slots

    def give(self, attempt: Attempt, now_mono: float, lease: int) -> None:
        """lease: The number that the page has to bear when it starts."""
        flight = Flight(attempt, self._free.pop(), now_mono)
        self._pace.given(now_mono)
        self.seats.clear(flight.seat)
        self.flights[attempt.number] = flight
        size = flight.size_bytes
        self._held_bytes += size
        self._out_bytes += size
        self._unsent.append(frames.job_of(attempt, flight.seat, lease))

    def recall(self, flights: Sequence[Flight]) -> list[Flight]:
        """Ask for these back. Return those that are back at once, because they had not been sent."""
        asked = {flight.attempt.number for flight in flights if not flight.recalled}
        unsent = [job.number for job in self._unsent if job.number in asked]
        self._unsent = deque(job for job in self._unsent if job.number not in asked)
        back = [self.take(number) for number in unsent]
        for flight in back:
            self._out_bytes -= flight.size_bytes
        asked.difference_update(unsent)
        sent = [flight for flight in flights if flight.attempt.number in asked]  # in their order they come back
        if sent:
            for flight in sent:
                flight.recalled = True
            self._put(frames.frame_of(frames.Recall([flight.attempt.number for flight in sent])))
        return back

    def take(self, number: int) -> Flight:
        """Strike an attempt from the books: it is answered."""
        flight = self.flights.pop(number)
        self._free.append(flight.seat)
        self._held_bytes -= flight.size_bytes
        return flight

    def counted(self, outcomes: Sequence[Outcome], now_mono: float) -> None:
        ran_ms = sum(outcome.finished_at_ms - outcome.started_at_ms for outcome in outcomes)
        self.finished += len(outcomes)
        self._pace.finished(len(outcomes), ran_ms / 1000, now_mono, idle=not self.flights)

    def idle_s(self, now_mono: float) -> float:
        """How long ago it finished something, or was started."""
        return now_mono - max(self._pace.last_mono, self.since_mono)

    @property
    def waiting(self) -> list[Flight]:
        """What has not started, by the page."""
        return [flight for flight in self.flights.values() if not flight.told and not self._touched(flight)]

    def newly_started(self) -> list[Flight]:
        """What has started since this was asked last, by the page."""
        started = [flight for flight in self.flights.values() if not flight.told and self._touched(flight)]
        for flight in started:
            flight.told = True
        return started

    def end_overrun(self) -> None:
        """Kill it where something in it runs longer than it may."""
        now_ns = time.monotonic_ns()
        for flight in self.flights.values():
            limit_s = flight.attempt.time_limit_s
            if limit_s and self._runs(flight) and now_ns - self.seats.started_ns(flight.seat) > limit_s * 1e9:
                self.overrun = self.overrun or flight
                self.kill(f"was killed: its task {flight.attempt.task_id} has a time limit of {limit_s:g} s")

    def end_silent(self) -> None:
        """Called at every look: ask a child that says nothing to say something, and kill it where it does not.

        Looks are counted, not seconds: a machine that stood still is not its fault.
        """
        self._silence = 0 if self._heard or not self.flights else self._silence + 1
        self._heard = False
        if self._silence == PING_LOOKS:
            self.tell(frames.Ping())
        elif self._silence >= SILENT_LOOKS:
            self.kill("was killed: it did not answer for 10 s; it was stopped, or a task in it holds the interpreter")

    def _runs(self, flight: Flight) -> bool:
        return self.seats.started(flight.seat, flight.attempt.number)

    def _touched(self, flight: Flight) -> bool:
        return self.seats.touched(flight.seat, flight.attempt.number)

    # -- the stream ----------------------------------------------------------------------------------------------------

    @property
    def blocked(self) -> bool:
        """The socket has not taken everything."""
        return bool(self._out or self._unsent)

    def flush(self) -> None:
        """Send what the socket takes."""
        while self._out or self._unsent:
            if not self._out:
                self._put(frames.frame_of(frames.Jobs(self._next_jobs())))
            data = self._out[0]
            try:
                sent = self.socket.send(data)
            except BlockingIOError:
                return
            except OSError:  # it is dead or dying: the wait says how, and the books say what it had
                self._out.clear()
                self._unsent.clear()
                return
            if sent == len(data):
                self._out.popleft()
            else:
                self._out[0] = memoryview(data)[sent:]
            self._out_bytes -= sent

    def _next_jobs(self) -> list[frames.Job]:
        jobs, size = [], 0
        while self._unsent and size < frames.FRAME_BYTES:
            jobs.append(job := self._unsent.popleft())
            size += len(job.args) + len(job.kwargs)
        self._out_bytes -= size
        return jobs

    def _put(self, frame: bytearray) -> None:
        self._out.append(frame)
        self._out_bytes += len(frame)

    def receive(self) -> list[frames.FromChild]:
        """Read once and return what is whole; `gone` is set at the end of the stream."""
        try:
            self.gone = self._inbound.receive(self.socket) == 0
            self._heard = True
            return [frames.decode_from_child(frame) for frame in self._inbound.frames()]
        except BlockingIOError:
            return []
        except (OSError, msgspec.MsgspecError):  # user code can reach every descriptor
            self.gone = True
            return []

    def tell(self, message: frames.ToChild) -> None:
        self._put(frames.frame_of(message))
        self.flush()

    def drain(self) -> list[frames.FromChild]:
        """Read what a dead child left in the stream. A process that it started may hold the other end open."""
        messages: list[frames.FromChild] = []
        while not self.gone and (more := self._read_on()) is not None:
            messages += more
        return messages

    def _read_on(self) -> list[frames.FromChild] | None:
        with contextlib.suppress(OSError):
            if not self.socket.recv(1, socket.MSG_PEEK):
                return None
            return self.receive()
        return None

    # -- its end -------------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Close the stream: the child ends itself."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def kill(self, why: str = "") -> None:
        """Kill the child and all that it started. why: What `how_it_ended` is to say."""
        self._process.kill(why)

    @property
    def how_it_ended(self) -> str:
        """In words, once it has."""
        return self._process.how_it_ended

    def obituary(self, planned: bool, start_error: str) -> tuple[str, str]:
        """What is told of its end, as a kind and a sentence. Before `close`: its page says what it ran."""
        if planned:
            how = "has left" if self.overrun is None else self.how_it_ended
            return "runner_ended", f"runner {self.pid} {how}"
        if self.stage is Stage.STARTING:
            stay = "; those that are there go on with the code that they have" if self.replaces is not None else ""
            return "runner_failed", f"runner {self.pid} could not start{stay}: {start_error}"
        ran = [flight.attempt.task_id for flight in self.flights.values() if self._runs(flight)]
        return "runner_died", f"runner {self.pid} {self.how_it_ended}; {_charged(ran)}"

    def end_of(self, flight: Flight) -> Outcome | None:
        """The outcome of an attempt that the process has taken with it; None where it had not started."""
        if not self._touched(flight):
            return None
        now, number = now_ms(), flight.attempt.number
        ran_ms = (time.monotonic_ns() - self.seats.started_ns(flight.seat)) // 1_000_000
        if not self._runs(flight):
            error_log = f"it had ended, and its runner {self.how_it_ended} before it could say how"
            return Outcome(number, Ending.LOST, now - ran_ms, now, error_log=error_log)
        if flight is self.overrun:
            error_log = f"ended by its time limit of {flight.attempt.time_limit_s:g} s"
            return Outcome(number, Ending.TIMED_OUT, now - ran_ms, now, error_log=error_log)
        error_log = f"its runner {self.how_it_ended}, {ran_ms / 1000:.3f} s after the start"
        return Outcome(number, Ending.DIED, now - ran_ms, now, error_log=error_log)

    def close(self) -> None:
        self.socket.close()
        self.seats.close()


def _charged(ids: Sequence[str]) -> str:
    """What a dead runner ran, in words."""
    if not ids:
        return "it ran no task"
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    tasks = "1 task" if len(ids) == 1 else f"{len(ids)} tasks"
    return f"it ran {tasks}, charged with a death: {', '.join(ids[:NAMED])}{more}"
