"""The front door on the memory ports: what submit promises, and what a handle says."""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

import yadtq
from waiting import eventually
from yadtq.attempt import Attempt
from yadtq.broker import Flight, Message, Report
from yadtq.broker.memory import MemoryBroker, MemorySender
from yadtq.errors import Fenced
from yadtq.ledger import Batch, Beat, Claim, Run
from yadtq.ledger.memory import MemoryLedger
from yadtq.settings import WorkerSettings
from yadtq.task import Call, Options
from yadtq.telemetry import Telemetry
from yadtq.worker import Worker


class World:
    """An app on memory ports, and a worker in a thread when it is wanted."""

    def __init__(self) -> None:
        self.broker, self.ledger = MemoryBroker(), MemoryLedger()
        self.app = yadtq.App("demo", broker=self.broker, ledger=self.ledger)

        @self.app.task
        def add(a: int, b: int) -> int:
            return a + b

        @self.app.task
        def boom() -> None:
            raise ValueError("no luck")

        self.add, self.boom = add, boom
        self.telemetry = Telemetry()
        self._worker: Worker | None = None
        self._thread: threading.Thread | None = None

    def work(self) -> None:
        self._worker = Worker(self.app, WorkerSettings("w"), partitions=4, telemetry=self.telemetry)
        self._thread = threading.Thread(target=self._worker.run)
        self._thread.start()

    def take_over(self, task_id: str) -> Run:
        """Let another worker claim a task, as after the end of the first one's lease."""
        record = self.ledger.records([task_id])[0]
        assert record is not None
        self.ledger.leave("w", self.ledger.workers()[0].incarnation)
        self.ledger.beat(Beat("other", "1", 10_000, first=True))
        claim = Claim(task_id, "t", "parent", record.partition, record.offset, 0, 0, 3)
        (answer,) = self.ledger.exchange(record.topic, "other", "1", Batch(claims=[claim])).claims
        assert isinstance(answer, Run)
        return answer

    def close(self) -> None:
        if self._worker is not None and self._thread is not None:
            self._worker.drain()
            self._thread.join()
        self.app.close()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def test_a_task_that_is_submitted_for_later_waits_and_runs_then(world: World) -> None:
    begun_mono = time.monotonic()
    handle = world.add.using(delay_s=0.4, key="k").submit(1, 2)
    assert handle.status() is yadtq.State.SCHEDULED
    world.work()
    assert handle.result(timeout_s=20) == 3
    assert time.monotonic() - begun_mono >= 0.4
    (record,) = (record for log in world.broker.logs["demo"] for record in log)
    assert record.key == b"k"
    assert [world.telemetry.counts[kind] for kind in ("scheduled", "fired", "started")] == [1, 1, 1]


def test_many_submits_and_those_of_a_coroutine_wait_too(world: World) -> None:
    later = world.add.using(at=datetime.now(UTC) + timedelta(hours=1))
    handles = [*later.submit_many([(1, 2), (3, 4)]), asyncio.run(later.submit_async(5, 6))]
    assert {handle.status() for handle in handles} == {yadtq.State.SCHEDULED}
    assert world.broker.logs["demo"] == [[]] * 8
    records = [record for log in world.broker.logs["demo.delayed"] for record in log]
    assert {record.key for record in records} == {f"0:{handle.task_id}".encode() for handle in handles}


def test_what_has_passed_starts_at_once(world: World) -> None:
    for later in (world.add.using(delay_s=0), world.add.using(at=time.time() - 1), world.add.using(at=0)):
        assert later.submit(1, 2).status() is yadtq.State.QUEUED


def test_what_is_too_far_away_is_refused_and_nothing_is_sent(world: World) -> None:
    with pytest.raises(yadtq.InvalidOptions, match=r"in seconds, not in ms"):
        world.add.using(at=time.time() * 1000).submit(1, 2)
    assert "demo" not in world.broker.logs


