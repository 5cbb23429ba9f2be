"""The proof of every run: each submitted task has exactly one outcome in Q.outcomes, and it is the right one.

One invariant: it is read from Kafka as anybody could read it, after the run, and nothing that ran is asked.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic

from yadtq.broker import Broker, Record, TopicPartition
from yadtq.codec import OutcomeRecord, decode_outcome
from yadtq.layout import HEADER_MARKER
from yadtq.states import State

LOOK_S = 0.25  # rates come from Kafka's times, so it need not be often
READ_S = 60.0
READ_MOST = 5_000


@dataclass(frozen=True)
class Delivery:
    """What the outcomes topic says of one run."""

    outcomes: Mapping[str, OutcomeRecord]
    moments_s: Sequence[float]  # when Kafka got them, ascending, by its clock
    problems: Sequence[str] = field(default_factory=list)

    @property
    def timeline(self) -> list[tuple[float, int]]:
        return [(at, done) for done, at in enumerate(self.moments_s, 1)]


def ends(broker: Broker, topic: str) -> dict[TopicPartition, int]:
    """Where a topic ends now."""
    return {where: behind for where, (_, behind) in broker.end_offsets(topic).items()}


def written(broker: Broker, topic: str, since: Mapping[TopicPartition, int]) -> int:
    """How many records a topic has got, markers too."""
    return sum(end - since.get(where, 0) for where, end in ends(broker, topic).items())


def reached(broker: Broker, topic: str, since: Mapping[TopicPartition, int], count: int) -> bool:
    """Whether a topic has got so many outcomes; it is read only when there are enough records."""
    return written(broker, topic, since) >= count and len(read(broker, topic, since)) >= count


def read(broker: Broker, topic: str, since: Mapping[TopicPartition, int]) -> list[Record]:
    """All outcomes that a topic has got."""
    left = {where: end for where, end in ends(broker, topic).items() if end > since.get(where, 0)}
    records: list[Record] = []
    reader = broker.reader()
    deadline_mono = monotonic() + READ_S
    try:
        reader.watch({where: since.get(where, 0) for where in left})
        while left and monotonic() < deadline_mono:
            for record in reader.poll(0.5, READ_MOST):
                if HEADER_MARKER not in record.headers:
                    records.append(record)
                if record.offset + 1 >= left.get(record.where, 0):
                    left.pop(record.where, None)
    finally:
        reader.close()
    return records


def check(
    broker: Broker,
    topic: str,
    since: Mapping[TopicPartition, int],
    expected: Sequence[str],
    is_right: Callable[[str, bytes], bool],
) -> Delivery:
    """Read the outcomes of a run and say what is wrong with them."""
    records = read(broker, topic, since)
    found = [decode_outcome(record.value) for record in records]
    times = Counter(outcome.task_id for outcome in found)
    outcomes = {outcome.task_id: outcome for outcome in found}
    missing = [task_id for task_id in expected if task_id not in times]
    strange = len(times.keys() - set(expected))
    twice = sum(1 for count in times.values() if count > 1)
    wrong = [
        task_id
        for task_id in expected
        if task_id in outcomes
        and not (outcomes[task_id].state is State.SUCCESS and is_right(task_id, bytes(outcomes[task_id].result)))
    ]
    problems = [
        f"{count:,} tasks {what}"
        for count, what in (
            (len(missing), "have no outcome"),
            (twice, "have several outcomes"),
            (strange, "were never submitted"),
            (len(wrong), "have a wrong outcome"),
        )
        if count
    ]
    return Delivery(outcomes, sorted(record.timestamp_ms / 1000 for record in records), problems)
