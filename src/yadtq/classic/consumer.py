"""`consumer.py <name> <topic>` and `guarantee_consumer.py <name> <topic>`: workers that show what they do.

One invariant: the process that fails is the one that owns the partitions, so the attempt it dies in leaves its offset
uncommitted and Kafka moves its partitions to somebody else.
"""

import argparse
import contextlib
import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence

import yadtq.classic.tasks
from yadtq.app import App
from yadtq.attempt import Attempt
from yadtq.classic.console import Console, addresses
from yadtq.run import EndWatch
from yadtq.runners import InlineRunner, Runner, Sink
from yadtq.settings import WorkerSettings
from yadtq.telemetry import Event, Telemetry
from yadtq.worker import Worker, drain_on_signals

FAILS_WITHIN_S = 0.3
EXIT_FAILED = 3

LINES: dict[str, Callable[[Event], str]] = {
    "waiting": lambda e: f"topic {e.detail} is not there yet; the producer creates it",
    "assigned": lambda e: f"partition {e.partition} assigned, continues at offset {e.offset}",
    "revoked": lambda e: f"partition {e.partition} moves to another consumer",
    "lost": lambda e: f"partition {e.partition} lost",
    "started": lambda e: f"{e.task_id} starts, attempt {e.attempt} (partition {e.partition}, offset {e.offset})",
    "succeeded": lambda e: (
        f"{e.task_id} SUCCESS after attempt {e.attempt} (partition {e.partition}, offset {e.offset})"
    ),
    "failed": lambda e: f"{e.task_id} FAILED after attempt {e.attempt}: {e.detail}",
    "retrying": lambda e: f"{e.task_id} failed in attempt {e.attempt}, again {e.detail}",
    "settled": lambda e: f"{e.task_id} was finished before, not run again",
    "elsewhere": lambda e: f"{e.task_id} is held by {e.detail}; waiting for its end or for {e.detail} to be DEAD",
    "taken_over": lambda e: f"{e.task_id} taken over from {e.detail}",
    "dead_lettered": lambda e: f"partition {e.partition} offset {e.offset} to the dead letters: {e.detail}",
    "refused": lambda e: f"{e.task_id}: too late, another attempt counts",
    "committed": lambda e: f"partition {e.partition} committed up to offset {e.offset}",
    "reborn": lambda e: f"was declared DEAD ({e.detail}), goes on as a new incarnation",
    "unavailable": lambda e: e.detail,
    "overdue": lambda e: f"{e.detail} are over; what still runs is left to another consumer",
    "not_left": lambda e: f"claims wait for the lease to end: {e.detail}",
    "available": lambda e: f"{e.detail} answers again",
}


class Doom:
    """Ends the process at a random moment while it executes its n-th task."""

    def __init__(self, after: int, console: Console) -> None:
        self._left = after
        self._lock = threading.Lock()
        self._console = console

    @contextlib.contextmanager
    def around(self, attempt: Attempt) -> Iterator[None]:
        with self._lock:
            self._left -= 1
            doomed = self._left == 0
        if doomed:
            threading.Timer(random.uniform(0, FAILS_WITHIN_S), self._fail, [attempt]).start()
        yield
        if doomed:
            threading.Event().wait()  # the outcome must not get out: the end comes first

    def _fail(self, attempt: Attempt) -> None:
        self._console.say(f"fails now, while executing {attempt.task_id}; its offset stays uncommitted")
        os._exit(EXIT_FAILED)


def main(argv: Sequence[str] | None = None, *, stand_by: bool = False) -> int:
    """Run one consumer until `end`, Ctrl+C or its failure; return the exit code."""
    args = _parser(stand_by).parse_args(argv)
    console = Console(args.name)
    app = App("tasks", settings=addresses(args), registry=yadtq.classic.tasks.app.registry)
    settings = WorkerSettings(args.name, concurrency=args.concurrency, group=args.group, order="partition")
    settings = settings.allowing(args.allowed)
    telemetry = Telemetry()
    telemetry.listen(Shown(console, stand_by))

    def make_runner(sink: Sink) -> Runner:
        around = None if args.fail_after is None else Doom(args.fail_after, console).around
        limit_bytes = app.settings.max_result_bytes
        return InlineRunner(app.registry, settings.concurrency, sink, limit_bytes, around, app.publish_for)

    worker = Worker(app, settings, queue=args.topic, telemetry=telemetry, make_runner=make_runner)
    drain_on_signals(worker, console.say)
    topic = app.layout.queue(args.topic).tasks
    watch = EndWatch(app.ledger, topic, telemetry, worker.drain, broker=app.broker, group=app.layout.group(args.group))
    watch.start()
    console.say("stand-by, ready to take over" if stand_by else "ready")
    worker.run()
    watch.stop()
    watch.join()
    console.say("the queue has ended" if watch.ended_run else "left")
    return 0


def main_stand_by() -> int:
    """Run the guarantee consumer."""
    return main(stand_by=True)


class Shown:
    """Prints the events that a reader of the console wants to see."""

    def __init__(self, console: Console, stand_by: bool) -> None:
        self._console = console
        self._stand_by = stand_by
        self._waiting: set[str] = set()

    def __call__(self, event: Event) -> None:
        if event.kind == "elsewhere":  # asked twice a second, said once
            if event.task_id in self._waiting:
                return
            self._waiting.add(event.task_id)
        if event.kind == "assigned" and self._stand_by:
            self._console.say(f"takes over partition {event.partition} at offset {event.offset}")
        elif event.kind in LINES:
            self._console.say(LINES[event.kind](event))


def _parser(stand_by: bool) -> argparse.ArgumentParser:
    what = "A stand-by consumer that never fails" if stand_by else "A consumer that fails on purpose"
    parser = argparse.ArgumentParser(description=f"{what}. Ctrl+C finishes what runs and leaves; twice leaves at once.")
    parser.add_argument("name", help="the consumer's name, unique among all that run")
    parser.add_argument("topic", help="the topic whose tasks it executes")
    parser.add_argument("--group", default="workers", help="the consumer group (default: workers)")
    parser.add_argument("--concurrency", type=_positive, default=16, help="tasks at a time, one a partition")
    parser.add_argument(
        "--allowed", type=float, default=10.0, help="seconds without a beat that mean DEAD (default: 10)"
    )
    parser.add_argument("--kafka", help="Kafka's address")
    parser.add_argument("--redis", help="Redis's address")
    parser.set_defaults(fail_after=None)
    if not stand_by:
        fails = parser.add_mutually_exclusive_group()
        when = "fail while executing the N-th task (default: a random one of the 3rd to 5th)"
        fails.add_argument("--fail-after", type=_positive, default=random.randint(3, 5), metavar="N", help=when)
        fails.add_argument("--never-fail", dest="fail_after", action="store_const", const=None, help="do not fail")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"at least 1, not {text}")
    return value
