"""`monitor_heartbeat.py`: prints ALIVE and DEAD as they change, until the queue ends or Ctrl+C."""

import argparse
import signal
import threading
from collections.abc import Sequence

from yadtq.app import App
from yadtq.classic.console import Console, addresses
from yadtq.ledger import WorkerRecord
from yadtq.monitor import Monitor
from yadtq.run import EndWatch
from yadtq.telemetry import Event, Telemetry


def main(argv: Sequence[str] | None = None) -> int:
    """Watch the heartbeats; return the exit code."""
    args = _parser().parse_args(argv)
    console = Console("monitor")
    app = App("tasks", settings=addresses(args))
    telemetry = Telemetry()
    telemetry.listen(lambda event: _show(console, event))
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    topic = None if args.topic is None else app.layout.queue(args.topic).tasks
    services = [
        Monitor(
            app.ledger, args.allowed, telemetry, lambda worker: console.say(_line(worker, args.allowed)), topic=topic
        ),
        EndWatch(app.ledger, topic, telemetry, over.set),
    ]
    for service in services:
        service.watchers.append(over.set)  # a monitor with a part missing must not look as if all were well
        service.start()
    over.wait()
    for service in services:
        service.stop()
        service.join()
        if service.failure is not None:
            raise service.failure
    console.say("done")
    return 0


def _line(worker: WorkerRecord, allowed_s: float) -> str:
    age = f"last beat {worker.age_ms / 1000:.1f} s ago"
    if worker.status == "ALIVE":
        return f"{worker.name} is ALIVE ({age}, on {worker.host})"
    if worker.left:
        return f"{worker.name} is DEAD (it left, {age})"
    return f"{worker.name} is DEAD ({age}, allowed are {allowed_s:g} s)"


def _show(console: Console, event: Event) -> None:
    console.say(f"{event.detail} answers again" if event.kind == "available" else event.detail)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Print which workers are ALIVE and which are DEAD, as it changes.")
    parser.add_argument(
        "--allowed", type=_seconds, default=10.0, help="seconds without a beat that mean DEAD (default: 10)"
    )
    parser.add_argument(
        "--topic", help="show its workers only, and leave when its queue ends (default: all workers, and all queues)"
    )
    parser.add_argument("--kafka", help="Kafka's address")
    parser.add_argument("--redis", help="Redis's address")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 86_400:
        raise argparse.ArgumentTypeError(f"between 0 and 86400 seconds, not {text}")
    return value
