"""What a worker has to know of tasks: their names, how they are confined, and how long they wait for a retry.

One invariant: these are plain values and change as one: a worker that its runners have told of new code goes by what
they know, and never by half of it. Which errors end a task is decided where it runs, by classes that exist only there.
"""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, Protocol

from msgspec import Struct

from yadtq.retry import RetryPolicy
from yadtq.task import Limits, Registry, Task


class Rules(Struct, frozen=True, array_like=True):
    """One task as a runner tells it."""

    name: str
    isolation: Literal["process"] | None
    time_limit_s: float | None
    base_s: float
    cap_s: float


class Entry(NamedTuple):
    """The same, ready for use."""

    limits: Limits
    retry: RetryPolicy


class Known(Protocol):
    """Tasks by name."""

    def get(self, name: str) -> "Task[..., Any] | Entry | None": ...

    def is_solo(self, name: str) -> bool:
        """Whether this task runs alone, by its definition."""

    @property
    def names(self) -> list[str]: ...


class Catalogue:
    """The tasks that a worker's runners know. Read and taught on any thread."""

    def __init__(self, rules: Iterable[Rules] = ()) -> None:
        self._entries: dict[str, Entry] = {}
        self.learn(rules)

    def learn(self, rules: Iterable[Rules]) -> None:
        """Forget what was known and go by these."""
        self._entries = {
            each.name: Entry(
                Limits(isolation=each.isolation, time_limit_s=each.time_limit_s), RetryPolicy(each.base_s, each.cap_s)
            )
            for each in rules
        }

    def get(self, name: str) -> Entry | None:
        return self._entries.get(name)

    def is_solo(self, name: str) -> bool:
        entry = self._entries.get(name)
        return entry is not None and entry.limits.solo

    @property
    def names(self) -> list[str]:
        return sorted(self._entries)


def rules_of(registry: Registry) -> list[Rules]:
    """What a worker has to know of these tasks."""
    return [
        Rules(task.name, task.limits.isolation, task.limits.time_limit_s, task.retry.base_s, task.retry.cap_s)
        for task in registry.tasks
    ]
