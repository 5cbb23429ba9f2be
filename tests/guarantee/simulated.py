"""A worker of production parts whose runner processes are played: they start, end, die and keep quiet as told."""

import random
from collections.abc import Callable, Sequence

from books import Books
from obedient import Leased
from ports import Faults, ToGroup, ToKafka, ToLedger
from stage import DELAYED_GROUP, Player, Stage

from yadtq.attempt import Attempt, Ending, Outcome, Place, Recalled, Started
from yadtq.errors import Superseded
from yadtq.ledger.memory import MemoryLedger
from yadtq.runners import Sink
from yadtq.service import Clock
from yadtq.settings import Order

Script = Callable[[Attempt], Outcome]  # how this run of user code ends; DIED takes its process with it
AHEAD = 3  # attempts that a process holds beyond its slots


class Process:
    """One runner process: what it holds, and what it has not told yet."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.waiting: dict[int, Attempt] = {}
        self.running: dict[int, Attempt] = {}
        self.unsent: list[tuple[Attempt, Outcome]] = []

    @property
    def held(self) -> int:
        return len(self.waiting) + len(self.running) + len(self.unsent)


class Crowd(Leased):
    """The runner port over several played processes, and places for tasks that run alone."""

    def __init__(self, sink: Sink, processes: int, slots: int, solo_slots: int) -> None:
        super().__init__()
        self.isolates = solo_slots > 0
        self.processes = [Process(slots) for _ in range(processes)]
        self.alone: dict[Place, list[Process]] = {
            "solo": [Process(1) for _ in range(solo_slots)],
            "suspect": [Process(1) for _ in range(slots)],
        }
        self.on_start: Callable[[Attempt], None] = lambda _: None
        self.on_death: Callable[[list[Attempt]], None] = lambda _: None
        self._sink = sink

    def room(self, place: Place = "shared") -> int:
        if place == "shared":
            return sum(max(process.slots + AHEAD - process.held, 0) for process in self.processes)
        return sum(process.held == 0 for process in self.alone[place]) if self.isolates else 0

    def start(self, attempts: Sequence[Attempt]) -> None:
        for attempt in attempts:
            group = self.alone.get(attempt.place, self.processes) if self.isolates else self.processes
            least = min(group, key=lambda process: process.held)
            least.waiting[attempt.number] = attempt

    def recall(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            if any(process.waiting.pop(number, None) for process in self.everybody):
                self._sink([Recalled(number)])

    def close(self, timeout_s: float) -> bool:
        return not any(process.held for process in self.everybody)

    @property
    def everybody(self) -> list[Process]:
        return [*self.processes, *self.alone["solo"], *self.alone["suspect"]]

    @property
    def busy(self) -> bool:
        return any(process.held for process in self.everybody)

    def move(self, dice: random.Random, script: Script) -> None:
        """Some of what waits starts, some of what runs ends, some of what has ended is told."""
        for process in self.everybody:
            for attempt in list(process.waiting.values()):
                if len(process.running) < process.slots and dice.random() < 0.8:
                    self.begin(process, attempt)
            for attempt in list(process.running.values()):
                if attempt.number in process.running and dice.random() < 0.4:
                    self.end(process, attempt, script(attempt))
            if process.unsent and dice.random() < 0.8:
                self.tell(process)

    def begin(self, process: Process, attempt: Attempt) -> None:
        del process.waiting[attempt.number]
        if not self.allows(attempt):
            self._sink([Recalled(attempt.number)])
            return
        process.running[attempt.number] = attempt
        self.on_start(attempt)
        self._sink([Started(attempt.number)])

    def end(self, process: Process, attempt: Attempt, outcome: Outcome) -> None:
        if outcome.ending is Ending.DIED:
            self.kill_process(process, str(outcome.error_log))
        else:
            del process.running[attempt.number]
            process.unsent.append((attempt, outcome))

    def tell(self, process: Process) -> None:
        told, process.unsent = process.unsent, []
        self._sink([outcome for _, outcome in told])

    def kill_process(self, process: Process, why: str = "was ended by SIGKILL") -> int:
        """What ran, or had ended untold, is charged with a death and claimed anew; what had only been given goes to
        another process."""
        running, waiting = list(process.running.values()), list(process.waiting.values())
        untold = [attempt for attempt, _ in process.unsent]
        process.running, process.waiting, process.unsent = {}, {}, []
        self.on_death(running + untold)
        log = f"its runner {why}"
        self._sink([Outcome(a.number, Ending.DIED, 1, 2, error_log=log) for a in running])
        self._sink([Outcome(a.number, Ending.LOST, 1, 2, error_log=log) for a in untold])
        self.start(waiting)
        return len(running)


class Actor(Player):
    """One worker of the storm. It moves only when it is told to, and not at all while it stands still."""

    runner: Crowd  # type: ignore[assignment]

    def __init__(
        self, stage: Stage, name: str, books: Books, *, order: Order = "unordered", faults: Faults | None = None,
        processes: int = 2, slots: int = 2,
    ) -> None:  # fmt: skip
        self.name = name
        self.books = books
        self.faults = faults or Faults()
        self.gone = False
        self.still_until_ms = 0
        self.suspended = False  # its runner processes stand still with it
        self.leaving = False
        self.order = order
        self.superseded = False
        self._processes = processes
        self._doubt = False  # the lease may be over: what runs may run again elsewhere
        self._beat_ms = 0
        super().__init__(stage, name, slots, order, solo_slots=2)
        self.member = self.consumer
        self.timing = stage.broker.consumer(stage.topics.delayed, DELAYED_GROUP, self.scheduler, 10_000)
        self.consumer = ToGroup(self.member, self.intake, self.faults)  # type: ignore[assignment]

    def make_ledger(self) -> MemoryLedger:
        return ToLedger(self.stage.ledger, self.books, self.faults)  # type: ignore[return-value]

    def make_producer(self) -> ToKafka:
        return ToKafka(self.stage.broker, self.stage.topics, self.faults)

    def make_runner(self, sink: Sink, slots: int, solo_slots: int) -> Crowd:  # type: ignore[override]
        crowd = Crowd(sink, self._processes, slots, solo_slots)
        crowd.on_start = self._started
        crowd.on_death = self.books.excuse
        return crowd

    def _started(self, attempt: Attempt) -> None:
        self.books.started(self.name, attempt, in_order=self.order == "key")

    @property
    def stands_still(self) -> bool:
        return self.stage.clock.now_ms() < self.still_until_ms

    def watch_lease(self) -> None:
        """From the moment its lease may be over, what runs in a worker may run again elsewhere."""
        doubt = not self.identity.alive
        if doubt and not self._doubt:
            self.books.fault_over(self.name)
        self._doubt = doubt

    def poll(self) -> None:
        self.intake.turn(self.consumer)

    def think(self) -> None:
        self.engine.step(0.0)

    def beat(self) -> None:
        """As its thread does: when it is time, and again at once where the answer says so."""
        clock: Clock = self.stage.clock
        try:
            while clock.now_ms() >= self._beat_ms:
                self._beat_ms = clock.now_ms() + int(self.heartbeat.turn() * 1000)
        except Superseded:
            self.superseded = True

    def wait_for_times(self) -> None:
        self.scheduler.turn(self.timing)

    def rebuild(self) -> None:
        """As its thread does, when it is woken."""
        if self.woken:
            self.woken = not self.rebuilder.turn()

    def leave(self) -> None:
        """The end of a drained worker."""
        self.consumer.close()
        self.timing.close()
        self.stage.ledger.leave(self.name, self.identity.incarnation)
        self.gone = True

    def die(self) -> None:
        """The process is killed. Its runners end with it; the group hears of it when its session is over."""
        self.books.fault_over(self.name)
        self.gone = True

    def session_over(self) -> None:
        """The groups go on without it, where it is gone or still says nothing."""
        for member in (self.member, self.timing):
            members = self.stage.broker.members[member.topic, member.group]
            if member in members and self.gone:
                members.remove(member)
                member.positions.clear()
            elif member in members and self.stands_still:
                member.expel()
