"""The indexing thread: it finds queues, survives both stores, and knows another Kafka when it sees one."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from scene import Scene

from waiting import eventually
from yadtq import App
from yadtq.broker import Broker
from yadtq.layout import Layout
from yadtq.ledger.memory import MemoryLedger
from yadtq.settings import Address, Settings
from yadtq.web.indexer import Indexer
from yadtq.web.listing import TOP, Filter, Listing
from yadtq.web.readmodel import ReadModel


class Indexing:
    """An indexer at work on a file."""

    def __init__(self, broker: Broker, path: Path, prefix: str = "") -> None:
        self.model = ReadModel(path)
        self.listing = Listing(self.model)
        self.told = 0
        self.indexer = Indexer(broker, Layout(prefix), self.model, self._tell)
        self.indexer.start()

    def _tell(self) -> None:
        self.told += 1

    def ids(self) -> set[str]:
        return {row.task_id for row in self.listing.newest(Filter(), TOP, 1_000)}

    def has_rows(self, count: int) -> bool:
        return len(self.ids()) == count

    def has_caught_up(self) -> bool:
        return self.indexer.behind == 0

    def stop(self) -> None:
        self.indexer.stop()
        assert self.indexer.join(10)
        assert self.indexer.failure is None
        self.model.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "f.sqlite"


@pytest.fixture
def indexing(scene: Scene, path: Path) -> Iterator[Indexing]:
    indexing = Indexing(scene.broker, path)
    yield indexing
    indexing.stop()


def test_everything_is_read_and_told_and_then_nothing_is_behind(indexing: Indexing, scene: Scene) -> None:
    made = {scene.add.submit(number, 1).task_id for number in range(50)}
    eventually(lambda: indexing.ids() == made)
    eventually(lambda: indexing.indexer.behind == 0)
    assert indexing.told > 0


def test_a_queue_with_topics_that_only_look_like_one_is_left_alone(indexing: Indexing, scene: Scene) -> None:
    for name in ("x.outcomes", "x.outcomes.outcomes", "lonely.outcomes"):
        scene.broker.create_topic(name, 1, {})
    eventually(lambda: indexing.indexer.turns > 20)
    assert indexing.indexer.queues == ["tasks"]


def test_a_file_of_another_kafka_is_rebuilt(scene: Scene, path: Path) -> None:
    other = Scene()
    for number in range(20):
        other.add.submit(number, 1)
    before = Indexing(other.broker, path)
    eventually(lambda: len(before.ids()) == 20)
    before.stop()
    made = {scene.add.submit(1, 1).task_id}
    after = Indexing(scene.broker, path)
    eventually(lambda: after.ids() == made)
    after.stop()


def test_a_file_of_another_kafka_is_known_though_it_has_as_many_records(scene: Scene, path: Path) -> None:
    other = Scene()
    for at in range(5):
        other.raw(b'{"task_id":"other-%d","task_type":"add"}' % at)
        scene.raw(b'{"task_id":"mine-%d","task_type":"add"}' % at)
    before = Indexing(other.broker, path)
    eventually(lambda: len(before.ids()) == 5)
    before.stop()
    after = Indexing(scene.broker, path)
    eventually(lambda: after.ids() == {f"mine-{at}" for at in range(5)})
    after.stop()


def test_a_queue_that_was_deleted_meanwhile_goes_from_the_lists(scene: Scene, path: Path) -> None:
    indexing = Indexing(scene.broker, path)
    scene.app.ensure_queue("other", 1)
    kept = scene.add.submit(1, 1).task_id
    scene.add.using(queue="other").submit(2, 2)
    eventually(lambda: len(indexing.ids()) == 2)
    indexing.stop()
    for topic in ("other", "other.outcomes", "other.dlq"):
        del scene.broker.logs[topic]
    indexing = Indexing(scene.broker, path)
    eventually(lambda: indexing.ids() == {kept})
    indexing.stop()


def test_a_broker_that_goes_and_comes_back_is_said_and_costs_no_record(indexing: Indexing, scene: Scene) -> None:
    made = {scene.add.submit(1, 1).task_id}
    eventually(lambda: indexing.ids() == made)
    scene.broker.down = True
    assert eventually(lambda: indexing.indexer.problem)
    scene.broker.down = False
    made.add(scene.add.submit(2, 2).task_id)
    eventually(lambda: indexing.ids() == made)
    eventually(lambda: not indexing.indexer.problem)


def test_two_web_apps_may_share_a_file_also_when_one_of_them_rebuilds_it(scene: Scene, path: Path) -> None:
    one, other = Indexing(scene.broker, path), Indexing(scene.broker, path)
    made = {scene.add.submit(number, 1).task_id for number in range(5)}
    eventually(lambda: one.ids() == made)
    one.stop()
    ReadModel(path).rebuild()
    one = Indexing(scene.broker, path)
    made |= {scene.add.submit(number, 2).task_id for number in range(5)}
    eventually(lambda: one.ids() == other.ids() == made)
    assert sum(count.tasks for count in one.listing.counts()) == 10
    eventually(lambda: one.has_caught_up() and other.has_caught_up())  # also with what the other one wrote
    one.stop()
    other.stop()


def test_a_disk_that_is_full_is_said_and_tried_again(indexing: Indexing, scene: Scene) -> None:
    made = {scene.add.submit(1, 1).task_id}
    eventually(lambda: indexing.ids() == made)
    # A file that may not grow fails like a disk that is full.
    pages = indexing.model._writer.execute("PRAGMA page_count").fetchone()[0]
    indexing.model._writer.execute(f"PRAGMA max_page_count = {pages}")
    made |= {scene.greet.submit("x" * 100_000).task_id for _ in range(3)}
    assert "cannot be written" in eventually(lambda: indexing.indexer.problem)
    indexing.model._writer.execute("PRAGMA max_page_count = 1000000")
    eventually(lambda: indexing.ids() == made)
    eventually(lambda: not indexing.indexer.problem)


@pytest.mark.real
def test_on_a_real_kafka_a_restart_goes_on_exactly_and_a_deleted_file_is_rebuilt(
    kafka_address: str, prefix: str, path: Path
) -> None:
    settings = Settings(kafka=Address(kafka_address, "test"), redis=Address("nowhere:1", "test"), prefix=prefix)
    app = App("jobs", settings=settings, ledger=MemoryLedger())

    @app.task
    def add(a: int, b: int) -> int:
        return a + b

    app.ensure_queue("jobs", 3)
    made: set[str] = set()
    for expected in (200, 400):
        indexing = Indexing(app.broker, path, prefix)
        made |= {handle.task_id for handle in add.submit_many([(at, 1) for at in range(200)])}
        eventually(partial(indexing.has_rows, expected), timeout_s=30)
        assert indexing.ids() == made
        assert sum(count.tasks for count in indexing.listing.counts()) == len(made)
        eventually(indexing.has_caught_up)
        indexing.stop()
    for left in path.parent.glob(path.name + "*"):
        left.unlink()
    indexing = Indexing(app.broker, path, prefix)
    eventually(lambda: indexing.ids() == made, timeout_s=30)
    indexing.stop()
    app.close()
