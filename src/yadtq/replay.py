"""Dead letters to tasks again.

One invariant: a replay is a new task, because a final state never changes. Its id follows from the letter and from
what was edited, so the same replay made twice is one task; `again` makes another.

Each replay leaves a note in `Q.dlq` behind Kafka's report of the task. When the process dies between the two the
replay is not noted; made again it has the same id, and one id runs once.
"""

import hashlib
import json
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import msgspec

from yadtq.broker import Broker, Message, Report
from yadtq.codec import encode, problem_of
from yadtq.deadletters import EVERY, DeadLetters, Letter, Survey, Wanted
from yadtq.envelope import Envelope
from yadtq.errors import LedgerUnavailable, NotReplayable, ReplayUnknown
from yadtq.layout import HEADER_KEY, HEADER_REPLAYED, HEADER_SOURCE, HEADER_TASK, Layout, QueueTopics
from yadtq.ledger import Ledger, NewTask
from yadtq.publisher import REPORT_S

log = logging.getLogger("yadtq")

TOGETHER = 100  # letters that are published at once
TOGETHER_BYTES = 8 * 1024 * 1024
RAW = "raw"  # stands in a note for the task that raw bytes do not name
OURS = "yadtq-"  # headers that a replay does not take over


@dataclass(frozen=True, slots=True)
class Edit:
    """What is other in the replay. None: as it was."""

    task_type: str | None = None
    args: bytes | None = None  # JSON array
    kwargs: bytes | None = None  # JSON object

    @property
    def whole(self) -> bool:
        """Whether it says all that a task needs, so that the letter's own bytes do not matter."""
        return self.task_type is not None and self.args is not None


