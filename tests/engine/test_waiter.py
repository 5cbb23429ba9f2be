"""Waiting for ends: by announcement, and without one."""

import threading
from collections.abc import Iterator, Sequence

import pytest

from waiting import eventually
from yadtq import waiter
from yadtq.errors import LedgerUnavailable, NotFound
from yadtq.ledger import TaskRecord
from yadtq.ledger.announcements import Announcements, Ear
from yadtq.ledger.protocol import OnHeard, OnIds
from yadtq.states import State
from yadtq.waiter import Waiter


def record(task_id: str, state: State = State.QUEUED) -> TaskRecord:
    final = state is State.SUCCESS
    return TaskRecord(task_id, state, final, "add", 1, "1.1", "w", b"3", None, 1, 1, 1, "q", 0, 0)


class Books:
    """A ledger of which only the records are asked, with every question kept."""

    def __init__(self) -> None:
        self.found: dict[str, TaskRecord] = {}
        self.questions: list[list[str]] = []
        self.down = False
        self.silent = False  # announcements are lost
        self.on_heard: list[OnHeard] = []
        self._announcements = Announcements()

    def listen(self, on_ids: OnIds, on_heard: OnHeard) -> Ear:
        self.on_heard.append(on_heard)
        return self._announcements.listen(on_ids, on_heard)

    def records(self, task_ids: Sequence[str]) -> list[TaskRecord | None]:
        self.questions.append(list(task_ids))
        if self.down:
            raise LedgerUnavailable("down")
        return [self.found.get(task_id) for task_id in task_ids]

    def queue(self, *task_ids: str) -> None:
        self.found |= {task_id: record(task_id) for task_id in task_ids}

    def end(self, *task_ids: str) -> None:
        self.found |= {task_id: record(task_id, State.SUCCESS) for task_id in task_ids}
        if not self.silent:
            self._announcements.tell(task_ids)

    @property
    def asked(self) -> int:
        return sum(map(len, self.questions))


@pytest.fixture
def books() -> Books:
    return Books()


@pytest.fixture
def waiting(books: Books, monkeypatch: pytest.MonkeyPatch) -> Iterator[Waiter]:
    monkeypatch.setattr(waiter, "ROUND_S", 3_600.0)  # only announcements, unless a test says otherwise
    made = Waiter(books, {"late"})  # type: ignore[arg-type]
    yield made
    made.close()


def answered(books: Books, times: int) -> None:
    eventually(lambda: books.asked >= times)


def test_an_end_is_asked_for_when_it_is_announced_and_not_before(books: Books, waiting: Waiter) -> None:
    books.queue("t")
    future = waiting.wait_for("t")
    answered(books, 1)
    books.end("somebody-else")
    books.end("t")
    assert future.result(10).result == b"3"
    assert books.questions == [["t"], ["t"]]


def test_what_has_ended_before_and_what_is_not_there_is_answered_at_once(books: Books, waiting: Waiter) -> None:
    books.end("t")
    assert waiting.wait_for("t").result(10).state is State.SUCCESS
    with pytest.raises(NotFound):
        waiting.wait_for("nobody").result(10)


def test_what_could_not_be_recorded_yet_is_waited_for(books: Books, waiting: Waiter) -> None:
    future = waiting.wait_for("late")
    answered(books, 1)
    books.end("late")
    assert future.result(10).state is State.SUCCESS


def test_ten_thousand_who_wait_are_asked_for_once_and_at_their_end(books: Books, waiting: Waiter) -> None:
    names = [f"t{at}" for at in range(10_000)]
    books.queue(*names)
    futures = [waiting.wait_for(name) for name in names]
    answered(books, len(names))
    for at in range(0, len(names), 500):
        books.end(*names[at : at + 500])
    for future in futures:
        future.result(30)
    assert books.asked == 2 * len(names)
    assert max(map(len, books.questions)) <= waiter.MOST


def test_a_lost_announcement_costs_a_round(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiter, "ROUND_S", 0.01)
    made = Waiter(books, set())  # type: ignore[arg-type]
    books.queue("t")
    future = made.wait_for("t")
    answered(books, 1)
    books.silent = True
    books.end("t")
    assert future.result(10).state is State.SUCCESS
    made.close()


def test_a_round_asks_for_some_in_turn_and_without_announcements_for_all(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiter, "IN_TURN", 10)
    monkeypatch.setattr(waiter, "ROUND_S", 3_600.0)
    made = Waiter(books, set())  # type: ignore[arg-type]
    names = [f"t{at}" for at in range(25)]
    books.queue(*names)
    for name in names:
        made.wait_for(name)
    answered(books, len(names))
    rounds = [made._round() for _ in range(5)]
    assert rounds == [names[:10], names[10:20], names[20:] + names[:5], names[5:15], names[15:]]
    books.on_heard[0](False)
    assert sorted(made._round()) == sorted(names)
    made.close()


def test_when_announcements_come_back_everybody_is_asked_for(books: Books, waiting: Waiter) -> None:
    books.queue("t", "u")
    future, other = waiting.wait_for("t"), waiting.wait_for("u")
    answered(books, 2)
    books.silent = True
    books.end("t")
    books.on_heard[0](True)
    assert future.result(10).state is State.SUCCESS
    assert not other.done()


def test_a_ledger_that_is_down_leaves_everybody_waiting_and_is_asked_again(
    books: Books, waiting: Waiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiter, "AGAIN_S", 0.01)
    books.queue("t")
    books.down = True
    future = waiting.wait_for("t")
    answered(books, 3)
    assert not future.done()
    books.down = False
    books.end("t")
    assert future.result(10).state is State.SUCCESS


def test_who_has_given_up_is_forgotten(books: Books, waiting: Waiter) -> None:
    books.queue("t", "u")
    waiting.wait_for("t").cancel()
    waiting.wait_for("u")
    answered(books, 2)
    assert waiting._round() == ["u"]


def test_two_who_wait_for_one_task_are_both_told(books: Books, waiting: Waiter) -> None:
    books.queue("t")
    futures = [waiting.wait_for("t"), waiting.wait_for("t")]
    answered(books, 1)
    threading.Thread(target=books.end, args=("t",)).start()
    assert [future.result(10).state for future in futures] == [State.SUCCESS, State.SUCCESS]


def test_closing_ends_the_thread_though_somebody_waits(books: Books) -> None:
    made = Waiter(books, set())  # type: ignore[arg-type]
    books.queue("t")
    future = made.wait_for("t")
    made.close()
    books.end("t")
    assert not future.done()
