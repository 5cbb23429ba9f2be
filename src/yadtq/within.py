"""The attempt that runs here: what user code's own submits find.

One invariant: a call that is submitted inside a task gets an id that depends on nothing but the task, the call and how
many like it came before. So a task that runs twice publishes the same calls under the same ids, and each runs once.
"""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING

from msgspec import msgpack, structs

from yadtq.attempt import Attempt
from yadtq.errors import NotInsideTask
from yadtq.task import Call

if TYPE_CHECKING:
    from concurrent.futures import Future

PARENT_CHARS = 150  # of the parent's id, for readers; a tree of tasks must not outgrow what an id may have
DIGEST_CHARS = 16

Port = Callable[[Attempt, Sequence[Call]], "Future[list[str]]"]

_lock = threading.Lock()  # a task's own threads may submit side by side
_in_child = False


class Running:
    """An attempt that runs, and where its submits go."""

    __slots__ = ("_alike", "_port", "attempt")

    def __init__(self, attempt: Attempt, port: Port) -> None:
        self.attempt = attempt
        self._port = port
        self._alike: Counter[bytes] | None = None  # how many of a kind; most tasks submit nothing

    def publish(self, calls: Sequence[Call]) -> "Future[list[str]]":
        """Have calls published in the name of this attempt; return a future of their ids."""
        with _lock:
            named = [self._named(call) if call.options.task_id is None else call for call in calls]
        return self._port(self.attempt, named)

    def _named(self, call: Call) -> Call:
        import hashlib  # it loads OpenSSL, and few tasks submit

        options, parent = call.options, self.attempt.task_id
        content = msgpack.encode([parent, call.task_type, options.queue, options.key, call.args, call.kwargs])
        if self._alike is None:
            self._alike = Counter()
        self._alike[content] += 1
        digest = hashlib.sha256(content + b"%d" % self._alike[content]).hexdigest()[:DIGEST_CHARS]
        named = structs.replace(options, task_id=f"{parent[:PARENT_CHARS]}.{digest}")
        return structs.replace(call, options=named)


here: ContextVar[Running | None] = ContextVar("yadtq_running", default=None)


def enter_child() -> None:
    """From here on this process has no way to Kafka and to the ledger but through its worker."""
    global _in_child
    _in_child = True


def keep_out() -> None:
    """Raise NotInsideTask in a process that must not open a client."""
    if _in_child:
        raise NotInsideTask(
            "a process that runs tasks opens no connection: submit from the task itself. "
            "A thread that it starts has to inherit its context: contextvars.copy_context().run(...)"
        )


def no_waiting() -> None:
    """Raise NotInsideTask in a task."""
    if _in_child or here.get() is not None:
        raise NotInsideTask(
            "a task cannot look at another task: where all slots wait like that, nothing runs any more. "
            "Let the other task submit what comes after it, or return its task_id and wait outside"
        )
