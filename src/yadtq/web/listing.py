"""What the read model is asked: lists with filters, one task, counts.

One invariant: a page is read in one transaction, and a cursor names a place in the order (time of queueing, task id),
so that no row is shown twice or left out because others arrive.
"""

import base64
import heapq
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from yadtq.states import FINAL, State
from yadtq.web.readmodel import LATEST_MS, ReadModel

COLUMNS = """task_id, task_type, queue, status, queued_at_ms, task_args, task_kwargs, attempts, worker, result,
    error_log, started_at_ms, finished_at_ms, topic, partition, offset, not_before_ms, replay_of"""
_ROWS = f"SELECT {COLUMNS} FROM tasks JOIN kinds ON kinds.id = tasks.kind"
_OF_KIND = """
    SELECT queued_at_ms, task_id FROM tasks WHERE kind = ? AND status = ? AND (queued_at_ms, task_id) < (?, ?)
    ORDER BY queued_at_ms DESC, task_id DESC LIMIT ?"""
_COUNTS = "SELECT kind, queue, task_type, status, tasks FROM counts JOIN kinds ON kinds.id = kind WHERE tasks > 0"
_WAITING = _ROWS + " WHERE status = 'QUEUED' AND topic = ? AND partition = ? ORDER BY offset LIMIT ?"


@dataclass(frozen=True, slots=True)
class Row:
    """One task as a list shows it. None where unknown."""

    task_id: str
    task_type: str
    queue: str
    status: State
    queued_at_ms: int | None
    task_args: str | None  # JSON array
    task_kwargs: str | None  # JSON object
    attempts: int
    worker: str | None
    result: str | None  # JSON
    error_log: str | None
    started_at_ms: int | None
    finished_at_ms: int | None
    topic: str | None
    partition: int | None
    offset: int | None
    not_before_ms: int | None = None  # with SCHEDULED
    replay_of: str | None = None  # the task that this replays, or where its dead letter lies

    @property
    def final(self) -> bool:
        return self.status in FINAL


@dataclass(frozen=True, slots=True)
class Filter:
    """What a list shows. None: any."""

    status: State | None = None
    task_type: str | None = None
    queue: str | None = None

    def takes(self, row: Row) -> bool:
        return (
            self.status in (None, row.status)
            and self.task_type in (None, row.task_type)
            and self.queue in (None, row.queue)
        )


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """A place in the order: everything older than this task follows."""

    queued_at_ms: int
    task_id: str

    def write(self) -> str:
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode().rstrip("=")

    @classmethod
    def read(cls, text: str) -> "Cursor":
        """Read a cursor.

        Raises:
            ValueError: These are not the characters of one.
        """
        try:
            cursor = msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=cls)
        except (ValueError, msgspec.MsgspecError, RecursionError) as error:
            raise ValueError("cursor is not one that this list gave out; leave it away to start anew") from error
        if not 0 <= cursor.queued_at_ms <= LATEST_MS + 1:
            raise ValueError("cursor names a time that no task has; leave it away to start anew")
        return cursor


TOP = Cursor(LATEST_MS + 1, "")


@dataclass(frozen=True, slots=True)
class Count:
    """How many tasks of one kind the read model has in one state."""

    queue: str
    task_type: str
    status: State
    tasks: int


class Listing:
    """Questions to a read model. Callable from any thread; each takes milliseconds."""

    def __init__(self, model: ReadModel) -> None:
        self._model = model

    def newest(self, wanted: Filter, after: Cursor, most: int) -> list[Row]:
        """Return the newest rows behind the cursor, newest first. The filter's status is the read model's."""
        with self._model.reading() as db:
            places = _places(db, wanted, after, most)
            if not places:  # SQLite would look for nothing in every row
                return []
            marks = ",".join("?" * len(places))
            found = db.execute(f"{_ROWS} WHERE task_id IN ({marks})", [task_id for _, task_id in places])
            rows = {row.task_id: row for row in map(_row, found)}
        return [rows[task_id] for _, task_id in places]

    def one(self, task_id: str) -> Row | None:
        with self._model.reading() as db:
            found = db.execute(f"{_ROWS} WHERE task_id = ?", (task_id,)).fetchone()
        return _row(found) if found else None

    def replays(self, task_id: str, most: int = 20) -> list[str]:
        """Return the tasks that this one was replayed as, the newest first."""
        sql = "SELECT task_id FROM tasks WHERE replay_of = ? ORDER BY queued_at_ms DESC LIMIT ?"
        with self._model.reading() as db:
            return [found for (found,) in db.execute(sql, (task_id, most))]

    def waiting(self, most: int) -> list[Row]:
        """Return the rows without an outcome at the head of each partition, where a worker would be."""
        rows: list[Row] = []
        with self._model.reading() as db:
            for topic, partition in db.execute("SELECT topic, partition FROM positions").fetchall():
                rows += map(_row, db.execute(_WAITING, (topic, partition, most)))
        return rows

    def counts(self) -> list[Count]:
        with self._model.reading() as db:
            found = db.execute(_COUNTS).fetchall()
        return [Count(queue, task_type, State(status), tasks) for _, queue, task_type, status, tasks in found]

    def oddities(self) -> dict[tuple[str, str], int]:
        """Return how many records are 'dead' and 'undecodable', by queue."""
        with self._model.reading() as db:
            found = db.execute("SELECT queue, what, records FROM oddities").fetchall()
        return {(queue, what): records for queue, what, records in found}


def _places(db: sqlite3.Connection, wanted: Filter, after: Cursor, most: int) -> list[tuple[int, str]]:
    place = (after.queued_at_ms, after.task_id)
    found: list[tuple[int, str]] = []
    for kind, queue, task_type, status, _ in db.execute(_COUNTS).fetchall():
        if wanted.status in (None, status) and wanted.task_type in (None, task_type) and wanted.queue in (None, queue):
            found += db.execute(_OF_KIND, (kind, status, *place, most))
    return heapq.nlargest(most, found)


def _row(found: Sequence[Any]) -> Row:
    task_id, task_type, queue, status, *rest = found
    return Row(task_id, task_type, queue, State(status), *rest)
