"""What was published, what really ran, and how it ended: counted from Kafka and from the witness, never from Redis."""

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from yadtq.broker import Broker, Record
from yadtq.codec import OutcomeRecord, Undecodable, decode
from yadtq.states import FINAL, State
from yadtq.validity import Validity


@dataclass(frozen=True)
class Run:
    """One run of user code, by the witness. end_ms: None where it is still running or died."""

    task_id: str
    attempt: int
    pid: int
    start_ms: int
    end_ms: int | None = None

    @staticmethod
    def read(witness: Path) -> "list[Run]":
        runs: dict[tuple[str, int, int], Run] = {}
        for line in witness.read_text().splitlines():
            what, task_id, attempt, pid, at_ms = line.split(" ")
            key = (task_id, int(attempt), int(pid))
            if what == "start":
                assert key not in runs, f"{line!r}: one process began one attempt twice"
                runs[key] = Run(*key, int(at_ms))
            else:
                runs[key] = Run(*key, runs[key].start_ms, int(at_ms))
        return list(runs.values())


@dataclass(frozen=True)
class Account:
    """The books of one drama."""

    published: Counter[str]  # task ids in the queue, with how often
    outcomes: dict[str, list[OutcomeRecord]]  # of each task, in the order they were written
    runs: list[Run]

    @classmethod
    def of(cls, tasks: Sequence[Record], outcomes: Sequence[Record], runs: list[Run]) -> "Account":
        published: Counter[str] = Counter()
        for record in tasks:
            try:
                published[decode(record.value).task_id] += 1
            except Undecodable:
                continue
        ends: dict[str, list[OutcomeRecord]] = {}
        validity = Validity()
        for record in outcomes:
            outcome = validity.read(record)
            if outcome is not None and outcome.state in FINAL:
                ends.setdefault(outcome.task_id, []).append(outcome)
        return cls(published, ends, runs)

    @property
    def states(self) -> dict[str, State]:
        """How each task ended: its first outcome counts (S4)."""
        return {task_id: outcomes[0].state for task_id, outcomes in self.outcomes.items()}

    @property
    def starts(self) -> Counter[str]:
        return Counter(run.task_id for run in self.runs)

    @property
    def attempts(self) -> dict[str, int]:
        return {task_id: outcomes[0].attempts for task_id, outcomes in self.outcomes.items()}

    @property
    def lost(self) -> set[str]:
        return set(self.published) - set(self.outcomes)

    @property
    def unexpected(self) -> set[str]:
        return (set(self.starts) | set(self.outcomes)) - set(self.published)

    @property
    def duplicated(self) -> set[str]:
        """Tasks whose code was started more than once."""
        return {task_id for task_id, count in self.starts.items() if count > 1}

    @property
    def contradicted(self) -> set[str]:
        """Tasks with two outcomes that are not the same one written again."""
        return {
            task_id
            for task_id, outcomes in self.outcomes.items()
            if len({(o.fence, o.state, bytes(o.result), o.error_log) for o in outcomes}) > 1
        }

    @property
    def run_after_the_end(self) -> set[str]:
        """Tasks that were started again although their outcome was accepted before."""
        return {
            run.task_id
            for run in self.runs
            if run.task_id in self.outcomes and run.start_ms > (self.outcomes[run.task_id][0].finished_at_ms or 0) + 1
        }

    @property
    def numbered_twice(self) -> list[tuple[str, int]]:
        """Starts that share their attempt number with another one (I5)."""
        starts = Counter((run.task_id, run.attempt) for run in self.runs)
        return [start for start, count in starts.items() if count > 1]

    @property
    def counted(self) -> dict[str, Run]:
        """Of each task the run whose outcome counts."""
        attempts = self.attempts
        return {run.task_id: run for run in self.runs if attempts.get(run.task_id) == run.attempt}

    def of_task(self, task_id: str) -> list[Run]:
        return [run for run in self.runs if run.task_id == task_id]

    def check(self, *, duplicated: set[str] | None = None, late: Set[str] = frozenset()) -> "Account":
        """What holds in every drama.

        Args:
            duplicated: Which tasks had to run more than once; None says nothing about it.
            late: Which tasks may have been started again after their end.
        """
        assert self.lost == set(), self
        assert self.unexpected == set(), self
        assert self.contradicted == set(), self
        assert self.run_after_the_end <= late, self
        assert not self.numbered_twice, f"several starts under one number: {self.numbered_twice[:3]}; {self}"
        if duplicated is not None:
            assert self.duplicated == duplicated, self
        return self

    def __str__(self) -> str:
        return (
            f"published {len(self.published)}, acknowledged {len(self.outcomes)}, attempts {len(self.runs)}, "
            f"lost {sorted(self.lost)}, unexpected {sorted(self.unexpected)}, duplicated {sorted(self.duplicated)}, "
            f"contradicted {sorted(self.contradicted)}, run after the end {sorted(self.run_after_the_end)}"
        )


def read_topic(broker: Broker, topic: str) -> list[Record]:
    """Everything that a topic holds now."""
    ends = broker.end_offsets(topic)
    left = {where: last for where, (first, last) in ends.items() if last > first}
    reader = broker.reader()
    records: list[Record] = []
    try:
        reader.watch({where: ends[where][0] for where in left})
        while left:
            for record in reader.poll(1.0, 1_000):
                records.append(record)
                if record.offset + 1 >= left.get(record.where, record.offset + 2):
                    left.pop(record.where)
    finally:
        reader.close()
    return records
