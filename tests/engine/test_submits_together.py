"""Submits of many threads and coroutines at the same time: each gets what became of its own, whatever happens."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

import yadtq
from waiting import eventually
from yadtq.broker import Flight, Message, Report
from yadtq.broker.memory import MemoryBroker, MemorySender
from yadtq.ledger import NewTask
from yadtq.ledger.memory import MemoryLedger

THREADS = 16


class Kafka(MemorySender):
    """The memory sender; it refuses, or keeps its reports back, as the message says."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.groups: list[int] = []
        self.go, self.turned = threading.Event(), threading.Condition()
        self.held: list[tuple[Flight, int, Message]] = []

    def send(self, messages: Sequence[Message]) -> Flight:
        self.groups.append(len(messages))
        flight = Flight(len(messages))
        for at, message in enumerate(messages):
            if b"refuse" in (message.value or b""):
                flight.land(at, Report("not this one", refused=True))
            elif b"hold" in (message.value or b""):
                self.held.append((flight, at, message))
            else:
                flight.land(at, self._broker.append(message))
        return flight

    def wait(self, flight: Flight, timeout_s: float, enough: int | None = None) -> list[int]:
        with self.turned:
            self.turned.wait_for(lambda: flight.has(enough), timeout_s)
        return flight.fresh()

    def let_go(self) -> None:
        with self.turned:
            for flight, at, message in self.held:
                flight.land(at, self._broker.append(message))
            self.held.clear()
            self.turned.notify_all()


class Stage:
    def __init__(self) -> None:
        self.broker, self.ledger = MemoryBroker(), MemoryLedger()
        self.kafka = Kafka(self.broker)
        self.broker.sender = lambda: self.kafka  # type: ignore[method-assign]
        self.app = yadtq.App("demo", broker=self.broker, ledger=self.ledger)

        @self.app.task
        def say(word: str) -> str:
            return word

        self.say = say
        self.app.ensure_queue("demo")

    def together(self, words: Sequence[str]) -> list[yadtq.Handle[str] | Exception]:
        """Submit each word on a thread of its own, all at the same time."""
        ends: list[yadtq.Handle[str] | Exception] = [Exception("nothing came back")] * len(words)
        begin = threading.Barrier(len(words))

        def one(at: int) -> None:
            begin.wait(30)
            try:
                ends[at] = self.say.submit(words[at])
            except Exception as error:
                ends[at] = error

        in_threads([lambda at=at: one(at) for at in range(len(words))])  # type: ignore[misc]
        return ends

    def many(self) -> list[yadtq.Handle[str]]:
        """A large call of which 400 arrive at once and 100 are held."""
        return self.say.submit_many([("fine",)] * 400 + [("hold",)] * 100)

    def sending_many(self, ends: list[yadtq.Handle[str]]) -> threading.Thread:
        """The same on a thread of its own."""
        sending = threading.Thread(target=lambda: ends.extend(self.many()))
        sending.start()
        return sending


