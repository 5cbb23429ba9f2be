"""What submit returns: a handle on one task, to wait on from a thread or a coroutine.

One invariant: a handle holds nothing but an id, so it can be made anew in any process from the id alone.
"""

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from msgspec import Struct

from yadtq.errors import ResultTimeout, TaskFailed
from yadtq.states import State

if TYPE_CHECKING:
    from concurrent.futures import Future

R = TypeVar("R")


class Settled(Struct, frozen=True):
    """The end of a task, as the ledger has it."""

    state: State
    attempts: int  # starts of user code
    result: bytes | None  # JSON, with SUCCESS
    error_log: str | None  # with FAILED


class Lookup(Protocol):
    """Where a handle looks."""

    def status(self, task_id: str) -> State:
        """Return the state, or raise NotFound or LedgerUnavailable."""

    def settled(self, task_id: str) -> "Future[Settled]":
        """Return a future of the end; it raises NotFound where no task has this id."""


class Handle(Generic[R]):
    """One submitted task."""

    __slots__ = ("_lookup", "_read", "task_id")

    def __init__(self, task_id: str, lookup: Lookup, read: Callable[[bytes], R]) -> None:
        self.task_id = task_id
        self._lookup = lookup
        self._read = read

    def status(self) -> State:
        """Return where the task stands now.

        Raises:
            NotFound: No task has this id.
            LedgerUnavailable: Redis does not answer.
        """
        return self._lookup.status(self.task_id)

    def result(self, timeout_s: float | None = None) -> R:
        """Wait for the end and return the result.

        Args:
            timeout_s: How long to wait; for ever if left out.

        Raises:
            TaskFailed: The task ended FAILED; `error_log` and `attempts` are on the error.
            ResultTimeout: Not final in time. The task goes on.
            NotFound: No task has this id.
            InvalidResult: The result is not of the type that the task's signature names.
        """
        future = self._lookup.settled(self.task_id)
        try:
            return self._unpack(future.result(timeout_s))
        except TimeoutError:
            if future.done():
                raise
            future.cancel()
            raise ResultTimeout(self.task_id, timeout_s or 0.0) from None

    def __await__(self) -> Generator[Any, None, R]:
        """Wait without blocking the event loop; raises what `result` raises, but for ResultTimeout."""
        return self._wait().__await__()

    async def _wait(self) -> R:
        import asyncio  # whoever awaits has loaded it

        return self._unpack(await asyncio.wrap_future(self._lookup.settled(self.task_id)))

    def _unpack(self, end: Settled) -> R:
        if end.state is State.SUCCESS:
            return self._read(end.result or b"null")
        raise TaskFailed(self.task_id, end.attempts, end.error_log or "no error log was recorded")

    def __repr__(self) -> str:
        return f"Handle({self.task_id!r})"
