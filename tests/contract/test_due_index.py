"""The due index: entries and position move as one, time is the ledger's, and what is lost is noticed."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from ledger_bench import HOUR_MS, TTL_S, Bench, MemoryBench, RedisBench, redis_bench

from opening import open_ledger
from yadtq.errors import LedgerUnavailable
from yadtq.ledger import Due, DueIndex, Look, NewTask, Waiting
from yadtq.ledger.due import LOOK_BYTES
from yadtq.states import State

HEADERS = {"trace": b"\xff\x00", "yadtq-key": b"k"}


def waiting(
    task_id: str, due_ms: int, generation: int = 0, value: bytes = b"{}", queued_at_ms: int = 0, offset: int = 3
) -> Waiting:
    task = NewTask(task_id, "add", "q", -1, -1, queued_at_ms, 0, due_ms)
    return Waiting(f"{generation}:{task_id}", task, generation, value, HEADERS, offset)


def keys_of(look: Look) -> list[str]:
    return [entry.key for entry in look.due]


@pytest.fixture
def index(bench: Bench) -> DueIndex:
    return bench.ledger.due


def test_an_entry_is_due_at_its_time_and_not_before(bench: Bench, index: DueIndex) -> None:
    due_ms = bench.now_ms() + 300
    put = index.put("q", 1, 0, 8, [waiting("a", due_ms)], [])
    assert put.upto == 8
    assert put.wait_ms is not None
    assert put.wait_ms <= 300
    look = index.look("q", {1: 8}, 10)[1]
    assert list(look.due) == [] or bench.now_ms() >= due_ms
    bench.pass_ms(301)
    look = index.look("q", {1: 8}, 10)[1]
    assert look.due == [Due("0:a", 3, False, b"{}", HEADERS)]
    assert look.wait_ms is None
    assert keys_of(index.look("q", {1: 8}, 10)[1]) == ["0:a"], "it stays until it is taken out"
    index.remove("q", 1, [("0:a", 3)])
    assert index.look("q", {1: 8}, 10)[1] == Look(8, None, [])


def test_what_was_written_again_is_not_taken_out_with_what_had_fired(index: DueIndex) -> None:
    index.put("q", 0, 0, 4, [waiting("a", 1, offset=3)], [])
    index.put("q", 0, 4, 6, [waiting("a", 1, offset=5)], [])
    index.remove("q", 0, [("0:a", 3), ("0:b", 3)])
    assert [(entry.key, entry.offset) for entry in index.look("q", {0: 6}, 10)[0].due] == [("0:a", 5)]
    index.remove("q", 0, [("0:a", 5)])
    assert index.places("q", [0]) == [(6, 0)]


def test_bytes_come_back_as_they_were(index: DueIndex) -> None:
    value = bytes(range(256)) * 20
    index.put("q", 0, 0, 1, [waiting("a", 1, value=value)], [])
    (due,) = index.look("q", {0: 1}, 10)[0].due
    assert (due.value, due.headers) == (value, HEADERS)


def test_the_oldest_come_first_and_no_more_than_were_asked_for(index: DueIndex) -> None:
    index.put("q", 0, 0, 5, [waiting(name, due_ms) for name, due_ms in (("c", 30), ("a", 10), ("b", 20))], [])
    look = index.look("q", {0: 5}, 2)[0]
    assert keys_of(look) == ["0:a", "0:b"]
    assert look.wait_ms == 0, "there are more"


def test_one_answer_carries_so_many_bytes_and_at_least_one_entry(index: DueIndex) -> None:
    big = b"x" * (LOOK_BYTES // 2 + 1)
    index.put(
        "q", 0, 0, 5, [waiting("a", 1, value=big * 3), waiting("b", 2, value=big), waiting("c", 3, value=big)], []
    )
    assert keys_of(index.look("q", {0: 5}, 10)[0]) == ["0:a"]
    index.remove("q", 0, [("0:a", 3)])
    assert keys_of(index.look("q", {0: 5}, 10)[0]) == ["0:b"]


def test_entries_and_position_move_only_from_the_expected_position(index: DueIndex) -> None:
    index.put("q", 0, 0, 5, [waiting("a", 1)], [])
    assert index.put("q", 0, 3, 9, [waiting("b", 1)], ["0:a"]) == Look(5)
    assert index.places("q", [0, 1]) == [(5, 1), (0, 0)]
    assert index.look("q", {0: 3}, 10)[0] == Look(5), "nothing is due for who does not know the position"
    index.put("q", 0, 5, 9, [waiting("b", 1)], ["0:a"])
    assert index.places("q", [0]) == [(9, 1)]


def test_a_put_whose_answer_was_lost_is_found_done(real: RedisBench) -> None:
    index = real.ledger.due
    real.lose_next_reply()
    with pytest.raises(LedgerUnavailable):
        index.put("q", 0, 0, 5, [waiting("a", 1)], [])
    assert index.places("q", [0]) == [(5, 1)]
    assert index.put("q", 0, 0, 5, [waiting("a", 1)], []) == Look(5)


def test_a_key_that_comes_again_has_its_new_time(index: DueIndex) -> None:
    index.put("q", 0, 0, 5, [waiting("a", 1)], [])
    index.put("q", 0, 5, 6, [waiting("a", 2**52, value=b"new")], [])
    assert keys_of(index.look("q", {0: 6}, 10)[0]) == []
    index.put("q", 0, 6, 7, [waiting("a", 1, value=b"newer")], [])
    assert [entry.value for entry in index.look("q", {0: 7}, 10)[0].due] == [b"newer"]


def test_partitions_and_queues_are_apart(bench: Bench, index: DueIndex) -> None:
    open_ledger(bench.ledger, "q2")
    index.put("q", 0, 0, 1, [waiting("a", 1)], [])
    index.put("q", 1, 0, 2, [waiting("b", 1)], [])
    index.put("q2", 0, 0, 3, [waiting("c", 1)], [])
    looks = index.look("q", {0: 1, 1: 2}, 10)
    assert {partition: keys_of(look) for partition, look in looks.items()} == {0: ["0:a"], 1: ["0:b"]}
    assert keys_of(index.look("q2", {0: 3}, 10)[0]) == ["0:c"]


def test_without_an_epoch_nothing_is_done(empty_ledger: Bench) -> None:
    index = empty_ledger.ledger.due
    assert index.put("q", 0, 0, 5, [waiting("a", 1)], []).closed
    assert index.places("q", [0]) == [(0, 0)]
    open_ledger(empty_ledger.ledger, "q")
    index.put("q", 0, 0, 5, [waiting("a", 1)], [])
    assert keys_of(index.look("q", {0: 5}, 10)[0]) == ["0:a"]
    empty_ledger.wipe()
    assert index.look("q", {0: 5}, 10)[0].closed


def test_after_a_wipe_the_position_is_the_start(bench: Bench, index: DueIndex) -> None:
    index.put("q", 0, 0, 5, [waiting("a", 1)], [])
    bench.wipe()
    open_ledger(bench.ledger, "q")
    assert index.look("q", {0: 5}, 10)[0] == Look(0)
    assert index.put("q", 0, 5, 6, [], []) == Look(0)
    assert index.put("q", 0, 0, 6, [], []).upto == 6


def test_an_index_of_which_a_part_is_missing_is_none(real: RedisBench) -> None:
    index = real.ledger.due
    for lost in (real.layout.due("q", 0), real.layout.waiting("q", 0)):
        assert index.places("q", [0]) == [(0, 0)]
        index.put("q", 0, 0, 5, [waiting("a", 1)], [])
        real.client.delete(lost)
        assert index.look("q", {0: 5}, 10)[0] == Look(0)


def test_a_task_without_a_record_gets_one(bench: Bench, index: DueIndex) -> None:
    due_ms, now_ms = bench.now_ms() + HOUR_MS, bench.now_ms()
    index.put("q", 0, 0, 1, [waiting("t", due_ms, generation=2, queued_at_ms=now_ms)], [])
    record = bench.record()
    assert (record.shown, record.generation, record.not_before_ms) == (State.SCHEDULED, 2, due_ms)
    assert (record.topic, record.partition, record.offset) == ("q", -1, -1)
    run = bench.run("w1", bench.wish(generation=2))
    assert (run.attempt, bench.record().queued_at_ms) == (1, now_ms)


def test_a_task_that_has_a_record_keeps_it(bench: Bench, index: DueIndex) -> None:
    bench.run("w1")
    before = bench.record()
    index.put("q", 0, 0, 1, [waiting("t", HOUR_MS, generation=3)], [])
    assert bench.record() == before


def test_one_that_may_have_been_forgotten_gets_none(empty_ledger: Bench) -> None:
    """C8: its claim has to ask for the outcomes first."""
    bench = empty_ledger
    open_ledger(bench.ledger, "q")
    old_ms = bench.now_ms() - TTL_S * 1000 - 1_000
    bench.ledger.due.put("q", 0, 0, 1, [waiting("read", HOUR_MS, queued_at_ms=old_ms)], [])
    assert bench.record("read").shown is State.SCHEDULED
    if isinstance(bench, RedisBench):
        bench.client.delete(bench.layout.read("q"))
    else:
        assert isinstance(bench, MemoryBench)
        bench.ledger.forget_reading("q")
    bench.ledger.due.put("q", 0, 1, 2, [waiting("old", HOUR_MS, queued_at_ms=old_ms)], [])
    bench.ledger.due.put("q", 0, 2, 3, [waiting("young", HOUR_MS, queued_at_ms=bench.now_ms())], [])
    assert [record is None for record in bench.ledger.records(["old", "young"])] == [True, False]


@pytest.mark.parametrize(
    ("reached", "over"),
    [
        ("nothing", False),
        ("processing", False),
        ("accepted", False),
        ("sealed", True),
        ("scheduled", True),
        ("scheduled, fired and given back", True),
    ],
)
def test_only_what_is_sealed_or_passed_is_not_to_be_fired(
    bench: Bench, index: DueIndex, reached: str, over: bool
) -> None:
    """T1."""
    if reached != "nothing":
        run = bench.run("w1")
        if reached in ("accepted", "sealed"):
            bench.accept(run)
        if reached == "sealed":
            assert bench.seal(run)
        if reached.startswith("scheduled"):
            bench.accept(run, State.SCHEDULED, wait_ms=5)
        if reached.endswith("back"):
            bench.release(bench.run("w1", bench.wish(generation=1)))
    index.put("q", 0, 0, 1, [waiting("t", 1), waiting("t", 2, generation=7)], [])
    first, second = index.look("q", {0: 1}, 10)[0].due
    assert (first.key, first.over, first.value) == ("0:t", over, b"" if over else b"{}")
    assert (second.key, second.over) == ("7:t", reached == "sealed")


@pytest.mark.parametrize(
    ("reached", "generation", "shown"),
    [
        ("waits", 2, State.QUEUED),
        ("waits", 1, State.SCHEDULED),
        ("waits", 3, State.SCHEDULED),
        ("runs", 2, State.PROCESSING),
        ("a retry that Kafka has", 3, State.QUEUED),
        ("a retry that Kafka has", 2, State.SCHEDULED),
        ("a retry that Kafka may not have", 3, State.SCHEDULED),
        ("ended", 2, State.SUCCESS),
    ],
)
def test_what_has_its_tombstone_was_fired_and_is_queued(
    bench: Bench, index: DueIndex, reached: str, generation: int, shown: State
) -> None:
    index.put("q", 0, 0, 1, [waiting("t", HOUR_MS, generation=2, queued_at_ms=bench.now_ms())], [])
    if reached != "waits":
        run = bench.run("w1", bench.wish(generation=2))
        if reached == "ended":
            bench.accept(run)
            assert bench.seal(run)
        elif reached != "runs":
            bench.accept(run, State.SCHEDULED, wait_ms=5)
            assert reached.endswith("not have") or bench.seal(run)
    index.put("q", 0, 1, 2, [], [f"{generation}:t", "2:nobody", "no key", "x:t"])
    assert bench.record().shown is shown


def test_an_accept_that_comes_again_after_its_retry_fired_is_refused(bench: Bench, index: DueIndex) -> None:
    run = bench.run("w1")
    bench.accept(run, State.SCHEDULED, wait_ms=5)
    assert bench.seal(run)
    index.put("q", 0, 0, 1, [], ["1:t"])
    assert bench.record().shown is State.QUEUED
    assert bench.accept(run, State.SCHEDULED, wait_ms=5) is None
    assert bench.run("w1", bench.wish(generation=1)).attempt == 2


NAMES = st.sampled_from(["a", "b", "c", "é:ß"])
PARTITIONS = st.integers(0, 1)
GENERATIONS = st.integers(0, 2)
TIMES = st.sampled_from([1, 2, 3, 2**52])
OFFSETS = st.integers(0, 1)
ENTRIES = st.lists(st.tuples(NAMES, GENERATIONS, TIMES, st.binary(max_size=3), OFFSETS), max_size=4)
KEYS = st.lists(st.tuples(NAMES, GENERATIONS).map(lambda at: f"{at[1]}:{at[0]}"), max_size=3, unique=True)


class Naive:
    """What an index has to say, by looking at everything each time."""

    def __init__(self) -> None:
        self.upto = [0, 0]
        self.entries: list[dict[str, Waiting]] = [{}, {}]
        self.generations: dict[str, int] = {}  # of the records, which the first entry of a task writes

    def put(self, partition: int, upto: int, entries: dict[str, Waiting], over: list[str]) -> None:
        self.upto[partition] = upto
        for key in over:
            self.entries[partition].pop(key, None)
        self.entries[partition] |= entries
        for entry in entries.values():
            self.generations.setdefault(entry.task.task_id, entry.generation)

    def due(self, partition: int, most: int) -> list[tuple[str, bytes]]:
        entries = sorted(self.entries[partition].values(), key=lambda at: (at.task.not_before_ms, at.key))
        due = [at for at in entries[:most] if at.task.not_before_ms < 2**50]
        passed = [self.generations[at.task.task_id] > at.generation for at in due]
        return [(at.key, b"" if over else at.value) for at, over in zip(due, passed, strict=True)]


class IndexMachine(RuleBasedStateMachine):
    """An index under moves in any order, some of them by somebody who does not know the position."""

    bench: Bench

    @initialize()
    def begin(self) -> None:
        self.bench.wipe()
        open_ledger(self.bench.ledger, "q")
        self.index = self.bench.ledger.due
        self.naive = Naive()

    @rule(partition=PARTITIONS, rows=ENTRIES, over=KEYS, step=st.integers(0, 3), lag=st.sampled_from([0, 0, 0, 1, -1]))
    def put(self, partition: int, rows: Sequence[Any], over: list[str], step: int, lag: int) -> None:
        made = (waiting(name, due, gen, value or b"{}", offset=at) for name, gen, due, value, at in rows)
        entries = {entry.key: entry for entry in made}
        over = [key for key in over if key not in entries]
        present = self.naive.upto[partition]
        look = self.index.put("q", partition, present + lag, present + step, list(entries.values()), over)
        if lag == 0:
            self.naive.put(partition, present + step, entries, over)
        assert look.upto == self.naive.upto[partition]

    @rule(partition=PARTITIONS, keys=KEYS, offset=OFFSETS)
    def remove(self, partition: int, keys: list[str], offset: int) -> None:
        self.index.remove("q", partition, [(key, offset) for key in keys])
        entries = self.naive.entries[partition]
        self.naive.entries[partition] = {
            key: entry for key, entry in entries.items() if key not in keys or entry.offset != offset
        }

    @rule(most=st.integers(1, 4))
    def look(self, most: int) -> None:
        looks = self.index.look("q", dict(enumerate(self.naive.upto)), most)
        for partition, look in looks.items():
            assert [(at.key, at.value) for at in look.due] == self.naive.due(partition, most)
            left = len(self.naive.entries[partition]) - len(look.due)
            assert (look.wait_ms is None) == (left == 0)
            assert (look.wait_ms == 0) == (len(self.naive.due(partition, 99)) > len(look.due))

    @rule()
    def wipe(self) -> None:
        self.bench.wipe()
        open_ledger(self.bench.ledger, "q")
        self.naive = Naive()

    @invariant()
    def places(self) -> None:
        if hasattr(self, "naive"):
            expected = [(upto, len(entries)) for upto, entries in zip(self.naive.upto, self.naive.entries, strict=True)]
            assert self.index.places("q", [0, 1]) == expected


def test_the_memory_index_says_what_a_naive_one_says() -> None:
    class Memory(IndexMachine):
        bench = MemoryBench()

    run_state_machine_as_test(Memory, settings=settings(max_examples=60, stateful_step_count=25, deadline=None))


@pytest.mark.real
def test_the_real_index_says_what_a_naive_one_says(redis_url: str, prefix: str) -> None:
    with redis_bench(redis_url, prefix) as real_bench:

        class Real(IndexMachine):
            bench = real_bench

        run_state_machine_as_test(Real, settings=settings(max_examples=40, stateful_step_count=25, deadline=None))
