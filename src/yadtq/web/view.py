"""What the pages and the JSON show: the read model, with what runs right now laid over it from the ledger.

One invariant: nothing in here fails because a store is down. What cannot be known is None, and `notices` says why.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from yadtq.app import App
from yadtq.errors import Unavailable
from yadtq.layout import Layout
from yadtq.ledger import TaskRecord, WorkerRecord
from yadtq.offsets import lag
from yadtq.states import State
from yadtq.web.asker import Asker
from yadtq.web.changes import Changes
from yadtq.web.indexer import Indexer
from yadtq.web.listing import TOP, Count, Cursor, Filter, Listing, Row

HEAD = 200  # tasks at the head of each partition that are asked after: what runs is among them
ROUNDS = 5  # a page of QUEUED is filled up so many times when its tasks turn out to run already
CATCH_UP_S = 2.0
LEFT_S = 300.0  # a worker that left is shown for so long; one that crashed for as long as the ledger knows it
MANY_BEHIND = 1_000
EVERYTHING = Filter()
WAITING = (State.SCHEDULED, State.QUEUED)  # what failed before shows why


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list. next_cursor: None where nothing follows."""

    items: list[Row]
    next_cursor: Cursor | None


@dataclass(frozen=True, slots=True)
class PartitionView:
    """One partition of a queue. None where Kafka does not answer."""

    partition: int
    committed_offset: int | None  # None too where nothing was committed yet
    end_offset: int | None
    lag: int | None  # records that no consumer has finished
    worker: str | None


@dataclass(frozen=True, slots=True)
class QueueView:
    """One queue."""

    name: str
    counts: dict[str, int | None]  # by status; None where Redis does not answer
    lag: int | None
    dead_letters: int
    undecodable: int
    partitions: list[PartitionView]


