"""`yadtq queue` on the memory ports: what it prints, what it grows, and what it refuses to grow."""

import json

import pytest
from terminal import Terminal

from yadtq.broker import TopicPartition
from yadtq.errors import LedgerUnavailable, NotGrowable, SettingsError, UnknownQueue
from yadtq.ledger import WorkerRecord
from yadtq.offsets import Position, write_bitmap


class Served(Terminal):
    """The command line on a stage with workers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch, "queue")
        self.workers: list[WorkerRecord] = []
        monkeypatch.setattr(self.stage.ledger, "workers", lambda: self.workers)

    def serves(self, order: str, topic: str = "q", status: str = "ALIVE") -> None:
        self.workers.append(WorkerRecord(f"w{len(self.workers)}", status, 0, 0, topic=topic, order=order))

    def commit(self, partition: int, offset: int, metadata: str = "") -> None:
        where = TopicPartition("q", partition)
        self.stage.broker.offsets["workers", where] = Position(offset, metadata)

    @property
    def partitions(self) -> dict[str, int]:
        return self.stage.broker.partitions()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Served:
    return Served(monkeypatch)


def test_the_list_tells_partitions_lag_without_the_bitmap_and_order(terminal: Served) -> None:
    for _ in range(5):
        terminal.stage.publish_bytes(b"x", 0)
    terminal.commit(0, 1, write_bitmap({3, 4}, 1))
    terminal.serves("unordered")
    terminal.serves("key", status="DEAD")
    terminal.serves("partition", topic="other")
    (line,) = terminal.run("list", "--json").output.splitlines()
    assert json.loads(line) == {"name": "q", "partitions": 2, "lag": 2, "orders": ["key", "unordered"]}
    assert terminal.run("list").output.splitlines()[1].split() == ["q", "2", "2", "key,", "unordered"]


def test_a_queue_without_workers_has_no_order(terminal: Served) -> None:
    assert terminal.run("list").output.splitlines()[1].split() == ["q", "2", "0", "-"]


def test_no_queues_is_an_answer(terminal: Served) -> None:
    terminal.stage.broker.logs.clear()
    assert terminal.run("list").output == "No queues.\n"


def test_a_queue_grows_and_its_outcomes_do_not(terminal: Served) -> None:
    terminal.serves("unordered")
    terminal.stage.publish_bytes(b"x", 0)
    assert terminal.run("grow", "q", "5").output.startswith("q has 5 partitions now, 2 before")
    assert (terminal.partitions["q"], terminal.partitions["q.outcomes"]) == (5, 2)


@pytest.mark.parametrize("wanted", ["0", "1", "2", "10001"])
def test_what_is_no_growth_is_refused(terminal: Served, wanted: str) -> None:
    result = terminal.run("grow", "q", wanted, fails=SettingsError)
    assert "has 2 partitions and gets 3 to 10,000" in str(result.exception)
    assert terminal.partitions["q"] == 2


def test_an_unknown_queue_does_not_grow(terminal: Served) -> None:
    terminal.run("grow", "p", "5", fails=UnknownQueue)


def test_an_order_that_cannot_be_asked_for_grows_nothing(terminal: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def down() -> list[WorkerRecord]:
        raise LedgerUnavailable("down")

    monkeypatch.setattr(terminal.stage.ledger, "workers", down)
    terminal.run("grow", "q", "5", fails=LedgerUnavailable)
    assert terminal.partitions["q"] == 2


@pytest.mark.parametrize("status", ["ALIVE", "DEAD"])
def test_a_queue_in_the_order_of_keys_grows_only_when_it_is_drained(terminal: Served, status: str) -> None:
    terminal.serves("key", status=status)
    for _ in range(3):
        terminal.stage.publish_bytes(b"x", 1)
    result = terminal.run("grow", "q", "5", fails=NotGrowable)
    assert "3 of its records" in str(result.exception)
    terminal.commit(1, 1, write_bitmap({1, 2}, 1))  # finished, and not below the committed offset
    terminal.run("grow", "q", "5", fails=NotGrowable)
    assert terminal.partitions["q"] == 2
    terminal.commit(1, 3)
    terminal.run("grow", "q", "5")
    assert terminal.partitions["q"] == 5


def test_the_order_of_keys_in_another_queue_is_no_obstacle(terminal: Served) -> None:
    terminal.serves("key", topic="other")
    terminal.stage.publish_bytes(b"x", 1)
    terminal.run("grow", "q", "5")