def in_threads(work: Sequence[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=one) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.app.close()


def test_of_many_submits_only_the_one_that_kafka_refuses_fails(stage: Stage) -> None:
    for _ in range(20):
        ends = stage.together(["refuse", *["fine"] * (THREADS - 1)])
        assert isinstance(ends[0], yadtq.SubmitError)
        assert "not this one" in str(ends[0])
        for end in ends[1:]:
            assert isinstance(end, yadtq.Handle)
            assert end.status() is yadtq.State.QUEUED
    assert sum(len(log) for log in stage.broker.logs["demo"]) == 20 * (THREADS - 1)
    assert sum(stage.kafka.groups) == 20 * THREADS


def test_what_is_wrong_with_one_is_no_business_of_the_others(stage: Stage) -> None:
    ends = stage.together(["x" * 300_000, *["fine"] * (THREADS - 1)])
    assert isinstance(ends[0], yadtq.TooLarge)
    assert all(isinstance(end, yadtq.Handle) for end in ends[1:])


def test_while_redis_is_down_all_submits_return_and_are_known_as_queued(stage: Stage) -> None:
    stage.ledger.down = True
    ends = stage.together(["fine"] * THREADS)
    stage.ledger.down = False
    assert stage.ledger.records([end.task_id for end in ends if isinstance(end, yadtq.Handle)]) == [None] * THREADS
    for end in ends:
        assert isinstance(end, yadtq.Handle)
        assert end.status() is yadtq.State.QUEUED


def test_each_submit_is_one_record_and_those_of_a_thread_keep_their_order(stage: Stage) -> None:
    def one(key: str) -> None:
        for n in range(50):
            stage.say.using(key=key).submit(f"{key}.{n}.")

    in_threads([lambda key=f"k{at}": one(key) for at in range(THREADS)])  # type: ignore[misc]
    for at in range(THREADS):
        key = f"k{at}".encode()
        found = [record.value for log in stage.broker.logs["demo"] for record in log if record.key == key]
        assert len(found) == 50
        assert all(b'"%s.%d."' % (key, n) in value for n, value in enumerate(found))


def test_a_report_that_is_late_holds_up_its_own_submit_and_not_the_next_one(stage: Stage) -> None:
    ends: list[yadtq.Handle[str]] = []
    waiting = threading.Thread(target=lambda: ends.append(stage.say.submit("hold")))
    waiting.start()
    eventually(lambda: stage.kafka.held)
    assert stage.say.submit("fine").status() is yadtq.State.QUEUED
    assert waiting.is_alive()
    stage.kafka.let_go()
    waiting.join(30)
    assert ends[0].status() is yadtq.State.QUEUED


def test_a_report_that_is_late_holds_up_nobody_of_its_group(stage: Stage) -> None:
    for late in ("hold", "hold both"):  # whoever of them leads
        ends: dict[str, yadtq.Handle[str]] = {}
        words = ["a", late, "b", "c"] if late == "hold" else [late, "a", "b", late]

        def one(at: int, words: Sequence[str] = words, ends: dict[str, yadtq.Handle[str]] = ends) -> None:
            ends[f"{at} {words[at]}"] = stage.say.submit(words[at])

        road = stage.app._publisher._together._road
        road.acquire()  # all of them gather behind it
        threads = [threading.Thread(target=one, args=(at,)) for at in range(4)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(stage.app._publisher._together._gathering or []) == 4)
        road.release()
        quick = {f"{at} {word}" for at, word in enumerate(words) if word != late}
        eventually(lambda quick=quick, ends=ends: ends.keys() == quick)  # type: ignore[misc]
        assert {ends[word].status() for word in quick} == {yadtq.State.QUEUED}
        stage.kafka.let_go()
        for thread in threads:
            thread.join(30)
        assert len(ends) == 4
        assert {end.status() for end in ends.values()} == {yadtq.State.QUEUED}


def test_of_two_that_are_late_the_first_does_not_wait_for_the_second(stage: Stage) -> None:
    ends: list[str] = []
    with stage.app._publisher._together._road:
        threads = [
            threading.Thread(target=lambda word=word: ends.append((stage.say.submit(word), word)[1]))
            for word in ("hold 1", "hold 2", "fine")
        ]
        for thread in threads:
            thread.start()
        eventually(lambda: len(stage.app._publisher._together._gathering or []) == 3)
    eventually(lambda: ends == ["fine"])
    second = next(held for held in stage.kafka.held if b"hold 2" in (held[2].value or b""))
    stage.kafka.held.remove(second)
    stage.kafka.let_go()
    eventually(lambda: ends == ["fine", "hold 1"])
    stage.kafka.held.append(second)
    stage.kafka.let_go()
    for thread in threads:
        thread.join(30)
    assert ends == ["fine", "hold 1", "hold 2"]


def test_who_gets_no_report_in_time_is_told_so_and_the_others_of_its_group_are_not(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yadtq.publisher.REPORT_S", 0.2)
    with pytest.raises(yadtq.SubmitUnknown) as caught:
        stage.say.submit_many([("fine",), ("hold",), ("fine",)])
    (unknown,) = [message for _, _, message in stage.kafka.held]
    assert caught.value.task_id.encode() in (unknown.value or b"")
    ends = stage.together(["hold", *["fine"] * (THREADS - 1)])
    assert [isinstance(end, yadtq.SubmitUnknown) for end in ends] == [True] + [False] * (THREADS - 1)


def test_of_a_large_call_what_has_arrived_is_written_while_the_rest_is_on_its_way(stage: Stage) -> None:
    written: list[list[str]] = []
    queued = stage.ledger.queued

    def note(tasks: Sequence[NewTask]) -> None:
        queued(tasks)
        written.append([task.task_id for task in tasks])

    stage.ledger.queued = note  # type: ignore[method-assign]
    ends: list[yadtq.Handle[str]] = []
    sending = stage.sending_many(ends)
    eventually(lambda: written)
    assert sending.is_alive()
    assert len(written[0]) == 400
    stage.kafka.let_go()
    sending.join(30)
    assert [task_id for part in written for task_id in part] == [handle.task_id for handle in ends]


def test_what_arrives_during_the_write_of_the_others_is_written_too(stage: Stage) -> None:
    written: list[int] = []
    queued = stage.ledger.queued

    def note(tasks: Sequence[NewTask]) -> None:
        stage.kafka.let_go()
        queued(tasks)
        written.append(len(tasks))

    stage.ledger.queued = note  # type: ignore[method-assign]
    handles = stage.many()
    assert written == [400, 100]
    assert {handle.status() for handle in handles} == {yadtq.State.QUEUED}


def test_when_redis_goes_down_in_the_middle_of_a_large_call_it_is_not_asked_again(stage: Stage) -> None:
    asked: list[int] = []
    queued = stage.ledger.queued

    def fail(tasks: Sequence[NewTask]) -> None:
        asked.append(len(tasks))
        stage.ledger.down = True
        queued(tasks)

    stage.ledger.queued = fail  # type: ignore[method-assign]
    ends: list[yadtq.Handle[str]] = []
    sending = stage.sending_many(ends)
    eventually(lambda: asked)
    stage.kafka.let_go()
    sending.join(30)
    stage.ledger.down = False
    assert asked == [400]
    assert {handle.status() for handle in ends} == {yadtq.State.QUEUED}


def test_coroutines_submit_together_and_one_that_is_cancelled_changes_nothing_for_the_others(stage: Stage) -> None:
    async def main() -> list[yadtq.Handle[str]]:
        cancelled = asyncio.create_task(stage.say.submit_async("hold"))
        while not stage.kafka.held:
            await asyncio.sleep(0.001)
        many = [asyncio.create_task(stage.say.submit_async("fine")) for _ in range(100)]
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        handles = list(await asyncio.gather(*many))
        stage.kafka.let_go()
        with pytest.raises(yadtq.SubmitError):
            await stage.say.submit_async("refuse")
        return handles

    handles = asyncio.run(main())
    assert {handle.status() for handle in handles} == {yadtq.State.QUEUED}
    assert len({handle.task_id for handle in handles}) == 100
    eventually(lambda: sum(len(log) for log in stage.broker.logs["demo"]) == 101)