AS_IT_WAS = Edit()


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a letter was replayed as."""

    letter_id: str
    task_id: str  # RAW: bytes that do not say which task they are
    before: bool = False  # the very same replay was made before; nothing was published


@dataclass(slots=True)
class Summary:
    """What became of many letters."""

    replayed: int = 0
    before: int = 0  # replayed before, and left alone
    refused: list[tuple[str, str]] = field(default_factory=list)  # letter id and why
    more: bool = False  # the limit was reached before the end


@dataclass(frozen=True, slots=True)
class _Ready:
    letter: Letter
    task_id: str
    envelope: Envelope | None  # None: raw
    message: Message


@dataclass(slots=True)
class _Batch:
    """What is published at once."""

    ready: list[_Ready] = field(default_factory=list)
    size_bytes: int = 0

    @property
    def full(self) -> bool:
        return len(self.ready) >= TOGETHER or self.size_bytes >= TOGETHER_BYTES

    def add(self, ready: _Ready) -> None:
        self.ready.append(ready)
        self.size_bytes += len(ready.message.value or b"")


class Replayer:
    """Replays dead letters. Callable from any thread."""

    def __init__(self, broker: Broker, ledger: Ledger, layout: Layout) -> None:
        self._broker = broker
        self._ledger = ledger
        self._letters = DeadLetters(broker, layout)
        self._producer = broker.producer()
        self._counts: dict[str, int] = {}  # partitions by topic

    def replay(self, letter: Letter, edit: Edit = AS_IT_WAS, *, again: bool = False, raw: bool = False) -> Replayed:
        """Publish a letter as a new task, or its bytes as they are.

        Args:
            edit: What is other in the new task.
            again: Make another task, though this replay was made before.
            raw: Publish the very bytes: of a newer version, for workers that know it.

        Raises:
            NotReplayable: It cannot run as it is, or Kafka refuses it; the text says what would help.
            ReplayUnknown: Kafka gave no report in time.
            UnknownQueue, BrokerUnavailable: The queue is gone, or Kafka does not answer.
        """
        ready = self._ready(letter, self._topics(letter.queue), edit, again, raw)
        if ready.task_id in letter.replays and not again:
            return Replayed(letter.letter_id, ready.task_id, before=True)
        refused = self._publish([ready])
        if refused:
            raise NotReplayable(refused[0][1])
        return Replayed(letter.letter_id, ready.task_id)

    def replay_all(
        self,
        queue: str,
        wanted: Wanted = EVERY,
        *,
        survey: Survey | None = None,
        again: bool = False,
        most: int | None = None,
        on_progress: Callable[[Summary], None] = lambda _: None,
    ) -> Summary:
        """Replay what is wanted as it was, the oldest of each partition first; what was replayed before is left alone.

        Args:
            survey: What is there; looked up where left out. Letters that came later are not meant.
            again: Replay those too that were replayed before.
            most: Stop behind so many.

        Raises:
            ReplayUnknown, UnknownQueue, BrokerUnavailable: As `replay`; what was published is left alone next time.
        """
        survey = survey or self._letters.survey(queue, wanted)
        topics = self._topics(queue)
        summary, batch, seen = Summary(), _Batch(), set[tuple[str, str]]()
        for letter in self._letters.surveyed(queue, survey, wanted):
            if letter.identity in seen or (letter.replays and not again):
                summary.before += 1
                continue
            if most is not None and len(seen) >= most:
                summary.more = True
                break
            seen.add(letter.identity)
            try:
                batch.add(self._ready(letter, topics, AS_IT_WAS, again, raw=False))
            except NotReplayable as error:
                summary.refused.append((letter.letter_id, str(error)))
            if batch.full:
                self._flush(batch, summary, on_progress)
                batch = _Batch()
        self._flush(batch, summary, on_progress)
        return summary

    def _flush(self, batch: _Batch, summary: Summary, on_progress: Callable[[Summary], None]) -> None:
        refused = self._publish(batch.ready)
        summary.refused += refused
        summary.replayed += len(batch.ready) - len(refused)
        on_progress(summary)

    def close(self, timeout_s: float = REPORT_S) -> None:
        self._producer.close(timeout_s)

    def _topics(self, queue: str) -> QueueTopics:
        topics = self._letters.topics(queue)
        self._counts[topics.tasks] = self._broker.partitions()[topics.tasks]
        return topics

    def _ready(self, letter: Letter, topics: QueueTopics, edit: Edit, again: bool, raw: bool) -> _Ready:
        letter = self._letters.open(letter)
        envelope = None if raw else _new(letter, edit, again)
        if raw and letter.task_id:
            raise NotReplayable(
                f"dead letter {letter.letter_id} is task {letter.task_id!r}, which has ended FAILED, and an end never "
                "changes; replay it without raw: it gets an id of its own"
            )
        if raw and letter.sha256 and not letter.data:
            raise NotReplayable(f"dead letter {letter.letter_id} cannot be replayed raw: {letter.problem}")
        key = _key(letter)
        # Without its key it goes where it came from, so that it keeps its place among those of its key.
        where = letter.source.partition if letter.source and letter.source.topic == topics.tasks else -1
        partition = where if key is None and 0 <= where < self._counts[topics.tasks] else None
        headers = {name: value for name, value in letter.headers.items() if not name.startswith(OURS)}
        data = letter.data if envelope is None else encode(envelope)
        task_id = _named(data) if envelope is None else envelope.task_id
        return _Ready(letter, task_id, envelope, Message(topics.tasks, data, key, partition, headers))

    def _publish(self, batch: Sequence[_Ready]) -> list[tuple[str, str]]:
        """Publish, note, and return what Kafka refused."""
        reports = self._produce([ready.message for ready in batch])
        done = [(ready, report) for ready, report in zip(batch, reports, strict=True) if report.error is None]
        self._note([ready for ready, _ in done])
        self._record(done)
        refused = []
        for ready, report in zip(batch, reports, strict=True):
            if report.refused:
                refused.append((ready.letter.letter_id, f"Kafka refused the replay: {report.error}"))
            elif report.error is not None:
                raise ReplayUnknown(ready.task_id, report.error)
        return refused

    def _produce(self, messages: Sequence[Message]) -> list[Report]:
        futures: list[Future[Report]] = [Future() for _ in messages]
        for message, future in zip(messages, futures, strict=True):
            self._producer.produce(message, future.set_result)
        deadline_mono = time.monotonic() + REPORT_S
        return [_report(future, deadline_mono) for future in futures]

    def _note(self, done: Sequence[_Ready]) -> None:
        notes = []
        for ready in done:
            task_id, source = ready.letter.identity
            headers = {HEADER_SOURCE: source.encode(), HEADER_REPLAYED: ready.task_id.encode()}
            if task_id:
                headers[HEADER_TASK] = task_id.encode()
            place = ready.letter.place
            notes.append(Message(place.topic, b"", ready.letter.key, place.partition, headers))
        problems = {report.error for report in self._produce(notes) if report.error}
        if problems:
            log.warning("replays were published and could not all be noted: %s", "; ".join(map(str, problems)))

    def _record(self, done: Sequence[tuple[_Ready, Report]]) -> None:
        """Write the QUEUED records, as after a submit. A ledger that is down delays the view and fails nothing."""
        tasks = [
            NewTask(
                ready.envelope.task_id,
                ready.envelope.task_type,
                ready.message.topic,
                report.partition,
                report.offset,
                ready.envelope.queued_at_ms,
            )
            for ready, report in done
            if ready.envelope is not None
        ]
        try:
            self._ledger.queued(tasks)
        except LedgerUnavailable as error:
            log.warning("%d replay(s) are published; their QUEUED record is late: %s", len(tasks), error)


def edit_of(task_type: str | None, args: str | bytes | None, kwargs: str | bytes | None) -> Edit:
    """Make an edit of JSON texts.

    Raises:
        NotReplayable: One of them is not the JSON that it has to be.
    """
    return Edit(task_type or None, _json(args, list, "an array"), _json(kwargs, dict, "an object"))


def _json(text: str | bytes | None, kind: type, shown: str) -> bytes | None:
    if text is None:
        return None
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    try:
        data.decode()
        value = msgspec.json.decode(data)
    except (ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise NotReplayable(f"these arguments are not JSON: {error}") from error
    if not isinstance(value, kind):
        raise NotReplayable(f"these arguments have to be {shown} in JSON, not {type(value).__name__}")
    return data


def _new(letter: Letter, edit: Edit, again: bool) -> Envelope:
    """The envelope of a replay."""
    if letter.envelope is None and not edit.whole:
        raise NotReplayable(
            f"dead letter {letter.letter_id} cannot run as it is: {letter.problem}. Replay it with a task's name and "
            "arguments, or, if only newer workers can read it, raw"
        )
    task_id = _id_of(letter, edit, again)
    was = letter.envelope or Envelope(task_id=task_id, task_type="")
    envelope = msgspec.structs.replace(
        was,
        task_id=task_id,
        task_type=was.task_type if edit.task_type is None else edit.task_type,
        task_args=was.task_args if edit.args is None else msgspec.Raw(edit.args),
        task_kwargs=was.task_kwargs if edit.kwargs is None else msgspec.Raw(edit.kwargs),
        task_tries=0,
        generation=0,
        not_before_ms=0,
        queued_at_ms=time.time_ns() // 1_000_000,
        replay_of=letter.task_id or str(letter.place),
    )
    problem = problem_of(envelope)
    if problem:
        raise NotReplayable(f"dead letter {letter.letter_id} cannot be replayed so: {problem}")
    return envelope


def _key(letter: Letter) -> bytes | None:
    """The ordering key. The key of a dead letter itself is the task's id, where it has one."""
    if letter.task_id and (HEADER_KEY in letter.headers or not (letter.sha256 and letter.data)):
        return letter.headers.get(HEADER_KEY)
    return letter.key  # as the bytes lie in the queue


def _id_of(letter: Letter, edit: Edit, again: bool) -> str:
    edited = [edit.task_type, *(text and text.decode() for text in (edit.args, edit.kwargs))]
    what = [letter.queue, *letter.identity, *edited, uuid.uuid4().hex if again else ""]
    return hashlib.sha256(msgspec.json.encode(what)).hexdigest()[:32]


def _named(data: bytes) -> str:
    """The id that raw bytes give themselves, if a newer version still calls it so."""
    try:
        found = json.loads(data)["task_id"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return RAW
    return found if isinstance(found, str) and found else RAW


def _report(future: "Future[Report]", deadline_mono: float) -> Report:
    try:
        return future.result(max(deadline_mono - time.monotonic(), 0))
    except TimeoutError:
        return Report(f"none within {REPORT_S:g} s")
