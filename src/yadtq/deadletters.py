"""Dead letters: what lies in `Q.dlq`, why, and what became of it.

One invariant: no bytes make it raise. What is no envelope is shown as the bytes that it is, and what was too large to
be copied is read from where it still lies, and believed only if its checksum is right.

Beside the letters the topic has notes of replays: a note names a letter's task and source, as a letter does, and the
task that it was replayed as. Nothing is ever deleted here.
"""

import hashlib
import heapq
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from yadtq.broker import Broker, Record, TopicPartition
from yadtq.codec import Undecodable, decode
from yadtq.envelope import Envelope
from yadtq.errors import BrokerUnavailable, NoDeadLetter, UnknownQueue
from yadtq.layout import (
    DELAYED,
    HEADER_REASON,
    HEADER_REPLAYED,
    HEADER_SHA256,
    HEADER_SOURCE,
    HEADER_TASK,
    Layout,
    QueueTopics,
)
from yadtq.visible import visible

BATCH = 50  # records a poll; each may have 2 MiB
CHUNK = 200  # letters of the first step back from the end; each further step is twice as long
LONGEST = 10_000
SILENT_S = 10.0  # Kafka has these records and sends none of them for so long
HEX_BYTES = 1_024
BRIEF_BYTES = 256
_PLACE = re.compile(r"(\d{1,9})/(\d{1,18})")
_SOURCE = re.compile(r"(.+)/(\d{1,9})/(\d{1,18})")


