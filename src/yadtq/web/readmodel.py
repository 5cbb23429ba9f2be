"""The read model: every task of every queue in one SQLite file, for lists, filters and counts.

One invariant: the rows and the positions they were read up to change in one transaction, and what lies below a position
is never applied again. So the file is exact after any crash, at any moment, with any number of processes indexing it.

When the process dies, the next one goes on at the stored positions. Deleting the file costs nothing but the time to
read Kafka again.
"""

import itertools
import operator
import sqlite3
import threading
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import msgspec

from yadtq.broker import Record, TopicPartition
from yadtq.codec import OutcomeRecord, Undecodable, decode
from yadtq.deadletters import is_note
from yadtq.states import FINAL, State
from yadtq.validity import Validity, epoch_of
from yadtq.web.schema import SCHEMA, VERSION

LATEST_MS = 253_402_300_799_999  # the last moment of the year 9999; what claims to be later is shown as this
INT64 = 2**63 - 1
# What waits for a time lies in two topics: what of it is newer is known by its generation, whatever is read first.
_MOVES = """tasks.status NOT IN ('SUCCESS', 'FAILED') AND (excluded.generation > tasks.generation
    OR excluded.generation = tasks.generation AND tasks.status = 'SCHEDULED' AND excluded.status = 'QUEUED')"""
_ENVELOPE = f"""
    INSERT INTO tasks (task_id, kind, status, queued_at_ms, task_args, task_kwargs, attempts, topic, partition, offset,
        generation, not_before_ms, replay_of)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (task_id) DO UPDATE SET
        task_args = coalesce(tasks.task_args, excluded.task_args),
        task_kwargs = coalesce(tasks.task_kwargs, excluded.task_kwargs),
        replay_of = coalesce(tasks.replay_of, excluded.replay_of),
        queued_at_ms = iif(tasks.task_args IS NULL, excluded.queued_at_ms, tasks.queued_at_ms),
        status = iif({_MOVES}, excluded.status, tasks.status),
        generation = iif({_MOVES}, excluded.generation, tasks.generation),
        not_before_ms = iif({_MOVES}, excluded.not_before_ms, tasks.not_before_ms),
        topic = iif({_MOVES}, excluded.topic, tasks.topic),
        partition = iif({_MOVES}, excluded.partition, tasks.partition),
        offset = iif({_MOVES}, excluded.offset, tasks.offset)
    WHERE tasks.task_args IS NULL OR {_MOVES}"""
_FINAL = """
    INSERT INTO tasks (task_id, kind, status, queued_at_ms, attempts, worker, result, error_log, started_at_ms,
        finished_at_ms, topic, partition, offset, generation, not_before_ms, epoch)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (task_id) DO UPDATE SET status = excluded.status, attempts = excluded.attempts,
        worker = excluded.worker, result = excluded.result, error_log = excluded.error_log,
        started_at_ms = excluded.started_at_ms, finished_at_ms = excluded.finished_at_ms,
        topic = excluded.topic, partition = excluded.partition, offset = excluded.offset,
        generation = excluded.generation, epoch = excluded.epoch
    WHERE tasks.status NOT IN ('SUCCESS', 'FAILED') OR excluded.epoch > tasks.epoch"""
_RETRY = """
    INSERT INTO tasks (task_id, kind, status, queued_at_ms, attempts, worker, result, error_log, started_at_ms,
        finished_at_ms, topic, partition, offset, generation, not_before_ms, epoch)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (task_id) DO UPDATE SET attempts = excluded.attempts, worker = excluded.worker,
        error_log = excluded.error_log, started_at_ms = excluded.started_at_ms,
        status = iif(excluded.generation > tasks.generation, excluded.status, tasks.status),
        generation = excluded.generation, not_before_ms = excluded.not_before_ms
    WHERE tasks.status NOT IN ('SUCCESS', 'FAILED') AND excluded.generation >= tasks.generation"""
_TRIM = """
    DELETE FROM tasks WHERE id IN (
        SELECT id FROM tasks WHERE kind = :kind AND status = :status AND queued_at_ms < :before
        AND coalesce(finished_at_ms, 0) < :before ORDER BY queued_at_ms, task_id LIMIT :most)"""


class Role(Enum):
    """What a topic holds."""

    TASKS = "tasks"
    OUTCOMES = "outcomes"
    DEAD = "dead"
    DELAYED = "delayed"


@dataclass(frozen=True, slots=True)
class Source:
    """Which queue a topic belongs to, and what it holds."""

    queue: str
    role: Role
    tasks_topic: str


class Foreign(Exception):
    """The file tells of another Kafka than the one that answers: rebuild it."""


class Rebuilt(Exception):
    """Another process rebuilt the file: go on at the positions that stand in it now."""


