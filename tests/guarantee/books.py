"""The books of a simulated world: told of every move, they know what Kafka, the ledger and user code did so far.

One invariant: a rule that is broken is noted at the move that breaks it, with the facts; nothing is judged by what the
worker says of itself. The memory broker's own logs, commits and records are the evidence.
"""

from collections import Counter
from collections.abc import Iterable

from stage import GROUP, Stage

from yadtq.attempt import Attempt
from yadtq.broker import Message, Record, Report, TopicPartition
from yadtq.codec import OutcomeRecord, Undecodable, decode
from yadtq.delayed import read_key
from yadtq.layout import HEADER_SOURCE, HEADER_TASK
from yadtq.ledger import Accept, Answer, Run, TaskRecord
from yadtq.offsets import Position, read_bitmap
from yadtq.states import FINAL, State
from yadtq.validity import Validity

Carrier = tuple[str, int | bytes, int]  # ("q", partition, offset) or ("delayed", key, 0)
RunOf = tuple[str, int]  # task id and attempt


class Books:
    """What must never happen is collected in `violations`."""

    def __init__(self, stage: Stage) -> None:
        self.violations: list[str] = []
        self.starts: Counter[str] = Counter()
        self.excused: Counter[str] = Counter()  # tasks that ran, or might have, when a fault came over them
        self.open_runs: dict[RunOf, str] = {}  # started, and no verdict of it accepted yet: by which worker
        self.commits = 0
        self.ledger_losses = 0
        self.published: set[str] = set()
        self.ended: dict[str, OutcomeRecord] = {}  # by the first final outcome of each task
        self.dead: Counter[str] = Counter()  # dead letters by task id
        self.retries: Counter[str] = Counter()  # verdicts that let a task run again
        self._last_of_key: dict[bytes, str] = {}
        self._before: dict[str, str] = {}  # task -> the one before it with the same ordering key
        self._stage = stage
        self.failures: Counter[str] = Counter()  # of each task, as its last claim was answered
        self._buried: set[bytes] = set()  # keys of the delayed topic that had a tombstone
        self._not_before_ms: Counter[str] = Counter()
        self._validity = Validity()
        self._read: Counter[TopicPartition] = Counter()
        self._at: dict[tuple[int, int], str] = {}  # what lies where in the queue; "": bytes without an id
        self._carriers: dict[str, set[Carrier]] = {}  # what of each task no commit covers
        self._dead_at: set[tuple[int, int]] = set()
        self._covered: dict[int, tuple[int, frozenset[int]]] = {}  # by partition: the commit, and what is done above it
        self._committed: dict[int, Position] = {}
        self._over: set[str] = set()  # tasks of which a final verdict was accepted
        self._append, stage.broker.append = stage.broker.append, self._appended  # type: ignore[method-assign]
        self._newest: dict[str, str] = {}  # the fence given out last
        self.records: dict[str, TaskRecord] = {}  # as the ledger had them last
        self._last_attempt: dict[str, int] = {}

    def wrong(self, text: str) -> None:
        self.violations.append(text)

    # -- user code -----------------------------------------------------------------------------------------------------

    def started(self, worker: str, attempt: Attempt, *, in_order: bool) -> None:
        task_id, run = attempt.task_id, (attempt.task_id, attempt.attempt)
        self.starts[task_id] += 1
        if task_id in self.ended:
            self.wrong(f"{run} starts on {worker}, and Kafka has the outcome of {task_id}")
        twin = self.open_runs.get(run) or next((w for (t, _), w in self.open_runs.items() if t == task_id), None)
        if twin is not None and not self.excused[task_id]:
            self.wrong(f"{run} starts on {worker} while it runs on {twin}, without a fault")
        self.open_runs[run] = worker
        if self._stage.clock.now_ms() < self._not_before_ms[task_id]:
            self.wrong(f"{task_id} starts before its time")
        if in_order:
            self._judge_order(task_id)

    def _judge_order(self, task_id: str) -> None:
        before = self._before.get(task_id)
        if before is not None and before not in self._over:
            self.wrong(f"{task_id} starts, and {before}, which has its key and comes before it, has not ended")

    def fault_over(self, worker: str) -> int:
        """A fault comes over a worker: what runs in it may run again. Return how many those are."""
        running = [task_id for (task_id, _), owner in self.open_runs.items() if owner == worker]
        self.excused.update(running)
        return len(running)

    def excuse(self, attempts: Iterable[Attempt]) -> None:
        self.excused.update(attempt.task_id for attempt in attempts)

    def ledger_lost(self) -> int:
        """The ledger forgot: what Kafka does not say is open again, and what ran may run again."""
        self.ledger_losses += 1
        self._newest.clear()
        self.records = {task_id: record for task_id, record in self.records.items() if record.final}
        in_hand = self.starts.keys() - self.ended.keys()
        self.excused.update(in_hand)
        return len(in_hand)

    def commits_lost(self) -> None:
        """The group's offsets were forgotten: everything is read again, and commits begin anew."""
        self._covered.clear()
        self._committed.clear()

    @property
    def repeats(self) -> Counter[str]:
        """How often each task ran beyond what its verdicts asked for."""
        more = {task_id: count - self.retries[task_id] - 1 for task_id, count in self.starts.items()}
        return Counter({task_id: count for task_id, count in more.items() if count > 0})

    # -- the ledger ----------------------------------------------------------------------------------------------------

    def claimed(self, task_ids: Iterable[str], answers: Iterable[Answer]) -> None:
        for task_id, answer in zip(task_ids, answers, strict=True):
            if not isinstance(answer, Run):
                continue
            before = self._newest.get(task_id, "0.0")
            if _number(answer.fence) < _number(before):
                self.wrong(f"{task_id}: fence {answer.fence} after {before}")
            if task_id in self.ended:
                self.wrong(f"{task_id} is given out again, and Kafka has its outcome")
            self._newest[task_id] = answer.fence
            self._last_attempt[task_id] = answer.attempt
            self.failures[task_id] = answer.failures

    def settled(self, accepts: Iterable[Accept], answers: Iterable[int | None]) -> None:
        for accept, accepted in zip(accepts, answers, strict=True):
            if accepted is None:
                continue
            if accept.fence != self._newest.get(
                accept.task_id, accept.fence
            ):  # lost with the ledger: the outcome decides
                self.wrong(f"{accept.task_id}: fence {accept.fence} accepted, {self._newest[accept.task_id]} counts")
            number = self._last_attempt[accept.task_id]
            first = self.open_runs.pop((accept.task_id, number), None) is not None
            if accept.state in (State.QUEUED, State.SCHEDULED):
                self.retries[accept.task_id] += first

    def touched(self, records: Iterable[TaskRecord | None]) -> None:
        """What became of records that somebody wrote to."""
        self._take_in()
        for record in records:
            if record is not None:
                self._judge_record(record)

    def _judge_record(self, record: TaskRecord) -> None:
        before = self.records.get(record.task_id)
        self.records[record.task_id] = record
        if record.status in FINAL:
            self._over.add(record.task_id)
        if record.final and record.task_id not in self.ended:
            self.wrong(f"{record.task_id} is shown {record.status}, and Kafka has no outcome of it")
        if before is None:
            return
        given_back = before.status is State.PROCESSING and record.status is State.QUEUED  # C1
        if record.attempts < before.attempts - given_back:
            self.wrong(f"{record.task_id}: {before.attempts} attempts, then {record.attempts}")
        if before.status in FINAL and (before.status, before.fence) != (record.status, record.fence):
            self.wrong(f"{record.task_id} was {before.status} by {before.fence} and is {record.status}")

    # -- Kafka ---------------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Take in what Kafka got, then judge what was committed."""
        self._take_in()
        found = self._stage.broker.committed(self._stage.topics.tasks, GROUP) if not self._stage.broker.down else {}
        for where, position in found.items():
            if self._committed.get(where.partition) != position:
                self._committed[where.partition] = position
                above = frozenset(read_bitmap(position.metadata, position.offset))
                self._judge_commit(where.partition, position.offset, above)

    def _appended(self, message: Message) -> Report:
        """Taken in at once: what lies in two topics says nothing of what came first."""
        report = self._append(message)
        self._take_in()
        return report

    def _take_in(self) -> None:
        topics = self._stage.topics
        for topic in (topics.outcomes, topics.dead, topics.delayed, topics.tasks):
            for partition, log in enumerate(self._stage.broker.logs.get(topic, [])):
                where = TopicPartition(topic, partition)
                for record in log[self._read[where] :]:
                    self._take(record)
                self._read[where] = len(log)

    def _take(self, record: Record) -> None:
        topics = self._stage.topics
        if record.topic == topics.tasks:
            self._take_envelope(record)
        elif record.topic == topics.outcomes:
            outcome = self._validity.read(record)
            if outcome is not None:
                self._take_outcome(outcome)
        elif record.topic == topics.dead:
            _, partition, offset = record.headers[HEADER_SOURCE].decode().rsplit("/", 2)
            self._dead_at.add((int(partition), int(offset)))
            if HEADER_TASK in record.headers:
                self.dead[record.headers[HEADER_TASK].decode()] += 1
        elif record.key is not None:
            task_id, generation = read_key(record.key)
            carrier: Carrier = ("delayed", record.key, 0)
            if record.value:
                self.published.add(task_id)
                if not generation:
                    self._not_before_ms[task_id] = decode(record.value).not_before_ms
                self._carriers.setdefault(task_id, set()).add(carrier)
            else:
                self._buried.add(record.key)
                self._carriers.setdefault(task_id, set()).discard(carrier)
                self._judge_carried(task_id, f"the tombstone of {record.key!r}")

    def _take_envelope(self, record: Record) -> None:
        place = (record.partition, record.offset)
        self._at[place] = ""
        try:
            task_id = decode(record.value).task_id
        except Undecodable:
            return
        self._at[place] = task_id
        self._carriers.setdefault(task_id, set()).add(("q", *place))
        if task_id not in self.published:
            self.published.add(task_id)
            if record.key is not None:
                if record.key in self._last_of_key:
                    self._before[task_id] = self._last_of_key[record.key]
                self._last_of_key[record.key] = task_id

    def _take_outcome(self, outcome: OutcomeRecord) -> None:
        if outcome.state not in FINAL:
            return
        first = self.ended.setdefault(outcome.task_id, outcome)
        facts = [(o.fence, o.state, bytes(o.result), o.attempts) for o in (first, outcome)]
        if facts[0] != facts[1]:
            self.wrong(f"{outcome.task_id} has two outcomes: {facts[0]} and {facts[1]}")
        if outcome.state is State.FAILED and not self.dead[outcome.task_id]:
            self.wrong(f"{outcome.task_id} is FAILED in Kafka before its dead letter is")

    def _judge_commit(self, partition: int, offset: int, above: frozenset[int]) -> None:
        self.commits += 1
        before, before_above = self._covered.get(partition, (0, frozenset()))
        self._covered[partition] = (offset, above)
        if offset < before:
            self.wrong(f"partition {partition}: committed {before}, then {offset}")
        for at in [*range(before, offset), *above]:
            if at in before_above or (partition, at) not in self._at:
                continue
            task_id = self._at[partition, at]
            if task_id:
                self._carriers[task_id].discard(("q", partition, at))
                self._judge_carried(task_id, f"the commit of {partition}/{at}")
            elif (partition, at) not in self._dead_at:
                self.wrong(f"the commit passed {partition}/{at}, bytes without a dead letter")

    def _judge_carried(self, task_id: str, what: str) -> None:
        if task_id not in self.ended and not self._carriers[task_id]:
            self.wrong(f"LOST by {what}: nothing in Kafka carries {task_id}, and it has no outcome")

    # -- the end -------------------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Every task has its outcome, and every offset is committed."""
        logs = self._stage.broker.logs[self._stage.topics.tasks]
        done = all(self._covered.get(at, (0,))[0] == len(log) for at, log in enumerate(logs))
        return done and len(self.ended) == len(self.published)

    @property
    def delayed(self) -> set[int | bytes]:
        """What waits for a time and never had a tombstone: what comes again behind one may stay, and is over."""
        found = {key for carriers in self._carriers.values() for what, key, _ in carriers if what == "delayed"}
        return found - self._buried

    def close(self) -> None:
        """What must hold when everything is over."""
        self.look()
        lost = sorted(self.published - self.ended.keys())
        assert not lost, f"lost or stuck: {lost[:10]} ({len(lost)} in all); {self._stage.record(lost[0])}"
        assert self.finished, f"not committed: {self._covered}"
        assert not self.ended.keys() - self.published, "an outcome of what nobody published"
        for task_id, outcome in self.ended.items():
            record = self._stage.ledger.records([task_id])[0]
            if record is None or not record.final or record.status is not outcome.state:
                self.wrong(f"{task_id} is {outcome.state} in Kafka, the ledger says {record}")
            failed = outcome.state is State.FAILED
            if self.dead[task_id] < failed or (self.dead[task_id] and not failed and not self.ledger_losses):
                self.wrong(f"{task_id} is {outcome.state} and has {self.dead[task_id]} dead letters")
        if self.delayed:
            self.wrong(f"left in the delayed topic: {self.delayed}")
        if unexcused := self.repeats - self.excused:
            self.wrong(f"ran again without a fault: {unexcused}")
        assert not self.violations, self.violations


def _number(fence: str) -> tuple[int, ...]:
    return tuple(int(part) for part in fence.split("."))