def test_a_queue_that_is_older_than_its_topic_for_delays_gets_one(world: World) -> None:
    world.broker.create_topic("demo", 3, {})
    world.add.using(delay_s=60).submit(1, 2)
    assert len(world.broker.logs["demo.delayed"]) == 3


def test_a_task_may_submit_for_later(world: World) -> None:
    add = world.add

    @world.app.task
    def parent() -> str:
        return add.using(delay_s=0.3).submit(1, 2).task_id

    world.work()
    child = parent.submit().result(timeout_s=20)
    assert world.app.handle(child).result(timeout_s=20) == 3
    assert world.telemetry.counts["fired"] == 1


def test_a_submitted_task_runs_and_its_handle_has_the_result(world: World) -> None:
    handle = world.add.submit(1, 2)
    assert handle.status() is yadtq.State.QUEUED
    world.work()
    assert handle.result(timeout_s=20) == 3
    assert handle.status() is yadtq.State.SUCCESS
    assert world.app.handle(handle.task_id).result(timeout_s=5) == 3


def test_a_failed_task_raises_with_its_error_log_and_attempts(world: World) -> None:
    world.work()
    with pytest.raises(yadtq.TaskFailed, match="no luck") as caught:
        world.boom.submit().result(timeout_s=20)
    assert caught.value.attempts == 3
    assert "Traceback" in caught.value.error_log


def test_submit_many_returns_a_handle_a_call_and_goes_round_the_partitions(world: World) -> None:
    handles = world.add.submit_many([(n, n) for n in range(80)])
    assert len({handle.task_id for handle in handles}) == 80
    assert {len(log) for log in world.broker.logs["demo"]} == {10}
    world.work()
    assert [handle.result(timeout_s=20) for handle in handles] == [2 * n for n in range(80)]


def test_a_handle_can_be_awaited_and_the_loop_goes_on_meanwhile(world: World) -> None:
    async def main() -> tuple[int, int]:
        handle = await world.add.submit_async(20, 22)
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        world.work()
        result = await handle
        ticking.cancel()
        return result, ticks

    result, ticks = asyncio.run(main())
    assert result == 42
    assert ticks > 100


def test_unknown_ids_are_not_found_and_never_pending(world: World) -> None:
    handle = world.app.handle("nobody")
    with pytest.raises(yadtq.NotFound):
        handle.status()
    with pytest.raises(yadtq.NotFound):
        handle.result(timeout_s=5)


def test_a_wait_that_is_over_says_so_and_the_task_goes_on(world: World) -> None:
    handle = world.add.submit(1, 2)
    with pytest.raises(yadtq.ResultTimeout):
        handle.result(timeout_s=0.01)
    world.work()
    assert handle.result(timeout_s=20) == 3


def test_wrong_arguments_are_refused_before_anything_is_published(world: World) -> None:
    with pytest.raises(yadtq.InvalidArguments):
        world.add.submit("x", 2)  # type: ignore[arg-type]
    with pytest.raises(yadtq.InvalidArguments):
        world.add.submit_many([(1, 2), (1,)])
    with pytest.raises(yadtq.TooLarge, match="262,144"):
        world.app.task(name="echo")(lambda text: text).submit("x" * 300_000)
    assert not any(log for logs in world.broker.logs.values() for log in logs)


def test_an_id_that_is_submitted_twice_runs_once(world: World) -> None:
    first = world.add.using(task_id="once").submit(1, 2)
    second = world.add.using(task_id="once").submit(1, 2)
    world.work()
    assert (first.result(timeout_s=20), second.result(timeout_s=20)) == (3, 3)
    eventually(lambda: sum(at.offset for at in world.broker.committed("demo", "workers").values()) == 2)
    record = world.ledger.records(["once"])[0]
    assert record is not None
    assert record.attempts == 1


