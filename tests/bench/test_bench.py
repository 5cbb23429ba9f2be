"""The bench measures what it says, and its proof of delivery can fail."""

from collections.abc import Mapping

import msgspec
import pytest

from yadtq.bench import delivery
from yadtq.bench.delivery import Delivery, check
from yadtq.bench.plan import QUICK
from yadtq.bench.report import Report
from yadtq.bench.run import Wish, chosen, run
from yadtq.bench.scenario import Finding
from yadtq.bench.tally import Series, percentile, rate, ratios, spread
from yadtq.broker import Message
from yadtq.broker.memory import MemoryBroker
from yadtq.codec import OutcomeRecord, encode
from yadtq.dev.process import Interrupt
from yadtq.errors import SettingsError
from yadtq.layout import HEADER_MARKER
from yadtq.states import State

TOPIC = "bench.outcomes"


def put(broker: MemoryBroker, task_id: str, result: str = "1", state: State = State.SUCCESS) -> None:
    outcome = OutcomeRecord(
        task_id=task_id, task_type="noop", state=state, attempts=1, fence="1.1", result=msgspec.Raw(result.encode())
    )
    produce(broker, Message(TOPIC, encode(outcome), task_id.encode()))


def produce(broker: MemoryBroker, message: Message) -> None:
    producer = broker.producer()
    producer.produce(message, lambda report: None)
    producer.close(1.0)


@pytest.fixture
def broker() -> MemoryBroker:
    broker = MemoryBroker()
    broker.create_topic(TOPIC, 2, {})
    return broker


def proof(broker: MemoryBroker, *expected: str) -> Delivery:
    return check(broker, TOPIC, {}, expected, lambda task_id, result: result == b"1")


def test_one_right_outcome_of_each_task_is_exact(broker: MemoryBroker) -> None:
    put(broker, "a")
    put(broker, "b")
    found = proof(broker, "a", "b")
    assert not found.problems
    assert [done for _, done in found.timeline] == [1, 2]


@pytest.mark.parametrize(
    ("outcomes", "problem"),
    [
        ({"a": "1"}, "1 tasks have no outcome"),
        ({"a": "1", "b": "2"}, "1 tasks have a wrong outcome"),
        ({"a": "1", "b": "1", "c": "1"}, "1 tasks were never submitted"),
    ],
)
def test_what_is_not_exact_is_named(broker: MemoryBroker, outcomes: Mapping[str, str], problem: str) -> None:
    for task_id, result in outcomes.items():
        put(broker, task_id, result)
    assert proof(broker, "a", "b").problems == [problem]


def test_two_outcomes_of_a_task_and_a_failure_are_named(broker: MemoryBroker) -> None:
    put(broker, "a")
    put(broker, "a")
    put(broker, "b", state=State.FAILED)
    assert proof(broker, "a", "b").problems == ["1 tasks have several outcomes", "1 tasks have a wrong outcome"]


def test_a_marker_is_no_outcome(broker: MemoryBroker) -> None:
    put(broker, "a")
    produce(broker, Message(TOPIC, b"{}", headers={HEADER_MARKER: b"epoch"}))
    assert not proof(broker, "a").problems
    assert delivery.reached(broker, TOPIC, {}, 1)
    assert not delivery.reached(broker, TOPIC, {}, 2)


def test_what_was_there_before_the_run_does_not_count(broker: MemoryBroker) -> None:
    put(broker, "old")
    since = delivery.ends(broker, TOPIC)
    put(broker, "a")
    assert delivery.written(broker, TOPIC, since) == 1
    assert not check(broker, TOPIC, since, ["a"], lambda task_id, result: True).problems


def test_ratios_are_taken_run_by_run() -> None:
    assert ratios([10, 30, 20], [5, 30, 5]) == spread([2, 1, 4])
    assert ratios([10, 30, 20], [5, 30, 5]).median == 2
    assert percentile(range(100), 0.99) == 99
    assert percentile([3.0], 0.5) == 3


def test_the_start_is_no_part_of_a_rate() -> None:
    slow_start = [(0.0, 1), (100.0, 10), (101.0, 55), (102.0, 100)]
    assert rate(slow_start, 100) == 45


def test_a_report_judges_the_targets_of_what_ran() -> None:
    finding = Finding(
        "drain", [Series("yadtq", "tasks/s", [50.0, 70.0]), Series("handloop", "tasks/s", [100.0, 100.0])]
    )
    text = Report({"cores": "2"}, 2, False, {"drain": finding}).markdown()
    assert "| drain against the hand-written loop | >= 0.6 | 0.6 (0.5 .. 0.7) | reached |" in text
    assert "| drain, 2 runners x 8 slots, against Celery | >= 15 |  | not measured |" in text
    finding.series[0] = Series("yadtq", "tasks/s", [40.0, 41.0])
    assert "**missed**" in Report({}, 2, False, {"drain": finding}).markdown()


def test_a_wrong_wish_is_refused_before_anything_starts() -> None:
    with pytest.raises(SettingsError, match=r"there is no scenario 'drian'; known are .*drain"):
        chosen(["drian"])
    with pytest.raises(SettingsError, match="neither of them"):
        run(Wish(kafka="127.0.0.1:1"), QUICK, Interrupt(), print)
