"""The front door: an app has tasks, publishes calls of them and looks up their ends.

One invariant: `publish` returns only what Kafka has acknowledged; everything else raises. Redis is not on that path:
when it is down the view is late, the submit is not. When the process dies, what was acknowledged is in Kafka.

The clients of Kafka and Redis, and what publishes and waits, are loaded at the first use: a child process that only
runs tasks needs none of them.
"""

import contextlib
import threading
from collections.abc import Callable, Coroutine, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, TypeVar, overload

import msgspec

from yadtq import within
from yadtq.attempt import Attempt
from yadtq.errors import Fenced, LedgerUnavailable, NotFound
from yadtq.handle import Handle, Settled
from yadtq.layout import DEFAULT_PARTITIONS, Layout
from yadtq.retry import DEFAULT, RetryPolicy
from yadtq.states import State
from yadtq.task import Call, Limits, Options, Registry, Task

if TYPE_CHECKING:
    from concurrent.futures import Future

    from yadtq.broker import Broker
    from yadtq.ledger import Ledger
    from yadtq.publisher import Publisher
    from yadtq.settings import Settings
    from yadtq.waiter import Waiter

P = ParamSpec("P")
R = TypeVar("R")


class TaskDecorator(Protocol):
    """What `@app.task(...)` returns."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class App:
    """A set of tasks and the queue they are published to.

    Args:
        name: The queue of tasks that name none.
        kafka: `host:port` or a `kafka...://` URL; found by the settings' order where left out.
        redis: `host:port` or a `redis...://` URL; likewise.
        settings: Everything at once, instead of the two.
        broker: A broker of your own, such as the memory broker.
        ledger: A ledger of your own, such as the memory ledger.
        registry: The tasks of another app, to be served with other settings.
    """

    def __init__(
        self,
        name: str = "default",
        *,
        kafka: str | None = None,
        redis: str | None = None,
        settings: "Settings | None" = None,
        broker: "Broker | None" = None,
        ledger: "Ledger | None" = None,
        registry: Registry | None = None,
    ) -> None:
        Layout().queue(name)
        self.name = name
        self.registry = registry or Registry()
        self._addresses = kafka, redis
        self._own_settings = settings
        self._own_broker, self._own_ledger = broker, ledger
        self._lock = threading.RLock()

    @cached_property
    def settings(self) -> "Settings":
        """The settings, read once at the first use."""
        from yadtq.settings import load

        kafka, redis = self._addresses
        return self._own_settings or load(kafka=kafka, redis=redis)

    @cached_property
    def layout(self) -> Layout:
        return Layout(self.settings.prefix)

    @cached_property
    def broker(self) -> "Broker":
        within.keep_out()
        from yadtq.broker import connect

        return self._own_broker or connect(self.settings)

    @cached_property
    def ledger(self) -> "Ledger":
        within.keep_out()
        from yadtq.ledger import connect

        return self._own_ledger or connect(self.settings)

    @cached_property
    def _publisher(self) -> "Publisher":
        from yadtq.publisher import Publisher

        return Publisher(self.broker, self.ledger, self.layout, self.settings.max_task_bytes)

    @cached_property
    def _waiter(self) -> "Waiter":
        from yadtq.waiter import Waiter

        return Waiter(self.ledger, self._publisher.unrecorded)

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]]) -> Task[P, R]: ...

    @overload
    def task(self, function: Callable[P, R]) -> Task[P, R]: ...

    @overload
    def task(
        self,
        *,
        name: str | None = None,
        queue: str | None = None,
        max_attempts: int = 3,
        isolation: Literal["process"] | None = None,
        time_limit_s: float | None = None,
        retry: RetryPolicy = DEFAULT,
    ) -> TaskDecorator: ...

    def task(
        self,
        function: Callable[..., Any] | None = None,
        *,
        name: str | None = None,
        queue: str | None = None,
        max_attempts: int = 3,
        isolation: Literal["process"] | None = None,
        time_limit_s: float | None = None,
        retry: RetryPolicy = DEFAULT,
    ) -> Any:
        """Register a function as a task: `@app.task`, or `@app.task(name=..., queue=..., max_attempts=...)`.

        Args:
            name: What it is called on Kafka; the function's name where left out.
            queue: Where it is published; the app's name where left out.
            max_attempts: How many failures of the code end it; at least 1.
            isolation: `process`: it runs alone in its process. For what is busy with the processor for long, leaks, or
                may crash: it cannot take others with it. `yadtq worker --solo` says how many run at a time.
            time_limit_s: It runs alone, and its process is killed after so many seconds; that counts as a failure. No
                code can hold it up, and none can clean up either: what it wrote halfway stays.
            retry: How long to wait between attempts, and which errors are not tried again.

        Raises:
            InvalidTask: The name is taken, the annotations cannot be used, or an option is none of its values.
        """

        def register(function: Callable[..., Any]) -> Task[..., Any]:
            options = Options(queue=queue or self.name, max_attempts=max_attempts)
            limits = Limits(isolation=isolation, time_limit_s=time_limit_s)
            made: Task[..., Any] = Task(function, name or function.__name__, options, self, limits, retry)
            self.registry.add(made)
            return made

        return register if function is None else register(function)

    def handle(self, task_id: str) -> Handle[Any]:
        """Return a handle on a task that was submitted anywhere; unknown ids raise NotFound when it is used."""
        return Handle(task_id, self, msgspec.json.decode)

    def publish(self, calls: Sequence[Call], read: Callable[[bytes], R]) -> list[Handle[R]]:
        """Publish calls and wait for Kafka's reports. `Task.submit` is the road here.

        Inside a task the worker publishes them, in the name of the attempt that runs.
        """
        running = within.here.get()
        ids = self._publish(calls) if running is None else running.publish(calls).result()
        return [Handle(task_id, self, read) for task_id in ids]

    def _publish(self, calls: Sequence[Call]) -> list[str]:
        sent = self._ready().publish(calls)
        sent.check()
        return sent.task_ids

    def publish_for(self, attempt: Attempt, calls: Sequence[Call]) -> list[str]:
        """Publish what a task submits; return the ids. For the worker that runs the attempt.

        Raises:
            Fenced: The ledger has another attempt as the present one. Where it does not answer, or has lost what it
                knew, the calls are published: under their ids they run once, whoever submits them.
        """
        with contextlib.suppress(LedgerUnavailable):
            record = self.ledger.records([attempt.task_id])[0]
            if record and (record.fence != attempt.fence or record.status is not State.PROCESSING):
                raise Fenced(attempt.task_id, attempt.attempt)
        return self._publish(calls)

    async def publish_async(self, calls: Sequence[Call], read: Callable[[bytes], R]) -> list[Handle[R]]:
        """Publish like `publish`; no call in here blocks the loop, and no thread is held while Kafka works."""
        import asyncio  # whoever awaits has loaded it

        if (running := within.here.get()) is not None:
            ids = await asyncio.wrap_future(running.publish(calls))
            return [Handle(task_id, self, read) for task_id in ids]
        sent = await asyncio.to_thread(lambda: self._ready().begin(calls))
        await asyncio.wait([asyncio.wrap_future(sent.done)])
        sent.check()
        return [Handle(task_id, self, read) for task_id in sent.task_ids]

    def _ready(self) -> "Publisher":
        with self._lock:  # two threads at the first submit must not make two producers
            return self._publisher

    def status(self, task_id: str) -> State:
        """Return the state of a task. Raises NotFound, LedgerUnavailable, and NotInsideTask in a task."""
        within.no_waiting()
        record = self.ledger.records([task_id])[0]
        if record is None and task_id not in self._ready().unrecorded:
            raise NotFound(task_id)
        return record.shown if record is not None else State.QUEUED

    def settled(self, task_id: str) -> "Future[Settled]":
        """Return a future of the end of a task; NotFound where no task has this id. Raises NotInsideTask in a task."""
        within.no_waiting()
        self._ready()
        with self._lock:
            return self._waiter.wait_for(task_id)

    def ensure_queue(self, name: str, partitions: int = DEFAULT_PARTITIONS) -> int:
        """Create the topics of a queue where they are missing; return the number of partitions it really has."""
        from yadtq.publisher import ensure_queue

        return ensure_queue(self.broker, self.layout.queue(name), partitions)

    def close(self) -> None:
        """Close what was opened. Submits that returned are safe already."""
        if "_waiter" in self.__dict__:
            self._waiter.close()
        if "_publisher" in self.__dict__:
            self._publisher.close()
        for port in ("broker", "ledger"):
            if port in self.__dict__:
                getattr(self, port).close()
