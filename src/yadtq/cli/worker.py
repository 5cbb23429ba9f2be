"""`yadtq worker module:app`: run one worker."""

import logging
import os
import signal
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from yadtq.errors import SettingsError
from yadtq.settings import GroupProtocol, Order

if TYPE_CHECKING:
    from yadtq.app import App
    from yadtq.catalogue import Catalogue
    from yadtq.runners import Runner, Sink
    from yadtq.telemetry import Event, Telemetry
    from yadtq.worker import Worker

log = logging.getLogger("yadtq")

# What somebody should look at. That a task ended FAILED is its own affair, and so is the retry of it.
WARNED = {
    "lost",
    "reborn",
    "unavailable",
    "dead_lettered",
    "overdue",
    "not_left",
    "minder_lost",
    "runner_died",
    "runner_failed",
    "isolated",
    "not_isolated",
}
SHOWN = WARNED | {
    "health",
    "recovery_bound",
    "assigned",
    "revoked",
    "failed",
    "available",
    "runner_replaced",
    "reloaded",
}


def register(app: typer.Typer) -> None:
    app.command("worker")(worker)


def worker(
    target: Annotated[
        str, typer.Argument(help="where the app is, as module:app; `module` alone: its `app`", metavar="MODULE:APP")
    ],
    name: Annotated[str | None, typer.Option(help="the worker's name, unique; default: host and process id")] = None,
    queue: Annotated[str | None, typer.Option(help="the queue it serves; default: the app's")] = None,
    runners: Annotated[int, typer.Option(help="child processes that run the tasks; 0: threads in this one", min=0)] = 2,
    concurrency: Annotated[int, typer.Option(help="tasks at a time in each runner", min=1)] = 16,
    max_tasks: Annotated[int, typer.Option(help="replace a runner after so many tasks; 0: never", min=0)] = 0,
    max_memory_mb: Annotated[int, typer.Option(help="replace a runner that holds more MiB; 0: never", min=0)] = 0,
    solo: Annotated[
        int,
        typer.Option(
            help="tasks at a time that run alone by their definition; 0: as many as there are cores",
            min=0,
            show_default="the number of cores",
        ),
    ] = 0,
    suspects: Annotated[
        int,
        typer.Option(
            help="tasks at a time that run alone since a process ended under them; 0: --concurrency, at most 32",
            min=0,
            show_default="--concurrency, at most 32",
        ),
    ] = 0,
    order: Annotated[
        Order,
        typer.Option(help="key: one task of an ordering key at a time, in their order; partition: one of a partition"),
    ] = "unordered",
    partitions: Annotated[int, typer.Option(help="partitions of the queue, if it has to be created", min=1)] = 8,
    group: Annotated[str, typer.Option(help="the Kafka consumer group")] = "workers",
    protocol: Annotated[
        GroupProtocol, typer.Option(help="the group's protocol; consumer: KIP-848, the broker decides the session")
    ] = "classic",
    grace: Annotated[float, typer.Option(help="seconds that a drain waits for what runs", min=0)] = 30.0,
    allowed: Annotated[float, typer.Option(help="seconds without a beat that mean DEAD", min=0.1)] = 10.0,
    health: Annotated[
        str, typer.Option(help="answer GET /live, /ready, /stats and /metrics here", metavar="HOST:PORT")
    ] = "",
    kafka: Annotated[str | None, typer.Option(help="Kafka's address")] = None,
    redis: Annotated[str | None, typer.Option(help="Redis's address")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="say what happens to every task")] = False,
) -> None:
    """Run the tasks of an app until Ctrl+C, which finishes what runs first; twice leaves at once."""
    from yadtq.catalogue import Catalogue, rules_of
    from yadtq.settings import WorkerSettings
    from yadtq.telemetry import EVENTS, Telemetry
    from yadtq.worker import Worker

    sizes = Sizes(runners, concurrency, max_tasks, max_memory_mb, solo or os.cpu_count() or 1, suspects)
    if not runners and (max_tasks or max_memory_mb or solo or suspects):
        caps = "--max-tasks, --max-memory-mb, --solo and --suspects"
        raise SettingsError(f"{caps} are about runners; they need --runners 1 or more")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    app = load_app(target, kafka, redis)
    name = name or f"{socket.gethostname()}-{os.getpid()}"
    telemetry = Telemetry()
    telemetry.listen(show, EVENTS if verbose else SHOWN)
    settings = WorkerSettings(
        name,
        concurrency=concurrency,
        group=group,
        group_protocol=protocol,
        grace_s=grace,
        order=order,
        health=health,
    ).allowing(allowed)
    known = Catalogue(rules_of(app.registry))  # until the runners say what they know

    def make_pool(sink: "Sink") -> "Runner":
        return start_pool(target, app, sizes, sink, telemetry, known)

    running = Worker(
        app,
        settings,
        queue=queue,
        partitions=partitions,
        telemetry=telemetry,
        make_runner=make_pool if runners else None,
        known=known if runners else None,
    )
    run(running, app, name, queue or app.name)


