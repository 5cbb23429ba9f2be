"""`tail -n +1 -f a_tasks.txt | python3 producer.py <topic> <partitions>`: task lines to Kafka.

One invariant: a line is either published, with its delivery report, or named on the console with its number and the
reason; nothing is passed over in silence. When the process dies, start it again with the same file: ids that were
published before are skipped, and an id that slipped through runs once all the same.
"""

import argparse
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import FrameType

import msgspec

from yadtq.app import App
from yadtq.classic.console import Console, addresses
from yadtq.classic.lines import BATCH, LINE_BYTES, Line, batches
from yadtq.errors import BrokerUnavailable, LedgerUnavailable, SubmitError
from yadtq.publisher import Publisher, Sent, ensure_queue
from yadtq.run import Producing, close_if_done, unfinished, waiting
from yadtq.states import State
from yadtq.task import Call, Options
from yadtq.telemetry import Event, Telemetry

AGAIN_S = 1.0
REPORT_S = 30.0
STILL_WAITING_S = 10.0


class TaskLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a task file. A field that nobody reads is a slip of the pen, or meant something."""

    task_id: str
    task_type: str
    task_args: msgspec.Raw
    task_tries: int = 0


@dataclass
class Tally:
    """What became of the lines."""

    skipped: int = 0
    task_ids: list[str] = field(default_factory=list)  # published, in order
    seen: set[str] = field(default_factory=set)


def main(argv: Sequence[str] | None = None) -> int:
    """Publish the lines that come in until `end` or the end of the input; return the exit code."""
    args = _parser().parse_args(argv)
    console = Console("producer")
    telemetry = Telemetry()
    telemetry.listen(lambda event: _show(console, event))
    app = App("tasks", settings=addresses(args))
    signal.signal(signal.SIGTERM, _interrupt)
    producing = Producing(app.ledger, app.layout.queue(args.topic).tasks, uuid.uuid4().hex[:12], telemetry)
    producer = LineProducer(app, args.topic, app.layout.group(args.group), console, telemetry)
    try:
        producer.open(args.partitions)
        producing.open()
        producing.start()
        ended = producer.publish_all(sys.stdin.fileno())
        producing.stop()
        producing.join()
        return producer.wait_for_end(producing) if ended else producer.leave(producing)
    except KeyboardInterrupt:
        producing.stop()
        producing.beat(left=True)
        console.say(f"stopped: {producer.counts}")
        return 130


class LineProducer:
    """Lines to records, batch by batch: batches grow when lines come fast; a line that comes alone goes alone."""

    def __init__(self, app: App, topic: str, group: str, console: Console, telemetry: Telemetry) -> None:
        self._app = app
        self._topic = topic
        self._group = group
        self._console = console
        self._telemetry = telemetry
        self._tally = Tally()
        self._publisher = Publisher(app.broker, app.ledger, app.layout, app.settings.max_task_bytes, first_turn=0)

    @property
    def counts(self) -> str:
        return f"{len(self._tally.task_ids)} published, {self._tally.skipped} skipped"

    def open(self, partitions: int) -> None:
        """Create the topic, or say that it exists with another number of partitions."""
        while True:
            try:
                found = ensure_queue(self._app.broker, self._app.layout.queue(self._topic), partitions)
                break
            except BrokerUnavailable as error:
                self._telemetry.failed("Kafka", error)
                time.sleep(AGAIN_S)
        self._telemetry.answered("Kafka")
        if found != partitions:
            self._console.say(f"topic {self._topic} exists with {found} partitions, not {partitions}; {found} are used")

    def publish_all(self, lines_fd: int) -> bool:
        """Publish until `end` (True) or the end of the input (False)."""
        for batch, ended in batches(lines_fd):
            self._publish(self._usable([(line.number, self._read(line)) for line in batch]))
            if ended:
                return True
        return False

    def _read(self, line: Line) -> Call | str:
        """Return what the line asks for, or why it is skipped."""
        try:
            if line.data is None:
                raise ValueError(f"longer than {LINE_BYTES:,} bytes")
            task = msgspec.json.decode(line.data, type=TaskLine)
            if not bytes(task.task_args).startswith(b"["):
                raise ValueError("task_args is not an array")
            if task.task_tries < 0 or task.task_tries > 2**31:
                raise ValueError("task_tries is a number from 0 up")
            if not task.task_id or not task.task_type:
                raise ValueError("task_id and task_type are not empty")
            options = Options(queue=self._topic, task_id=task.task_id)
            call = Call(task.task_type, bytes(task.task_args), b"{}", options, task.task_tries)
            self._publisher.prepare(call)
        except (ValueError, msgspec.MsgspecError, RecursionError, SubmitError) as error:
            known = f"; known are {', '.join(TaskLine.__struct_fields__)}" if "unknown field" in str(error) else ""
            return f"{error}{known}"
        return call

    def _skip(self, number: int, reason: str) -> None:
        self._tally.skipped += 1
        self._console.say(f"line {number} skipped: {reason}")

    def _usable(self, read: list[tuple[int, Call | str]]) -> list[Call]:
        """Leave out what cannot be read and ids that were used before, and say so in the order of the lines."""
        used = self._used([_id_of(call) for _, call in read if isinstance(call, Call)])
        usable: list[Call] = []
        for number, call in read:
            if isinstance(call, str):
                self._skip(number, call)
                continue
            task_id = _id_of(call)
            if task_id in used:
                self._skip(number, f"the id {task_id!r} was used before")
            else:
                usable.append(call)
            used.add(task_id)
        self._tally.seen |= used
        return usable

    def _used(self, ids: list[str]) -> set[str]:
        """Return those that were used before. Without Redis that cannot be known; then the claim sees to it."""
        here = self._tally.seen.intersection(ids)
        try:
            records = self._app.ledger.records(ids)
        except LedgerUnavailable as error:
            self._console.say(f"cannot look for ids that were used before: {error}")
            return here
        return here | {task_id for task_id, record in zip(ids, records, strict=True) if record is not None}

    def _publish(self, calls: list[Call]) -> None:
        """Publish a batch; what has no report is sent again under its id until it has one."""
        while calls:
            try:
                sent = self._publisher.publish(calls)
            except BrokerUnavailable as error:
                self._telemetry.failed("Kafka", error)
                time.sleep(AGAIN_S)
                continue
            self._telemetry.answered("Kafka")
            calls = self._take(calls, sent)

    def _take(self, calls: list[Call], sent: Sent) -> list[Call]:
        """Count what was published; return what has to be sent again."""
        again: list[Call] = []
        for call, task, report in zip(calls, sent.tasks, sent.reports, strict=True):
            if report.error is None:
                self._tally.task_ids.append(task.task_id)
            elif report.refused:
                self._tally.skipped += 1
                self._console.say(f"task {task.task_id!r} skipped: Kafka refuses it: {report.error}")
            else:
                again.append(call)
        if again:
            self._console.say(f"{len(again)} task(s) without a report from Kafka, sent again under their ids")
        return again

    def leave(self, producing: Producing) -> int:
        """The input ended without `end`: the queue goes on."""
        producing.beat(left=True)
        self._console.say(f"the input is over, without `end`: {self.counts}; the queue goes on")
        return 0

    def wait_for_end(self, producing: Producing) -> int:
        """Wait until everything before `end` is done, then say how it ended."""
        self._console.say(f"end: {self.counts}; waiting until all are done")
        topic, told = self._app.layout.queue(self._topic).tasks, time.monotonic()
        while not (run := producing.beat(ended=True)).ended:
            try:
                close_if_done(self._app.ledger, self._app.broker, topic, self._group, run)
                if time.monotonic() - told > STILL_WAITING_S:
                    told = time.monotonic()
                    left = unfinished(self._app.broker, topic, self._group)
                    left += waiting(self._app.ledger, self._app.broker, topic)
                    self._console.say(f"{left} task(s) are not done yet; is a consumer running?")
                self._telemetry.answered("Kafka")
            except BrokerUnavailable as error:
                self._telemetry.failed("Kafka", error)
            except LedgerUnavailable as error:
                self._telemetry.failed("Redis", error)
            time.sleep(AGAIN_S / 2)
        self._console.say(f"the queue has ended: {self.counts}; {self._endings()}")
        return 0

    def _endings(self) -> str:
        endings: Counter[str] = Counter()
        for at in range(0, len(self._tally.task_ids), BATCH):
            for record in self._app.ledger.records(self._tally.task_ids[at : at + BATCH]):
                endings[record.shown if record is not None else "expired"] += 1
        shown = {State.SUCCESS: 0, State.FAILED: 0, **endings}
        return ", ".join(f"{count} {state}" for state, count in shown.items())


def _id_of(call: Call) -> str:
    return call.options.task_id or ""


def _show(console: Console, event: Event) -> None:
    if event.kind in ("unavailable", "available"):
        console.say(f"{event.detail}; trying again" if event.kind == "unavailable" else f"{event.detail} answers again")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _partitions(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1000):
        raise argparse.ArgumentTypeError(f"a number from 1 to 1000, not {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Publish task lines from the input, round-robin over partitions. The line `end` ends the queue.",
        epilog="tail -n +1 -f a_tasks.txt | python3 producer.py tasks 3  (tail -f alone begins with the last 10 lines)",
    )
    parser.add_argument("topic", help="where the tasks go; created if it is missing")
    parser.add_argument("partitions", type=_partitions, help="1 to 1000")
    parser.add_argument("--group", default="workers", help="the consumer group that `end` waits for (default: workers)")
    parser.add_argument("--kafka", help="Kafka's address")
    parser.add_argument("--redis", help="Redis's address")
    return parser
