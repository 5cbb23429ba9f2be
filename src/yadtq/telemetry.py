"""The table of events: everything a worker tells the world about itself.

One invariant: an event is told after what it tells of is true. Listeners run on the thread that tells and must be
quick; what a listener raises is logged and stops nobody.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Container
from dataclasses import dataclass

from yadtq.errors import LedgerFull

log = logging.getLogger("yadtq")
AGAIN_S = 5.0  # between two reports that a store does not answer


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. Fields that do not apply are left at their default."""

    kind: str  # a key of EVENTS
    partition: int = -1
    offset: int = -1
    task_id: str = ""
    attempt: int = 0
    detail: str = ""


EVENTS = {
    "waiting": "the queue's topic is not there yet; somebody else creates it; detail is its name",
    "health": "the worker can be asked how it is; detail is where",
    "recovery_bound": "told at the start; detail says after how long Kafka moves a killed worker's partitions",
    "assigned": "the group gave this worker a partition; offset is where it continues",
    "revoked": "a partition moves on; offset is what is committed",
    "lost": "a partition was taken away without notice; offset is what was committed",
    "started": "an attempt starts",
    "succeeded": "a task ended SUCCESS; told when it is final",
    "failed": "a task ended FAILED; told when it is final; detail is its type and the last line of its error log",
    "retrying": "an attempt failed and another follows; detail says when",
    "outcome_lost": "an attempt had ended, and its runner died before it could say how; another follows",
    "snoozed": "a task asked to be run again later; it uses up no attempt; detail says when",
    "scheduled": "a task that waits for a time was found in `Q.delayed`; detail says where",
    "fired": "the time of a task has come: its envelope is in the queue, at partition and offset",
    "unfired": "the time of a task has come that needs no run any more: it is final, or a later run is planned",
    "stale": "a record arrived whose task goes on in a later one; nothing ran",
    "resent": "a retry that may not have reached Kafka is written again",
    "handed_off": "a long task left the head of its partition: a copy at the tail carries it",
    "settled": "a record arrived whose task is final already; nothing ran",
    "elsewhere": "a record's task is held by another worker that is alive; it is asked again",
    "taken_over": "a task whose worker was lost is claimed here; detail is the lost worker",
    "dead_lettered": "bytes that are no envelope went to the dead-letter topic; detail is the reason",
    "released": "a claim that had not started was given back",
    "refused": "a write of a superseded attempt was refused",
    "committed": "offsets below offset are committed",
    "reborn": "the worker had been declared DEAD and goes on under a new incarnation",
    "waiting_for_ledger": "Redis has lost what it knew of the queue; nothing starts until Kafka's outcomes are read in",
    "rebuilt": "the outcomes were read into a new life of the ledger; detail says how many records, and how long",
    "outcomes_read": "outcomes whose records had expired were read in again; detail says how many, and how long",
    "unavailable": "a store does not answer; detail says which and why; told at once, then about every 5 s",
    "available": "the store answers again; detail is its name",
    "runner_started": "a child process is ready to run tasks",
    "runner_replaced": "a child process has run or holds too much, and another takes its place; detail says which",
    "runner_ended": "a child process ended as planned",
    "runner_died": "a child process ended by itself; what it ran, which detail names, or had not told of is charged",
    "runner_failed": "a child process could not be started; detail says why; it is tried again where one is missing",
    "reloaded": "every child process that takes tasks has the code as it was at the last SIGHUP, or newer",
    "minder_lost": "what ends the programs of runners when the worker is killed was itself ended; another follows",
    "isolated": "a task ended a process that it had for itself: its type runs alone until one comes to its end",
    "not_isolated": "without runners these tasks run neither alone nor within their time limit; detail names them",
    "overdue": "the grace time is over and something still runs; it is left to another worker",
    "not_left": "Redis could not be told that this worker left; its claims wait for the lease to end",
}

Listener = Callable[[Event], None]


class Telemetry:
    """Counts events and passes them on."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._listeners: list[tuple[Listener, Container[str]]] = []
        self._wanted: set[str] = set()
        self._lock = threading.Lock()
        self._failing: dict[str, bool] = {}  # store -> whether that was told
        self._full: set[str] = set()  # those of them that answer, and take nothing new
        self._told_mono: dict[str, float] = {}  # store -> when it was last told that it fails

    def listen(self, listener: Listener, kinds: Container[str] = EVENTS) -> None:
        """Tell a listener of these kinds of events."""
        self._listeners.append((listener, kinds))
        self._wanted |= {kind for kind in EVENTS if kind in kinds}

    def wanted(self, kind: str) -> bool:
        """Whether anybody listens to this kind; where nobody does, what happens to every task is only counted."""
        return kind in self._wanted

    def tell(self, event: Event) -> None:
        """Tell an event of the table."""
        if event.kind not in EVENTS:
            raise KeyError(f"{event.kind!r} is not in the table of events")
        self.counts[event.kind] += 1
        for listener, kinds in self._listeners:
            try:
                if event.kind in kinds:
                    listener(event)
            except Exception:  # a broken listener must not stop the worker
                log.exception("a listener failed on %s", event.kind)

    def failed(self, store: str, error: Exception | str) -> None:
        """A store did not answer: tell it at once, then every few seconds, however many threads notice.

        Also where it answers some of them and others not: else each would tell it anew.
        """
        now = time.monotonic()
        with self._lock:
            if isinstance(error, LedgerFull):
                self._full.add(store)
            due = store not in self._told_mono or now - self._told_mono[store] >= AGAIN_S
            self._failing[store] = due or self._failing.get(store, False)
            if not due:
                return
            self._told_mono[store] = now
        self.tell(Event("unavailable", detail=str(error)))

    def answered(self, store: str, *, took: bool = False) -> None:
        """A store answered: tell it if it was told that it had not.

        Args:
            took: It was brought something new. A store that is full answers everything else.
        """
        if store in self._failing and (took or store not in self._full):
            with self._lock:
                self._full.discard(store)
                told = self._failing.pop(store, False)
            if told:
                self.tell(Event("available", detail=store))

    @property
    def problems(self) -> list[str]:
        """What is wrong with the stores that did not answer, or took nothing new, when they were asked last."""
        with self._lock:
            return [f"{at} {'is full' if at in self._full else 'does not answer'}" for at in sorted(self._failing)]
