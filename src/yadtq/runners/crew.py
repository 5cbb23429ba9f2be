"""Children that are alike, one line of attempts that wait for them, and the thread that serves them.

    start, recall, renew: any thread, under the lock, never waiting      the thread: reads, sends on, starts and buries

One invariant: an attempt is in the line or in the flights of exactly one child until it is answered. A child that
dies takes nothing with it: what its page says was running is answered with DIED and what had ended unheard with LOST,
the rest waits again as it was.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence, Set
from concurrent.futures import Future

from yadtq.attempt import Attempt, Lease, Outcome, Recalled, Started
from yadtq.errors import Fenced, SettingsError
from yadtq.runners import frames
from yadtq.runners.line import Line
from yadtq.runners.moves import movable
from yadtq.runners.process import Flight, RunnerProcess, Stage
from yadtq.runners.protocol import OnEvent, Sink
from yadtq.runners.spawn import Spawn
from yadtq.runners.staff import START_S, Plan, Staff
from yadtq.runners.watch import Watch
from yadtq.service import Clock
from yadtq.within import Port

TICK_S = 0.1  # how late a start may be told, and how long a runner may stand still before it is given nothing more
LINGER_S = 1.0  # after the last attempt; to wake the thread for each one would cost more than its ticks
LEAVE_S = 5.0

Event = Started | Outcome | Recalled


class Crew:
    """Runs attempts in children, as many as its plan says.

    Starts are told late: when the page is looked at, every 100 ms, or just before the outcome.

    Args:
        target: What the children import; for messages.
        on_event: Told what becomes of children, as a kind and a sentence; on the crew's thread.
        port: Publishes what attempts submit; never waits.
        clock: By which leases end. The children have the machine's.
    """

    def __init__(
        self, target: str, plan: Plan, spawn: Spawn, sink: Sink, on_event: OnEvent, port: Port, clock: Clock
    ) -> None:
        self._target, self._plan, self._spawn = target, plan, spawn
        self._sink, self._on_event, self._port = sink, on_event, port
        self._changed = threading.Condition()
        self._line = Line(clock)
        self._ended: deque[RunnerProcess] = deque()
        self._closing = self._resting = self._served = False
        self._failure: BaseException | None = None
        self._start_error = ""
        self._active_mono = self._looked_mono = 0.0
        self._staff = Staff(plan, self._make)
        self._children, self.tasks, self.renewal = self._staff.children, self._staff.tasks, self._staff.renewal
        self._watch = Watch()
        self._thread = threading.Thread(target=self._guard, name="yadtq-crew", daemon=True)

    def begin(self) -> None:
        """Start the thread."""
        self._thread.start()

    # -- the port ------------------------------------------------------------------------------------------------------

    def room(self) -> int:
        now = time.monotonic()
        with self._changed:
            self._check()
            if self._plan.elastic:  # a child that is missing is started for the attempt
                return 0 if self._closing else max(self._plan.most - self._in_hand, 0)
            return max(sum(child.room(now) for child in self._children) - len(self._line), 0)

    def start(self, attempts: Sequence[Attempt]) -> None:
        with self._changed:
            self._check()
            self._line.join(attempts)
            if self._closing:
                back = [Recalled(number) for number in self._line.clear()]
            else:
                self._active_mono = time.monotonic()
                back = self._deal()
            short = self._plan.elastic and bool(attempts)  # of children at work, or of a spare one
            wake = self._resting or short or any(child.blocked for child in self._children)
        if wake:
            self._watch.ring()
        self._tell(back)

    def recall(self, wanted: Set[int]) -> None:
        with self._changed:
            back = self._line.recall(wanted)
            for child in self._children:
                back += self._recall_from(child, [f for n, f in child.flights.items() if n in wanted])
        self._watch.ring()
        self._tell([Recalled(number) for number in back])

    def renew(self, lease: Lease) -> None:
        with self._changed:
            self._line.renew(lease)
            for child in self._children:
                self._line.write_to(child.seats)

    def close(self, timeout_s: float) -> bool:
        """Take nothing more, give back what has not started, and wait for what runs.

        Returns False when something still runs; it goes on, and its outcome is told. Close again, or `kill`.
        """
        with self._changed:
            self._closing = True
            back = self._line.clear()
            for child in self._children:
                back += self._recall_from(child, child.waiting)
        self._watch.ring()
        self._tell([Recalled(number) for number in back])
        with self._changed:
            idle = self._changed.wait_for(lambda: not any(child.flights for child in self._children), timeout_s)
        if idle:
            self._leave()
        return idle

    def kill(self) -> None:
        """End every child now, with whatever runs in it."""
        if not self.close(0):
            with self._changed:
                for child in self._children:
                    child.kill()
            self._leave()

    def replace(self) -> None:
        """Replace every child by a new one, one after the other."""
        with self._changed:
            self._staff.replace_all()
        self._watch.ring()

    @property
    def pids(self) -> list[int]:
        """The children that take attempts."""
        with self._changed:
            return [child.pid for child in self._children if child.stage is Stage.READY]

    # -- under the lock ------------------------------------------------------------------------------------------------

    @property
    def _in_hand(self) -> int:
        return len(self._line) + sum(len(child.flights) for child in self._children)

    def _check(self) -> None:
        if self._failure is not None:
            raise RuntimeError("the thread that serves the runners has ended") from self._failure

    def _deal(self) -> list[Recalled]:
        """Hand what waits to the children that have room, to the least busy first. Return what may not start (C6)."""
        back, now = [Recalled(number) for number in self._line.lapsed()], time.monotonic()
        rooms = {child: room for child in self._children if (room := child.room(now)) > 0}
        loads = {child: len(child.flights) for child in rooms}
        while self._line and rooms:
            child = min(loads, key=loads.__getitem__)
            child.give(self._line.take(), now, self._line.number)
            loads[child] += 1
            rooms[child] -= 1
            if rooms[child] == 0:
                child.flush()
                del rooms[child], loads[child]
        for child in rooms:
            child.flush()
        return back

    def _recall_from(self, child: RunnerProcess, flights: Sequence[Flight]) -> list[int]:
        """For the engine: return what is back at once."""
        for flight in flights:
            flight.wanted = True
        back = child.recall(flights)
        child.flush()
        return [flight.attempt.number for flight in back]

    def _redeal(self, child: RunnerProcess, flights: Sequence[Flight]) -> None:
        """For another runner."""
        self._line.return_to(flight.attempt for flight in child.recall(flights))
        child.flush()

    def _returned(self, flight: Flight) -> list[Event]:
        """An attempt that has not started: for the engine if it wants it, otherwise for the next runner with room."""
        if flight.wanted or self._closing:
            return [Recalled(flight.attempt.number)]
        self._line.return_to([flight.attempt])
        return []

    # -- the crew's thread ---------------------------------------------------------------------------------------------

    def _guard(self) -> None:
        try:
            while not (self._staff.leaving and not self._children):
                self.turn(self._rest_s())
        except BaseException as error:  # raised again on the engine's thread, at its next call
            self._failure = error
            with self._changed:
                for child in self._children:
                    child.kill()
                self._changed.notify_all()
        finally:
            self._watch.close()

    def turn(self, most_s: float | None) -> None:
        """Wait for something to do, at most `most_s`, and do it."""
        for child in self._watch.wait(most_s):
            self._heed(child, child.receive())
            if child.gone:
                self._watch.forget(child)
                child.kill()  # without its stream it is of no use; if it is dead already its group is swept
        while self._ended:
            self._bury(self._ended.popleft())
        self._look()
        self._tend()
        with self._changed:
            for child, flights in movable(self._children, len(self._line), time.monotonic()):
                self._redeal(child, flights)
            back = self._deal()
            for child in self._children:
                child.flush()
                self._watch.follow(child)
        self._tell(back)

    def _rest_s(self) -> float | None:
        """Look around every tick while there is something to see; otherwise sleep until the bell rings."""
        now = time.monotonic()
        with self._changed:
            busy = self._in_hand > 0
            self._resting = not busy and self._staff.settled and now - self._active_mono > LINGER_S
            soon = self._staff.backoff.at_mono - now
            return None if self._resting else min(TICK_S, soon) if soon > 0 else TICK_S

    def _heed(self, child: RunnerProcess, messages: Sequence[frames.FromChild]) -> None:
        events: list[Event] = []
        with self._changed:
            for message in messages:
                match message:
                    case frames.Finished(outcomes):
                        events += self._finished(child, outcomes)
                    case frames.Returned(numbers):
                        for number in reversed(numbers):
                            events += self._returned(child.take(number))
                    case frames.Submit():
                        self._submit(child, message)
                    case frames.Broken(error_log):
                        child.broken = error_log
                    case frames.Hello(tasks):
                        self._served = True
                        if (old := self._staff.ready(child, tasks)) is not None:
                            self._redeal(old, old.waiting)
            events += self._deal()
            self._changed.notify_all()
        self._tell(events)
        if any(isinstance(message, frames.Hello) for message in messages):
            self._on_event("runner_started", f"runner {child.pid} has imported {self._target}")

    def _submit(self, child: RunnerProcess, asked: frames.Submit) -> None:
        flight = child.flights.get(asked.number)
        if flight is None:  # its outcome came first: something that it left behind goes on
            child.tell(frames.Submitted(asked.request, [], frames.failure_of(Fenced(asked.task_id, asked.attempt))))
            return
        future = self._port(flight.attempt, asked.calls)
        future.add_done_callback(lambda done: self._published(child, asked.request, done))

    def _published(self, child: RunnerProcess, request: int, done: "Future[list[str]]") -> None:
        error = done.exception()
        answer = frames.Submitted(request, [] if error else done.result(), frames.failure_of(error) if error else None)
        with self._changed:
            if child in self._children:
                child.tell(answer)
        self._watch.ring()

    def _finished(self, child: RunnerProcess, outcomes: Sequence[Outcome]) -> list[Event]:
        events: list[Event] = []
        for outcome in outcomes:
            if not child.take(outcome.number).told:
                events.append(Started(outcome.number))
            events.append(outcome)
        child.counted(outcomes, time.monotonic())
        self._staff.backoff.reset()
        return events

    def _bury(self, child: RunnerProcess) -> None:
        """The process is dead and its group is swept. First what it has said, then what its page says."""
        self._watch.forget(child)
        self._heed(child, child.drain())
        events: list[Event] = []
        with self._changed:
            planned = self._staff.leaving or (child.stage is Stage.DRAINING and not child.flights)
            planned = planned or child.overrun is not None
            if child.stage is Stage.STARTING and not planned:
                self._start_error = child.broken or f"it {child.how_it_ended} before it was ready"
            self._staff.remove(child)
            for flight in reversed(child.flights.values()):
                events += self._dead(child, flight)
            if not planned:
                self._staff.backoff.failed(time.monotonic(), by_task=any(isinstance(one, Outcome) for one in events))
            told = child.obituary(planned, self._start_error)
            child.close()
            events += self._deal()
            self._changed.notify_all()
        self._tell(events)
        self._on_event(*told)

    def _dead(self, child: RunnerProcess, flight: Flight) -> list[Event]:
        outcome = child.end_of(flight)
        if outcome is None:
            return self._returned(flight)
        return [outcome] if flight.told else [Started(outcome.number), outcome]  # C7: it is claimed anew

    def _look(self) -> None:
        """Tell the starts that the pages show, and move what waits behind held slots to a runner that is idle."""
        now = time.monotonic()
        if now - self._looked_mono < TICK_S:
            return
        self._looked_mono = now
        events: list[Event] = []
        with self._changed:
            for child in self._children:
                events += [Started(flight.attempt.number) for flight in child.newly_started()]
                child.end_overrun()
                if not self._plan.elastic:  # what runs alone holds up nobody
                    child.end_silent()
            idle = any(child.room(now) > 0 for child in self._children)
            for child in [child for child in self._children if idle and child.stuck(now)]:
                self._redeal(child, child.waiting)
            worn = self._staff.worn(now)
            for child, _ in worn:
                self._staff.replace(child)
            for child in self._staff.too_heavy(now):
                self._staff.retire(child)
                self._redeal(child, child.waiting)
        self._tell(events)
        for child, why in worn:
            self._on_event("runner_replaced", f"runner {child.pid} {why}: it is replaced")

    def _tend(self) -> None:
        """Start the children that are due; let go those that are done."""
        now = time.monotonic()
        with self._changed:
            self._staff.wanted = self._plan.wanted(self._in_hand)
            for child in self._staff.surplus(now):
                self._staff.retire(child)
            self._staff.dismiss(now)
            vacancies = self._staff.vacancies(now)
        for replaces in vacancies:
            try:
                child = self._staff.hire(replaces, now)
            except OSError as error:  # no memory, no processes, no descriptors: later, perhaps
                self._not_started(error)
                return
            with self._changed:
                self._line.write_to(child.seats)
                self._children.append(child)

    def _not_started(self, error: OSError) -> None:
        with self._changed:
            self._staff.backoff.failed(time.monotonic())
            self._start_error = str(error)
            self._changed.notify_all()
        self._on_event("runner_failed", f"a runner could not be started: {error}")

    def _make(self, now: float) -> RunnerProcess:
        return RunnerProcess(self._spawn, self._plan.slots, now, self._has_ended, self._plan.ahead_most)

    # -- any thread ----------------------------------------------------------------------------------------------------

    def _has_ended(self, child: RunnerProcess) -> None:
        self._ended.append(child)
        self._watch.ring()

    def _tell(self, events: Sequence[Event]) -> None:
        if events:
            self._sink(events)

    def await_first(self) -> None:
        """Wait until a child has imported the app. Raises SettingsError where none can."""
        with self._changed:
            self._changed.wait_for(lambda: self._served or self._start_error or self._failure, START_S)
            problem = self._staff.too_small if self._served else ""
            if self._served and not problem:
                return
        reason = self._start_error or f"none was ready after {START_S:g} s"
        problem = problem or f"the runners cannot import {self._target}: {reason}"
        raise SettingsError(problem) from self._failure

    def _leave(self) -> None:
        """End the children and the crew's thread, which has to outlive them: the kernel kills them with it."""
        self._staff.leaving = True
        self._watch.ring()
        self._thread.join(LEAVE_S)
        with self._changed:
            for child in self._children:
                child.kill()
        self._thread.join(LEAVE_S)