def test_redis_being_down_delays_the_view_and_does_not_fail_the_submit(world: World) -> None:
    world.ledger.down = True
    handle = world.add.submit(1, 2)
    with pytest.raises(yadtq.Unavailable):
        handle.status()
    world.ledger.down = False
    assert handle.status() is yadtq.State.QUEUED
    world.work()
    assert handle.result(timeout_s=20) == 3


def test_no_report_from_kafka_means_unknown_and_names_the_id(world: World) -> None:
    world.broker.create_topic("demo", 1, {})
    world.app.ensure_queue("demo")

    class Silent(MemorySender):
        def send(self, messages: Sequence[Message]) -> Flight:
            flight = Flight(len(messages))
            flight.land(0, Report("timed out"))
            return flight

    world.broker.sender = lambda: Silent(world.broker)  # type: ignore[method-assign]
    with pytest.raises(yadtq.SubmitUnknown, match="Submit it again") as caught:
        world.add.using(task_id="mine").submit(1, 2)
    assert caught.value.task_id == "mine"


def test_the_same_key_goes_to_the_same_partition(world: World) -> None:
    for n in range(20):
        world.add.using(key="customer-7").submit(n, n)
    assert sorted(len(log) for log in world.broker.logs["demo"]) == [0, 0, 0, 0, 0, 0, 0, 20]


def test_a_worker_that_cannot_end_a_task_says_so_at_its_start(world: World) -> None:
    @world.app.task(time_limit_s=1.0)
    def limited() -> int:
        return 7

    told: list[tuple[str, str]] = []
    world.telemetry.listen(lambda event: told.append((event.kind, event.detail)))
    handle = limited.submit()
    world.work()
    assert handle.result(timeout_s=20) == 7
    assert ("not_isolated", "limited") in told


def test_a_task_submits_tasks_and_running_twice_submits_them_once(world: World) -> None:
    tries: list[int] = []

    @world.app.task
    def parent() -> list[str]:
        ids = [world.add.submit(n, n).task_id for n in range(3)]
        tries.append(1)
        if len(tries) < 2:
            raise ValueError("once more")
        return ids

    handle = parent.submit()
    world.work()
    children = handle.result(timeout_s=20)
    assert [world.app.handle(child).result(timeout_s=20) for child in children] == [0, 2, 4]
    assert len(tries) == 2
    assert sum(len(log) for log in world.broker.logs["demo"]) == 1 + 2 * 3
    assert [record.attempts for record in world.ledger.records(children) if record] == [1, 1, 1]


def test_what_an_attempt_submits_that_does_not_count_any_more_is_refused(world: World) -> None:
    inside, go_on = threading.Event(), threading.Event()
    caught: list[Exception] = []

    @world.app.task
    def parent() -> None:
        inside.set()
        go_on.wait(20)
        try:
            world.add.submit(1, 1)
        except yadtq.SubmitError as error:
            caught.append(error)

    handle = parent.submit()
    world.work()
    inside.wait(20)
    run = world.take_over(handle.task_id)
    go_on.set()
    eventually(lambda: caught)
    assert isinstance(caught[0], Fenced)
    assert f"attempt 1 of task '{handle.task_id}' does not count any more" in str(caught[0])
    late = Attempt(1, handle.task_id, "parent", b"[]", b"{}", 2, run.fence)
    assert world.app.publish_for(late, []) == []
    with pytest.raises(Fenced):
        world.app.publish_for(replace(late, fence="1.1"), [])
    assert world.app.publish_for(replace(late, task_id="forgotten"), []) == [], "a ledger that was wiped refuses nobody"


def test_where_redis_does_not_answer_what_a_task_submits_is_published(world: World) -> None:
    call = Call("add", b"[1, 1]", b"{}", Options(queue="demo", task_id="child"))
    world.app.ensure_queue("demo")
    world.ledger.down = True
    assert world.app.publish_for(Attempt(1, "p", "parent", b"[]", b"{}", 1, "1.1"), [call]) == ["child"]