def run(worker: "Worker", app: "App", name: str, queue: str) -> None:
    """Run a worker until it has drained, and tell of it."""
    from yadtq.worker import drain_on_signals

    def say(text: str) -> None:
        os.write(sys.stderr.fileno(), f"{name}: {text}\n".encode())  # in a signal handler: logging holds locks

    drain_on_signals(worker, say)
    log.info("%s serves queue %s: %s", name, queue, ", ".join(app.registry.names) or "no tasks")
    log.info("Kafka %s, Redis %s", app.settings.kafka.masked, app.settings.redis.masked)
    worker.run()
    log.info("%s has left: %s", name, dict(worker.telemetry.counts))


def show(event: "Event") -> None:
    """Log an event, without the fields that do not apply to it."""
    words = [
        event.kind,
        f"partition {event.partition}" if event.partition >= 0 else "",
        f"offset {event.offset}" if event.offset >= 0 else "",
        event.task_id,
        f"attempt {event.attempt}" if event.attempt else "",
        event.detail,
    ]
    log.log(logging.WARNING if event.kind in WARNED else logging.INFO, "%s", " ".join(filter(None, words)))


@dataclass(frozen=True)
class Sizes:
    """How many processes run tasks, and how much each may do."""

    runners: int
    slots: int
    max_tasks: int
    max_memory_mb: int
    solo: int
    suspects: int = 0


def start_pool(
    target: str, app: "App", sizes: Sizes, sink: "Sink", telemetry: "Telemetry", known: "Catalogue"
) -> "Runner":
    """Start child processes for the tasks; SIGHUP replaces them, one by one, by ones with the code as it is then."""
    from yadtq.runners.pool import PoolRunner, Solo
    from yadtq.telemetry import Event

    pool = PoolRunner(
        target,
        sizes.runners,
        sizes.slots,
        sink,
        app.settings.max_result_bytes,
        on_event=lambda kind, detail: telemetry.tell(Event(kind, detail=detail)),
        max_tasks=sizes.max_tasks,
        max_memory_mb=sizes.max_memory_mb,
        on_tasks=known.learn,
        publish=app.publish_for,
        solo=Solo(sizes.solo, bool(app.registry.solo), sizes.suspects),
    )
    signal.signal(signal.SIGHUP, lambda *_: pool.replace())
    return pool


def load_app(target: str, kafka: str | None = None, redis: str | None = None) -> "App":
    """Import `module:app`, from the working folder too; addresses that are given win over all others.

    Raises:
        SettingsError: There is no such module, it cannot be imported, or there is no app in it.
    """
    from yadtq.app import App
    from yadtq.runners.loading import find, no_app
    from yadtq.settings import load

    found = find(target)
    if not isinstance(found, App):
        raise no_app(target)
    if kafka or redis:
        found.settings = load(kafka=kafka, redis=redis)
    return found
