"""The offset tracker against a naive model: no commit past a hole and nothing forgotten, whatever the order."""

import base64
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from yadtq.offsets import SPAN, Position, Tracker, lag, read_bitmap, write_bitmap


class Partition(RuleBasedStateMachine):
    """A partition with gaps, read by one owner after another; each starts from what the last one committed."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[int] = []  # every offset that has a record, ascending
        self.finished: set[int] = set()  # durably, as the ledger knows it
        self.in_kafka = Position(0, "")
        self.start_over()

    def start_over(self) -> None:
        self.tracker = Tracker(self.in_kafka.metadata, self.in_kafka.offset)
        self.skipped = read_bitmap(self.in_kafka.metadata, self.in_kafka.offset)
        self.unread = [offset for offset in self.log if offset >= self.in_kafka.offset]
        self.opened: list[int] = []  # by this owner
        self.open: set[int] = set()  # of those, unfinished

    @property
    def seen(self) -> int | None:
        return self.opened[-1] + 1 if self.opened else None

    @rule(gap=st.integers(0, 3), count=st.integers(1, 5))
    def append(self, gap: int, count: int) -> None:
        first = (self.log[-1] + 1 if self.log else 0) + gap
        new = list(range(first, first + count))
        self.log += new
        self.unread += new

    @precondition(lambda self: self.unread)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        for _ in range(data.draw(st.integers(1, len(self.unread)))):
            offset = self.unread.pop(0)
            assert self.tracker.open(offset) is (offset not in self.skipped)
            self.opened.append(offset)
            if offset not in self.skipped:
                self.open.add(offset)

    @precondition(lambda self: self.opened)
    @rule(data=st.data())
    def read_again(self, data: st.DataObject) -> None:
        assert not self.tracker.open(data.draw(st.sampled_from(self.opened)))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(sorted(self.open)))
        self.tracker.close(offset)
        self.open.discard(offset)
        self.finished.add(offset)

    @rule(offset=st.integers(-1, 60))
    def close_what_is_not_open(self, offset: int) -> None:
        if offset not in self.open:
            with pytest.raises(ValueError, match="not open"):
                self.tracker.close(offset)

    @rule()
    def commit(self) -> None:
        position = self.tracker.committable()
        if position is not None:
            self.in_kafka = position
            self.tracker.committed(position)
            assert self.tracker.committable() is None

    @rule()
    def another_owner_takes_over(self) -> None:
        self.start_over()

    @invariant()
    def unfinished_is_counted(self) -> None:
        assert self.tracker.unfinished == len(self.open)
        assert self.tracker.span == (self.seen - min(self.open) if self.open and self.seen is not None else 0)

    @invariant()
    def no_commit_passes_a_hole(self) -> None:
        position = self.tracker.committable()
        if position is None:
            return
        assert {offset for offset in self.log if offset < position.offset} <= self.finished
        assert position.offset == (min(self.open) if self.open else self.seen)
        # Nothing that is known to be finished is forgotten, and nothing else is said to be.
        known = (set(self.opened) - self.open) | self.skipped
        assert read_bitmap(position.metadata, position.offset) == {at for at in known if at >= position.offset}

    @invariant()
    def what_kafka_has_is_true(self) -> None:
        assert {offset for offset in self.log if offset < self.in_kafka.offset} <= self.finished
        assert read_bitmap(self.in_kafka.metadata, self.in_kafka.offset) <= self.finished


Partition.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestPartition = Partition.TestCase


def test_nothing_is_committable_before_the_first_record() -> None:
    assert Tracker().committable() is None
    assert Tracker(write_bitmap({7}, 5), 5).committable() is None


def test_an_open_record_holds_the_position_and_the_others_travel_as_a_bitmap() -> None:
    tracker = Tracker()
    for offset in range(5):
        assert tracker.open(offset)
    tracker.close(3)
    tracker.close(1)
    assert tracker.committable() == Position(0, write_bitmap({1, 3}, 0))
    tracker.close(0)
    assert tracker.committable() == Position(2, write_bitmap({3}, 2))


def test_a_gap_cannot_be_closed() -> None:
    tracker = Tracker()
    tracker.open(5)
    tracker.open(8)
    with pytest.raises(ValueError, match="offset 6 is not open"):
        tracker.close(6)
    assert tracker.unfinished == 2
    assert tracker.committable() == Position(5, "")


def test_what_the_last_owner_finished_right_at_the_position_is_not_forgotten() -> None:
    tracker = Tracker(write_bitmap({11, 12}, 10), 10)
    assert tracker.open(10)
    tracker.close(10)
    assert tracker.committable() == Position(11, write_bitmap({11, 12}, 11))
    assert not tracker.open(11)
    assert tracker.committable() == Position(12, write_bitmap({12}, 12))


def test_a_commit_that_did_not_succeed_stays_due() -> None:
    tracker = Tracker()
    tracker.open(0)
    tracker.close(0)
    assert tracker.committable() == tracker.committable() == Position(1, "")
    tracker.committed(Position(0, ""))  # the answer to an older one
    assert tracker.committable() == Position(1, "")
    tracker.committed(Position(1, ""))
    assert tracker.committable() is None


def test_the_span_reaches_from_the_lowest_unfinished_to_the_highest_seen() -> None:
    tracker = Tracker()
    for offset in (3, 4, 900):
        tracker.open(offset)
    assert tracker.span == 898
    tracker.close(3)
    assert tracker.span == 897
    tracker.close(4)
    tracker.close(900)
    assert tracker.span == 0


def test_the_largest_bitmap_fits_into_what_brokers_take() -> None:
    finished = set(range(1, SPAN))
    metadata = write_bitmap(finished, 0)
    assert len(metadata) < 4_096
    assert metadata.isascii()
    assert read_bitmap(metadata, 0) == finished


def test_what_lies_further_than_the_span_is_left_out() -> None:
    assert read_bitmap(write_bitmap({1, SPAN - 1, SPAN, SPAN + 5}, 0), 0) == {1, SPAN - 1}
    assert write_bitmap({SPAN}, 0) == ""


@given(st.sets(st.integers(0, SPAN - 1), max_size=50), st.integers(0, 2**60))
def test_a_bitmap_comes_back_as_it_was(ahead: set[int], base: int) -> None:
    finished = {base + at for at in ahead}
    assert read_bitmap(write_bitmap(finished, base), base) == finished


@given(st.text() | st.text(alphabet="b1:xyz0 ").map(lambda text: f"b1:{text}"))
def test_somebody_elses_metadata_says_nothing(metadata: str) -> None:
    assert read_bitmap(metadata, 5) == set()


@given(st.data())
def test_a_damaged_bitmap_says_nothing_untrue(data: st.DataObject) -> None:
    finished = set(range(100, 140))
    metadata = write_bitmap(finished, 90)
    at = data.draw(st.integers(0, len(metadata) - 1))
    other = data.draw(st.characters(min_codepoint=33, max_codepoint=126).filter(lambda char: char != metadata[at]))
    # The last characters of base85 have bits to spare, so that a change in them may change nothing.
    assert read_bitmap(metadata[:at] + other + metadata[at + 1 :], 90) in (set(), finished)
    assert read_bitmap(metadata[:at], 90) == set()


def test_a_bitmap_of_a_larger_span_than_ours_says_nothing() -> None:
    raw: Any = b"\xff" * (SPAN // 8 + 1)
    check = zlib.crc32(raw).to_bytes(4, "little")
    assert read_bitmap("b1:" + base64.b85encode(check + raw).decode(), 0) == set()


@pytest.mark.parametrize(
    ("position", "left"),
    [
        (None, 6),  # nothing committed: from the first that Kafka still has
        (Position(2, ""), 6),  # committed below what Kafka still has
        (Position(7, ""), 3),
        (Position(7, write_bitmap({8, 9}, 7)), 1),
        (Position(10, ""), 0),
        (Position(12, ""), 0),  # an end that was asked for earlier
    ],
)
def test_lag_is_what_is_not_finished(position: Position | None, left: int) -> None:
    assert lag(4, 10, position) == left