class Place(NamedTuple):
    """Where a record lies."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter."""

    queue: str
    place: Place
    at_ms: int
    reason: str
    source: Place | None  # None: the header is not one that YADTQ writes
    task_id: str  # empty: the bytes are no envelope
    sha256: str  # not empty: the bytes lie at the source only
    data: bytes
    key: bytes | None  # the record's
    headers: Mapping[str, bytes]
    envelope: Envelope | None  # None: no envelope, or a reference that was not opened
    problem: str  # why there is no envelope
    size_bytes: int
    replays: tuple[str, ...] = ()  # the tasks that it was replayed as

    @property
    def letter_id(self) -> str:
        return f"{self.place.partition}/{self.place.offset}"

    @property
    def task_type(self) -> str:
        return self.envelope.task_type if self.envelope else ""

    @property
    def identity(self) -> tuple[str, str]:
        """What died. A letter that was written twice, because a worker died in between, has it twice."""
        return self.task_id, str(self.source or self.place)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters are meant. None: any."""

    reason: str | None = None  # a part of it, in any case
    task_type: str | None = None  # references have none before they are opened
    since_ms: int | None = None
    task_id: str | None = None

    def takes(self, letter: Letter) -> bool:
        return (
            (self.reason is None or self.reason.casefold() in letter.reason.casefold())
            and self.task_type in (None, letter.task_type)
            and self.task_id in (None, letter.task_id)
            and letter.at_ms >= (self.since_ms or 0)
        )


EVERY = Wanted()
Notes = dict[tuple[str, str], tuple[str, ...]]
Spans = dict[TopicPartition, tuple[int, int]]  # the first offset and the one behind the last


@dataclass(frozen=True, slots=True)
class Page:
    """Letters, newest first. before: where the next page begins, by partition; None where nothing follows."""

    letters: list[Letter]
    before: dict[int, int] | None


@dataclass(slots=True)
class Survey:
    """One look at all letters of a queue."""

    spans: Spans
    notes: Notes = field(default_factory=dict)
    matching: int = 0
    replayed: int = 0  # of those, how many were replayed before


class DeadLetters:
    """The dead letters of all queues. Every question reads Kafka; callable from any thread."""

    def __init__(self, broker: Broker, layout: Layout) -> None:
        self._broker = broker
        self._layout = layout

    def topics(self, queue: str) -> QueueTopics:
        """The topics of a queue that is there.

        Raises:
            UnknownQueue: There is none of this name.
            SettingsError: There could be none.
            BrokerUnavailable: Kafka does not answer.
        """
        topics, there = self._layout.queue(queue), self._broker.partitions()
        if topics.tasks not in there:
            raise UnknownQueue(queue, self._layout.queues(set(there)))
        return topics

    def page(
        self,
        queue: str,
        wanted: Wanted = EVERY,
        most: int = 50,
        *,
        before: Mapping[int, int] | None = None,
        most_looked: int | None = None,
    ) -> Page:
        """Return the newest letters that are wanted, without their bytes.

        Args:
            before: Where the page before ended.
            most_looked: End the page when so many were looked at, however few fit.

        Raises:
            UnknownQueue, SettingsError, BrokerUnavailable: As `topics`.
        """
        spans, notes = self._spans(queue), Notes()
        starts = {
            where: max(first, min(end, (before or {}).get(where.partition, end)))
            for where, (first, end) in spans.items()
        }
        for _ in self._read(queue, {where: (start, spans[where][1]) for where, start in starts.items()}, notes):
            pass  # the notes behind the page belong to it too
        steps = [self._back(queue, where, spans[where][0], start, notes) for where, start in starts.items()]
        found: list[Letter] = []
        for looked, letter in enumerate(heapq.merge(*steps, key=lambda letter: letter.at_ms, reverse=True), 1):
            where = TopicPartition(letter.place.topic, letter.place.partition)
            starts[where] = letter.place.offset
            if wanted.takes(letter):
                found.append(letter)
            if len(found) == most or looked == most_looked:
                more = any(start > spans[where][0] for where, start in starts.items())
                return Page(found, {where.partition: start for where, start in starts.items()} if more else None)
        return Page(found, None)

    def _back(self, queue: str, where: TopicPartition, first: int, end: int, notes: Notes) -> Iterator[Letter]:
        """The letters of a partition, the newest first. Their notes lie behind them, so they are read before them."""
        step = CHUNK
        while end > first:
            start = max(first, end - step)
            letters = [_brief(letter) for letter in self._read(queue, {where: (start, end)}, notes)]
            for letter in reversed(letters):
                yield replace(letter, replays=notes.get(letter.identity, ()))
            end, step = start, min(step * 2, LONGEST)

    def find(self, queue: str, letter_id: str) -> Letter:
        """Return one letter, opened, by its place or by its task's id; of several with one task the newest.

        Raises:
            NoDeadLetter: There is none.
            UnknownQueue, SettingsError, BrokerUnavailable: As `topics`.
        """
        spans, notes = self._spans(queue), Notes()
        place = _PLACE.fullmatch(letter_id)
        if place:
            where = TopicPartition(self._layout.queue(queue).dead, int(place[1]))
            first, end = spans.get(where, (0, 0))
            spans = {where: (int(place[2]), end)} if first <= int(place[2]) < end else {}
        found = None
        for letter in self._read(queue, spans, notes):
            if place and found is None and letter.place.offset != int(place[2]):
                break  # a note lies there
            if letter.task_id == letter_id or (place and found is None):
                found = letter
        if found is None:
            raise NoDeadLetter(queue, letter_id)
        return self.open(replace(found, replays=notes.get(found.identity, ())))

    def survey(self, queue: str, wanted: Wanted = EVERY) -> Survey:
        """Look at every letter there is now.

        Raises:
            UnknownQueue, SettingsError, BrokerUnavailable: As `topics`.
        """
        survey = Survey(self._spans(queue))
        matching = [letter.identity for letter in self._read(queue, survey.spans, survey.notes) if wanted.takes(letter)]
        survey.matching = len(matching)
        survey.replayed = sum(identity in survey.notes for identity in matching)
        return survey

    def surveyed(self, queue: str, survey: Survey, wanted: Wanted) -> Iterator[Letter]:
        """Return the letters of a survey that are wanted, the oldest of each partition first."""
        for letter in self._read(queue, survey.spans, {}):
            if wanted.takes(letter):
                yield replace(letter, replays=survey.notes.get(letter.identity, ()))

    def open(self, letter: Letter) -> Letter:
        """Return a reference with the bytes that it refers to; where they are gone `problem` says so."""
        if not letter.sha256 or letter.envelope is not None:
            return letter
        record = self._source(letter.source) if letter.source else None
        if record is None:
            return replace(letter, problem=f"{_TOO_LARGE}, and {letter.source or 'its source'} is gone")
        if hashlib.sha256(record.value).hexdigest() != letter.sha256:
            problem = f"{_TOO_LARGE}, and another record lies at {letter.source} now: the SHA-256 is not the same"
            return replace(letter, problem=problem)
        envelope, problem = _envelope(record.value)
        headers = {**record.headers, **letter.headers}
        return replace(
            letter,
            data=record.value,
            size_bytes=len(record.value),
            key=None if record.topic.endswith(DELAYED) else record.key,
            headers=headers,
            envelope=envelope,
            problem=problem,
        )

    def _source(self, source: Place) -> Record | None:
        where = TopicPartition(source.topic, source.partition)
        first, end = self._broker.end_offsets(source.topic).get(where, (0, 0))
        if not first <= source.offset < end:
            return None
        record = next(read(self._broker, {where: (source.offset, end)}), None)
        return record if record and record.offset == source.offset else None

    def _spans(self, queue: str) -> Spans:
        return self._broker.end_offsets(self.topics(queue).dead)

    def _read(self, queue: str, spans: Spans, notes: Notes) -> Iterator[Letter]:
        """The letters in some spans; notes are put with the others."""
        for record in read(self._broker, spans):
            letter = letter_of(queue, record)
            if letter is not None:
                yield letter
                continue
            key = (_text(record.headers.get(HEADER_TASK, b"")), _text(record.headers.get(HEADER_SOURCE, b"")))
            notes[key] = (*notes.get(key, ()), _text(record.headers[HEADER_REPLAYED]))


_TOO_LARGE = "it was too large to be copied"


def read(broker: Broker, spans: Spans) -> Iterator[Record]:
    """Read some spans of partitions.

    Raises:
        BrokerUnavailable: Kafka sends nothing.
    """
    ends = {where: end for where, (first, end) in spans.items() if first < end}
    if not ends:
        return
    reader = broker.reader()
    try:
        reader.watch({where: spans[where][0] for where in ends})
        heard_mono = time.monotonic()
        while ends:
            records = reader.poll(0.1, BATCH)
            for record in records:
                end = ends.get(record.where, 0)
                if record.offset >= end - 1:
                    ends.pop(record.where, None)
                if record.offset < end:
                    yield record
            if records:
                heard_mono = time.monotonic()
            elif time.monotonic() - heard_mono > SILENT_S:
                raise BrokerUnavailable(f"Kafka has not sent what lies in {next(iter(ends)).topic} for {SILENT_S:g} s")
    finally:
        reader.close()


def is_note(record: Record) -> bool:
    """Say whether a record of `Q.dlq` is the note of a replay. A letter has a reason, whatever else it has."""
    return HEADER_REPLAYED in record.headers and HEADER_REASON not in record.headers


def letter_of(queue: str, record: Record) -> Letter | None:
    """Read a record of `Q.dlq`; None: it is the note of a replay."""
    if is_note(record):
        return None
    headers = record.headers
    source = _SOURCE.fullmatch(_text(headers.get(HEADER_SOURCE, b"")))
    sha256 = "" if record.value else _text(headers.get(HEADER_SHA256, b""))
    envelope, problem = (None, "") if sha256 else _envelope(record.value)
    return Letter(
        queue,
        Place(record.topic, record.partition, record.offset),
        record.timestamp_ms,
        _text(headers.get(HEADER_REASON, b"")),
        Place(source[1], int(source[2]), int(source[3])) if source else None,
        _text(headers.get(HEADER_TASK, b"")),
        sha256,
        record.value,
        record.key,
        headers,
        envelope,
        problem,
        len(record.value),
    )


def _brief(letter: Letter) -> Letter:
    """A letter of a list: many of them must not hold their bytes."""
    if letter.envelope is None:
        return replace(letter, data=letter.data[:BRIEF_BYTES], headers={})
    envelope = Envelope(task_id=letter.envelope.task_id, task_type=letter.envelope.task_type)
    return replace(letter, data=b"", headers={}, envelope=envelope)


def _envelope(data: bytes) -> tuple[Envelope | None, str]:
    try:
        return decode(data), ""
    except Undecodable as error:
        return None, error.reason


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def opened_item(letter: Letter) -> dict[str, object]:
    """One opened letter as JSON has it. Arguments go out as they lie there, unread."""
    envelope = letter.envelope
    text, pairs = shown_bytes(letter.data)
    return {
        **letter_item(letter),
        "task_args": envelope.task_args if envelope else None,
        "task_kwargs": envelope.task_kwargs if envelope else None,
        "replay_of": (envelope.replay_of or None) if envelope else None,
        "text": None if letter.sha256 and not letter.data else text,
        "hex": pairs,
        "problem": letter.problem or None,
    }


def shown_bytes(data: bytes) -> tuple[str | None, str | None]:
    """Bytes for people: as text with what cannot be seen escaped, or, where they are none, as the first in hex."""
    try:
        return visible(data.decode()), None
    except UnicodeDecodeError:
        return None, data[:HEX_BYTES].hex(" ")


def letter_item(letter: Letter) -> dict[str, object]:
    """A letter of a list as JSON has it."""
    return {
        "id": letter.letter_id,
        "at_ms": letter.at_ms,
        "reason": letter.reason,
        "task_id": letter.task_id or None,
        "task_type": letter.task_type or None,
        "source": str(letter.source) if letter.source else None,
        "size_bytes": None if letter.sha256 and not letter.data else letter.size_bytes,
        "reference": bool(letter.sha256),
        "replays": list(letter.replays),
    }
