"""The table of events: everything a worker tells the world about itself.

One invariant: an event is told after what it tells of is true. Listeners run on the thread that tells and must be
quick; what a listener raises is logged and stops nobody.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger("yadtq")


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
    "assigned": "the group gave this worker a partition; offset is where it continues",
    "revoked": "a partition moved on; offset is what was committed",
    "lost": "a partition was taken away without notice",
    "started": "an attempt starts",
    "succeeded": "a task ended SUCCESS; told when it is final",
    "failed": "a task ended FAILED; told when it is final; detail is the last line of its error log",
    "retrying": "an attempt failed and another follows; detail says when",
    "settled": "a record arrived whose task is final already; nothing ran",
    "elsewhere": "a record's task is held by another worker that is alive; it is asked again",
    "taken_over": "a task whose worker was lost is claimed here; detail is the lost worker",
    "dead_lettered": "bytes that are no envelope went to the dead-letter topic; detail is the reason",
    "released": "a claim that had not started was given back",
    "refused": "a write of a superseded attempt was refused",
    "committed": "offsets below offset are committed",
    "commit_failed": "a commit did not succeed and will be tried again; detail is the reason",
    "reborn": "the worker had been declared DEAD and goes on under a new incarnation",
    "unavailable": "a store does not answer; detail says which and why; told once, and at most once a second",
    "available": "the store answers again",
}

Listener = Callable[[Event], None]


class Telemetry:
    """Counts events and passes them on."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._listeners: list[Listener] = []

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def tell(self, event: Event) -> None:
        """Tell an event of the table."""
        if event.kind not in EVENTS:
            raise KeyError(f"{event.kind!r} is not in the table of events")
        self.counts[event.kind] += 1
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:  # a broken listener must not stop the worker
                log.exception("a listener failed on %s", event.kind)


class Outage:
    """Tells that a store does not answer: at once, then at most once a second, and once when it answers again."""

    def __init__(self, telemetry: Telemetry, store: str) -> None:
        self._telemetry = telemetry
        self._store = store
        self._told_mono: float | None = None

    def failed(self, error: Exception) -> None:
        now = time.monotonic()
        if self._told_mono is None or now - self._told_mono >= 1.0:
            self._told_mono = now
            self._telemetry.tell(Event("unavailable", detail=f"{self._store}: {error}"))

    def over(self) -> None:
        if self._told_mono is not None:
            self._told_mono = None
            self._telemetry.tell(Event("available", detail=self._store))
