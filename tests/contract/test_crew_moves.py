"""What waits behind slow tasks moves to a child with free slots, and nothing else does."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from test_crew_books import AHEAD, SHARED, SLOW_MS, Books, FakeProcess

import yadtq.runners.crew
import yadtq.runners.pace
import yadtq.runners.process
from yadtq.runners.pace import Pace

SLOTS = SHARED.slots


class BooksOfThree(Books):
    plan = replace(SHARED, least=3, most=3)


class Pair:
    """Two children, or more, with all they may be given: their slots and AHEAD more."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self.books.first()
        self.busy, self.other, *self.more = self.books.children
        for child in self.books.children:
            child.hello()
        self.turn()
        self.books.give(len(self.books.children) * (SLOTS + AHEAD), 1)
        self.turn()

    def turn(self) -> None:
        """The crew looks, and the children read what it has sent."""
        self.books.crew.turn(0)
        for child in self.books.living:
            self.books.read_all(child)

    def begin(self, child: FakeProcess) -> None:
        while child.waiting and len(child.running) < SLOTS:
            self.books.enter(child)

    def finish(self, child: FakeProcess, count: int, ran_ms: int) -> None:
        """Run so many, and leave its slots held while it has anything. The crew hears of it at the next turn."""
        for _ in range(count):
            self.begin(child)
            child.end(ran_ms)
        self.begin(child)
        self.books.said |= set(child.say())

    def lull(self, ran_ms: int = SLOW_MS, left: int = 0) -> list[int]:
        """One child has two behind its held slots, the other runs so many. Return the two."""
        self.finish(self.busy, 1, ran_ms)
        self.turn()
        self.finish(self.other, SLOTS + AHEAD - left, ran_ms)
        return list(self.busy.waiting)


@pytest.fixture
def kind() -> type[Books]:
    return Books


@pytest.fixture
def pair(kind: type[Books], monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    """No tick comes, so what happens is what the messages of the children bring about."""
    monkeypatch.setattr(yadtq.runners.crew, "TICK_S", 1e9)
    monkeypatch.setattr(yadtq.runners.process, "STALE_S", 1e9)
    monkeypatch.setattr(yadtq.runners.pace, "WINDOW_S", 0.0)
    monkeypatch.setattr(Pace, "ahead", lambda *_: AHEAD)
    pair = Pair(kind())
    yield pair
    pair.books.teardown()


def test_what_waits_behind_slow_tasks_goes_to_a_child_with_free_slots(pair: Pair) -> None:
    behind = pair.lull()
    assert len(behind) == SLOTS
    pair.turn()
    pair.turn()
    assert list(pair.other.waiting) == behind, "in their order"
    assert not pair.busy.waiting
    pair.finish(pair.other, SLOTS, SLOW_MS)
    pair.finish(pair.busy, SLOTS, SLOW_MS)
    pair.turn()
    assert not pair.books.open


def test_no_more_goes_than_there_are_free_slots_and_those_that_would_start_last(pair: Pair) -> None:
    first, last = pair.lull(left=1)
    for _ in range(4):
        pair.turn()
    assert list(pair.busy.waiting) == [first]
    assert list(pair.other.waiting) == [last]


@pytest.mark.parametrize("kind", [BooksOfThree])
def test_a_free_slot_is_for_one_attempt_though_two_children_are_busy(pair: Pair) -> None:
    (third,) = pair.more
    pair.finish(third, 1, SLOW_MS)
    _, last = pair.lull(left=1)
    assert len(third.waiting) == len(pair.busy.waiting)
    pair.turn()
    assert pair.busy.asked + third.asked == [last]


def test_what_is_on_its_way_back_is_not_asked_for_twice_over(pair: Pair) -> None:
    first, last = pair.lull(left=1)
    for _ in range(4):  # the busy child does not get to read
        pair.books.crew.turn(0)
    pair.books.read_all(pair.busy)
    assert list(pair.busy.waiting) == [first]
    pair.turn()
    assert list(pair.other.waiting) == [last]


def test_a_slot_that_becomes_free_meanwhile_gets_another_one(pair: Pair) -> None:
    first, last = pair.lull(left=1)
    pair.books.crew.turn(0)
    pair.finish(pair.other, 1, SLOW_MS)
    pair.turn()
    assert pair.busy.asked == [last, first], "each of them once"


def test_what_waits_for_any_child_has_the_first_claim_on_a_free_slot(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair.lull(left=1)
    with monkeypatch.context() as patch:
        patch.setattr(yadtq.runners.process, "HELD_BYTES", -1)  # too much lies before every child
        pair.turn()
        pair.books.give(1, 1)
    pair.turn()
    assert pair.other.waiting
    assert not pair.busy.asked


def test_what_runs_is_not_asked_for(pair: Pair) -> None:
    first, last = pair.lull()
    pair.finish(pair.busy, 1, SLOW_MS)
    pair.turn()
    assert first in pair.busy.running
    assert pair.busy.asked == [last], "though two slots are free"


def test_tiny_tasks_move_nowhere_in_a_lull(pair: Pair) -> None:
    behind = pair.lull(ran_ms=1)
    for _ in range(4):
        pair.turn()
    assert list(pair.busy.waiting) == behind
    assert not pair.busy.asked


def test_nothing_is_asked_of_a_child_with_a_free_slot_of_its_own(pair: Pair) -> None:
    behind = pair.lull()
    pair.busy.end()  # nobody has heard of it: the page shows it
    pair.turn()
    assert list(pair.busy.waiting) == behind
    assert not pair.busy.asked


def test_what_starts_before_it_is_asked_for_stays_and_runs_once(pair: Pair) -> None:
    first, last = pair.lull()
    pair.books.crew.turn(0)
    pair.busy.end()
    pair.begin(pair.busy)
    pair.turn()
    pair.turn()
    assert first in pair.busy.running
    assert list(pair.other.waiting) == [last]
    pair.begin(pair.other)  # the books fail where one starts that another child has, or that has ended


def test_what_the_engine_wants_meanwhile_goes_to_the_engine(pair: Pair) -> None:
    first, last = pair.lull()
    pair.books.crew.turn(0)
    pair.books.wanted |= {last}
    pair.books.crew.recall({last})
    pair.turn()
    pair.turn()
    assert last not in pair.books.open
    assert list(pair.other.waiting) == [first]