class ReadModel:
    """The file. `apply` belongs to one thread, `reading` to any."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._kinds: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()
        try:
            self._open()
        except sqlite3.DatabaseError:  # no database, or a damaged one: nothing in it is worth keeping
            self.close()
            self._delete()
            self._open()

    def _open(self) -> None:
        self._writer = _connect(self.path)
        self._reader = _connect(self.path)
        found = self._writer.execute("PRAGMA user_version").fetchone()[0]
        if found != VERSION:
            self.rebuild()
        self.life = self._read_life()

    def _delete(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def close(self) -> None:
        for name in ("_writer", "_reader"):
            with suppress(AttributeError):  # opening failed before this one was there
                getattr(self, name).close()

    def rebuild(self) -> None:
        """Forget everything; the next indexing reads Kafka from the start."""
        with self._transaction() as db:
            for kind, name in db.execute(
                "SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"
            ).fetchall():
                if kind in ("table", "view"):
                    db.execute(f'DROP {kind} "{name}"')
            for statement in SCHEMA:
                db.execute(statement)
            db.execute("INSERT INTO meta VALUES ('life', ?)", (uuid.uuid4().hex,))
            db.execute(f"PRAGMA user_version = {VERSION}")
        self.life = self._read_life()

    def _read_life(self) -> str:
        return str(self._writer.execute("SELECT value FROM meta WHERE key = 'life'").fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield self._writer
        except BaseException:
            self._kinds.clear()  # an id that was given in there is taken back with the rest
            self._writer.execute("ROLLBACK")
            raise
        self._writer.execute("COMMIT")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Lend the connection for reading. All statements inside see one moment."""
        with self._lock:
            self._reader.execute("BEGIN")
            try:
                yield self._reader
            finally:
                self._reader.execute("COMMIT")

    def positions(self) -> dict[TopicPartition, int]:
        """Return the next offset of each partition."""
        with self.reading() as db:
            return _positions(db)

    def apply(self, records: Sequence[Record], sources: Mapping[str, Source]) -> dict[TopicPartition, int]:
        """Take records in, in the order of each partition; return the next offset of each partition.

        That is further than the records where another process writes the file too.

        Raises:
            Foreign: The file tells of another Kafka; rebuild it.
            Rebuilt: Another process did that; read anew from the positions in the file.
        """
        with self._transaction() as db:
            if self._read_life() != self.life:
                self.life = self._read_life()
                raise Rebuilt
            fresh, moved = self._fresh(db, records)
            self._write(db, fresh, sources)
            db.executemany(
                "INSERT OR REPLACE INTO positions VALUES (?, ?, ?, ?)",
                [(*where, last.offset + 1, _check(last)) for where, last in moved.items()],
            )
            return _positions(db)

    def _fresh(
        self, db: sqlite3.Connection, records: Sequence[Record]
    ) -> tuple[list[Record], dict[TopicPartition, Record]]:
        """Leave out what was applied before, and see that the last of those is what it was."""
        stored = {
            TopicPartition(topic, partition): (offset, check)
            for topic, partition, offset, check in db.execute("SELECT * FROM positions")
        }
        fresh: list[Record] = []
        moved: dict[TopicPartition, Record] = {}
        for record in records:
            position, check = stored.get(record.where, (0, 0))
            if record.offset >= position:
                fresh.append(record)
                moved[record.where] = record
            elif record.offset == position - 1 and _check(record) != check:
                raise Foreign(f"{record.topic} {record.partition} has another record at offset {record.offset}")
        return fresh, moved

    def _write(self, db: sqlite3.Connection, records: Iterable[Record], sources: Mapping[str, Source]) -> None:
        # In the order of the records: what a later one does depends on what an earlier one did.
        validity = Validity({TopicPartition(*at): epoch for *at, epoch in db.execute("SELECT * FROM epochs")})
        for role, batch in itertools.groupby(records, lambda record: sources[record.topic].role):
            if role in (Role.TASKS, Role.DELAYED):
                db.executemany(_ENVELOPE, list(self._envelope_rows(db, batch, sources, role)))
            elif role is Role.OUTCOMES:
                found = self._outcomes(db, batch, sources, validity)
                for sql, rows in itertools.groupby(list(found), operator.itemgetter(0)):
                    db.executemany(sql, [row for _, row in rows])
            else:
                for record in batch:
                    if not is_note(record):
                        _count(db, sources[record.topic].queue, "dead")
        seen = [(*at, epoch) for at, epoch in validity.epochs.items()]
        db.executemany("INSERT OR REPLACE INTO epochs VALUES (?, ?, ?)", seen)

    def _envelope_rows(
        self, db: sqlite3.Connection, records: Iterable[Record], sources: Mapping[str, Source], role: Role
    ) -> Iterator[tuple[object, ...]]:
        for record in records:
            source = sources[record.topic]
            if role is Role.DELAYED and not record.value:
                continue  # a tombstone: what fired lies in the queue
            try:
                envelope = decode(record.value)
            except Undecodable:
                _count(db, source.queue, "undecodable")
                continue
            yield (
                envelope.task_id,
                self._kind(db, source.queue, envelope.task_type),
                State.QUEUED if role is Role.TASKS else State.SCHEDULED,
                min(envelope.queued_at_ms or record.timestamp_ms, LATEST_MS),
                _text(envelope.task_args),
                _text(envelope.task_kwargs),
                envelope.task_tries,
                *record.where,
                record.offset,
                envelope.generation,
                min(envelope.not_before_ms, LATEST_MS) or None,
                envelope.replay_of or None,
            )

    def _outcomes(
        self,
        db: sqlite3.Connection,
        records: Iterable[Record],
        sources: Mapping[str, Source],
        validity: Validity,
    ) -> Iterator[tuple[str, tuple[object, ...]]]:
        """The statement and the row of each outcome that counts."""
        for record in records:
            source = sources[record.topic]
            try:
                outcome = validity.read(record)
            except Undecodable:
                _count(db, source.queue, "undecodable")
                continue
            if outcome is not None:
                row = self._outcome_row(db, source, record, outcome, epoch_of(outcome.fence))
                yield _FINAL if outcome.state in FINAL else _RETRY, row

    def _outcome_row(
        self, db: sqlite3.Connection, source: Source, record: Record, outcome: OutcomeRecord, epoch: int
    ) -> tuple[object, ...]:
        final = outcome.state in FINAL
        return (
            outcome.task_id,
            self._kind(db, source.queue, outcome.task_type),
            outcome.state if final or outcome.state is State.SCHEDULED else State.QUEUED,
            min(max(outcome.queued_at_ms, 0) or record.timestamp_ms, LATEST_MS),
            _int64(outcome.attempts),
            outcome.worker,
            _text(outcome.result) if outcome.state is State.SUCCESS else None,
            outcome.error_log,
            _moment(outcome.started_at_ms),
            _moment(outcome.finished_at_ms) if final else None,
            outcome.topic or source.tasks_topic,
            _int64(outcome.partition),
            _int64(outcome.offset),
            _int64(outcome.generation),
            _moment(outcome.not_before_ms) or None,
            epoch,
        )

    def _kind(self, db: sqlite3.Connection, queue: str, task_type: str) -> int:
        """The number of a (queue, task type); what the rows carry instead of two texts."""
        known = self._kinds.get((queue, task_type))
        if known is None:
            db.execute("INSERT OR IGNORE INTO kinds (queue, task_type) VALUES (?, ?)", (queue, task_type))
            sql = "SELECT id FROM kinds WHERE queue = ? AND task_type = ?"
            known = self._kinds[queue, task_type] = int(db.execute(sql, (queue, task_type)).fetchone()[0])
        return known

    def trim(self, before_ms: int, most_rows: int, most_at_once: int = 2_000) -> int:
        """Delete some rows that ended before, and old ended ones above `most_rows`; return how many.

        Few at a time, so that nothing waits: call it again until it answers 0.
        """
        with self._transaction() as db:
            counts = db.execute("SELECT kind, status, tasks FROM counts WHERE tasks > 0").fetchall()
            ended = [count for count in counts if count[1] in FINAL]
            excess = max(sum(tasks for _, _, tasks in counts) - most_rows, 0)
            total = sum(tasks for _, _, tasks in ended)
            trimmed = 0
            for kind, status, tasks in ended:
                old = {"kind": kind, "status": status, "before": before_ms, "most": most_at_once - trimmed}
                gone = db.execute(_TRIM, old).rowcount
                # Above the limit every kind gives up the same share of its own, so that rare ones stay visible.
                share = min(-(-excess * tasks // total) - gone, most_at_once - trimmed - gone)
                more = old | {"before": LATEST_MS + 1, "most": max(share, 0)}
                trimmed += gone + db.execute(_TRIM, more).rowcount
        return trimmed


def _positions(db: sqlite3.Connection) -> dict[TopicPartition, int]:
    rows = db.execute("SELECT topic, partition, next FROM positions")
    return {TopicPartition(topic, partition): offset for topic, partition, offset in rows}


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    # Losing the last moments to a power cut is safe: positions and rows are lost together and read again.
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("PRAGMA cache_size = -65536")
    return db


def _count(db: sqlite3.Connection, queue: str, what: str) -> None:
    sql = "INSERT INTO oddities VALUES (?, ?, 1) ON CONFLICT (queue, what) DO UPDATE SET records = records + 1"
    db.execute(sql, (queue, what))


def _check(record: Record) -> int:
    return zlib.crc32(record.value, zlib.crc32(record.key or b""))


def _text(raw: msgspec.Raw) -> str:
    """JSON as it was sent. Nobody has looked yet whether the strings inside are UTF-8."""
    return bytes(raw).decode("utf-8", "replace")


def _int64(number: int) -> int:
    return max(-INT64, min(number, INT64))


def _moment(at_ms: int | None) -> int | None:
    return None if at_ms is None else max(0, min(at_ms, LATEST_MS))