class View:
    """Everything that is shown, asked of whoever knows it."""

    def __init__(self, app: App, listing: Listing, indexer: Indexer, changes: Changes, group: str) -> None:
        self._group = app.layout.group(group)
        self._app = app
        self._layout = app.layout
        self._listing = listing
        self._indexer = indexer
        self._changes = changes
        self._ledger = Asker("Redis")
        self._broker = Asker("Kafka")

    @property
    def behind(self) -> int | None:
        return self._indexer.behind

    @property
    def notices(self) -> list[str]:
        """Why what is shown may be old or not all, in words for people."""
        notices = []
        if self._indexer.problem or self._broker.problem:
            problem = self._indexer.problem or self._broker.problem
            notices.append(f"Kafka: {problem}. The lists are as they were before.")
        if self._ledger.problem:
            notices.append(f"{self._ledger.problem}: running tasks and workers are not shown.")
        if (self.behind or 0) > MANY_BEHIND:
            notices.append(f"The lists are {self.behind:,} records behind Kafka and catch up.")
        return notices

    @property
    def troubles(self) -> int:
        """Grows whenever a store stops or begins to answer, whichever page or stream notices."""
        return self._ledger.turns + self._broker.turns

    async def page(self, wanted: Filter, after: Cursor = TOP, most: int = 50) -> Page:
        """Return the newest tasks behind the cursor."""
        if wanted.status is State.PROCESSING:
            return _cut(await self.running(wanted), after, most)
        rows: list[Row] = []
        for _ in range(ROUNDS):
            found = await asyncio.to_thread(self._listing.newest, wanted, after, most + 1)
            more = len(found) > most
            rows += [row for row in await self._over(found[:most]) if wanted.takes(row)]
            after = _place(found[most - 1]) if more else TOP
            if not more or len(rows) >= most:
                break
        # A round that was not needed in full is cut, and the next page begins behind what is shown.
        return Page(rows, after if more else None) if len(rows) <= most else Page(rows[:most], _place(rows[most - 1]))

    async def running(self, wanted: Filter = EVERYTHING) -> list[Row]:
        """Return what runs now, newest first."""
        waiting = await asyncio.to_thread(self._listing.waiting, HEAD)
        rows = [row for row in await self._over(waiting) if row.status is State.PROCESSING and wanted.takes(row)]
        return sorted(rows, key=lambda row: (row.queued_at_ms or 0, row.task_id), reverse=True)

    async def _over(self, rows: Sequence[Row]) -> list[Row]:
        """Lay the ledger over what has no outcome yet."""
        open_ids = [row.task_id for row in rows if not row.final]
        records = await self._records(open_ids)
        return [_laid_over(row, records.get(row.task_id)) for row in rows]

    async def _records(self, task_ids: Sequence[str]) -> dict[str, TaskRecord]:
        if not task_ids:
            return {}
        try:
            found = await self._ledger.ask(lambda: self._app.ledger.records(task_ids))
        except Unavailable:  # `notices` says it
            return {}
        return {record.task_id: record for record in found if record is not None}

    async def task(self, task_id: str) -> Row | None:
        """Return one task. Waits a moment for the read model where the ledger knows that it is late."""
        record = (await self._records([task_id])).get(task_id)
        if record is not None and record.topic:
            await self._catch_up(record)
        row = await asyncio.to_thread(self._listing.one, task_id)
        if row is None:
            return _from_ledger(record, self._layout) if record else None
        return _laid_over(row, record)

    async def replays(self, task_id: str) -> list[str]:
        """Return the tasks that this one was replayed as, the newest first."""
        return await asyncio.to_thread(self._listing.replays, task_id)

    async def _catch_up(self, record: TaskRecord) -> None:
        deadline = time.monotonic() + CATCH_UP_S
        self._indexer.look_for(record.topic)
        while (left_s := deadline - time.monotonic()) > 0:
            seen = self._changes.number
            if self._indexer.passed(record.topic, record.partition, record.offset):
                return
            await self._changes.wait(seen, left_s)

    async def counts(self) -> list[Count]:
        """Return the read model's counts: a task is QUEUED or SCHEDULED in there until it has an outcome."""
        return await asyncio.to_thread(self._listing.counts)

    async def overview(self) -> tuple[dict[str, int | None], list[Row]]:
        """Return how many tasks are in each state, and what runs now."""
        running = await self.running()
        return self._totals(await self.counts(), running), running

    def _totals(self, counts: Sequence[Count], running: Sequence[Row]) -> dict[str, int | None]:
        sums: Counter[str] = Counter()
        for count in counts:
            sums[count.status] += count.tasks
        waiting = sums[State.QUEUED]
        known = not self._ledger.problem
        return {
            State.SCHEDULED: sums[State.SCHEDULED],
            State.QUEUED: max(waiting - len(running), 0),
            State.PROCESSING: len(running) if known else None,
            State.SUCCESS: sums[State.SUCCESS],
            State.FAILED: sums[State.FAILED],
        }

    async def workers(self) -> list[WorkerRecord]:
        """Return the living, then those that crashed, then those that left; none where Redis does not answer."""
        try:
            found = await self._ledger.ask(self._app.ledger.workers)
        except Unavailable:  # `notices` says it
            return []
        shown = [worker for worker in found if not (worker.left and worker.age_ms > LEFT_S * 1000)]
        return sorted(shown, key=lambda worker: (worker.status != "ALIVE", worker.left, worker.name))

    async def workers_seen(self) -> list[tuple[object, ...]]:
        """Return what of the workers makes a page look different."""
        return [(at.name, at.status, at.left, at.last_heartbeat_ms, at.partitions) for at in await self.workers()]

    async def queues(self) -> list[QueueView]:
        """Return every queue with its partitions."""
        counts = await self.counts()
        running = await self.running()
        workers = await self.workers()
        oddities = await asyncio.to_thread(self._listing.oddities)
        views = []
        for queue in self._indexer.queues:
            partitions = await self._partitions(self._layout.queue(queue).tasks, workers)
            lags = [at.lag for at in partitions]
            mine = [count for count in counts if count.queue == queue]
            totals = self._totals(mine, [row for row in running if row.queue == queue])
            behind = None if None in lags else sum(at or 0 for at in lags)
            dead, odd = (oddities.get((queue, what), 0) for what in ("dead", "undecodable"))
            views.append(QueueView(queue, totals, behind, dead, odd, partitions))
        return views

    async def _partitions(self, topic: str, workers: Sequence[WorkerRecord]) -> list[PartitionView]:
        owners = {
            partition: worker.name
            for worker in workers
            if worker.topic == topic and worker.status == "ALIVE"
            for partition in worker.partitions
        }
        try:
            ends = await self._broker.ask(lambda: self._app.broker.end_offsets(topic))
            committed = await self._broker.ask(lambda: self._app.broker.committed(topic, self._group))
        except Unavailable:  # `notices` says it
            return [PartitionView(at, None, None, None, owners.get(at)) for at in self._indexer.partitions(topic)]
        views = []
        for where, (first, end) in sorted(ends.items()):
            position = committed.get(where)
            offset, owner = position.offset if position else None, owners.get(where.partition)
            views.append(PartitionView(where.partition, offset, end, lag(first, end, position), owner))
        return views


def _cut(rows: Sequence[Row], after: Cursor, most: int) -> Page:
    place = (after.queued_at_ms, after.task_id)
    left = [row for row in rows if (row.queued_at_ms or 0, row.task_id) < place]
    return Page(left[:most], _place(left[most - 1]) if len(left) > most else None)


def _place(row: Row) -> Cursor:
    return Cursor(row.queued_at_ms or 0, row.task_id)


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8", "replace")


def _laid_over(row: Row, record: TaskRecord | None) -> Row:
    """The read model's outcome is the last word; before it the ledger knows more."""
    if row.final or record is None:
        return row
    return replace(
        row,
        status=record.shown,
        attempts=max(record.attempts, row.attempts),
        worker=record.worker,
        started_at_ms=record.started_at_ms,
        finished_at_ms=record.finished_at_ms if record.final else None,
        result=_text(record.result) if record.final else None,
        error_log=record.error_log if record.final or record.shown in WAITING else None,
    )


def _from_ledger(record: TaskRecord, layout: Layout) -> Row:
    """A task that the read model has not: its arguments are on Kafka only."""
    row = Row(
        task_id=record.task_id,
        task_type=record.task_type,
        queue=record.topic.removeprefix(layout.prefix),
        status=State.QUEUED,
        queued_at_ms=record.queued_at_ms,
        task_args=None,
        task_kwargs=None,
        attempts=record.attempts,
        worker=None,
        result=None,
        error_log=None,
        started_at_ms=None,
        finished_at_ms=None,
        topic=record.topic or None,
        partition=record.partition if record.topic and record.partition >= 0 else None,
        offset=record.offset if record.topic and record.offset >= 0 else None,
    )
    return _laid_over(row, record)
