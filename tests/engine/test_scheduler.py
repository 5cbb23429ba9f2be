"""What waits for a time fires at its time and not before, is never lost, and runs once."""

import pytest
from delays import fired, in_index, pass_ms, unburied
from stage import Player, Stage

from yadtq.attempt import Ending
from yadtq.broker import Message
from yadtq.codec import decode
from yadtq.states import State


@pytest.fixture
def worker(stage: Stage) -> Player:
    return stage.player(order="unordered")


def test_a_task_fires_at_its_time_and_not_before(stage: Stage, worker: Player) -> None:
    stage.delay("a", by_ms=5_000)
    worker.schedule(5)
    stage.clock.turn(4_999)
    worker.schedule(5)
    assert fired(stage) == []
    assert stage.record("a").shown is State.SCHEDULED
    stage.clock.turn(1)
    worker.schedule(5)
    assert fired(stage) == ["a"]
    assert (unburied(stage), in_index(stage)) == (set(), 0)
    assert stage.record("a").shown is State.QUEUED
    worker.work()
    assert stage.record("a").shown is State.SUCCESS
    assert [worker.kinds("a").count(kind) for kind in ("scheduled", "fired", "started")] == [1, 1, 1]


def test_an_index_that_fails_at_one_partition_forgets_nothing_of_the_others() -> None:
    stage = Stage(partitions=4)
    worker = stage.player(order="unordered")
    worker.schedule(3)
    ids = [f"t{partition}" for partition in range(4)]
    for partition, task_id in enumerate(ids):
        stage.delay(task_id, by_ms=5_000, partition=partition)
    stage.ledger.down = True  # one poll brings records of several partitions, and the first of them fails
    worker.schedule(2)
    stage.ledger.down = False
    pass_ms(stage, worker, by_ms=9_000)
    assert sorted(fired(stage)) == ids
    assert (unburied(stage), in_index(stage, 4)) == (set(), 0)


def test_the_earliest_fire_first_and_the_rest_goes_on_waiting(stage: Stage, worker: Player) -> None:
    for task_id, by_ms in (("c", 3_000), ("a", 1_000), ("b", 2_000), ("late", 60_000)):
        stage.delay(task_id, by_ms=by_ms)
    worker.schedule(5)
    stage.clock.turn(3_000)
    worker.schedule(5)
    assert fired(stage) == ["a", "b", "c"]
    assert unburied(stage) == {b"0:late"}


def test_the_next_one_to_be_due_is_looked_for_when_it_is_due(stage: Stage, worker: Player) -> None:
    stage.delay("later", by_ms=10_000)
    worker.schedule(5)
    stage.delay("sooner", by_ms=150)
    worker.schedule(2)
    stage.clock.turn(150)
    worker.schedule(5)
    assert fired(stage) == ["sooner"]


def test_a_retry_that_waits_ends_in_success(stage: Stage, worker: Player) -> None:
    stage.publish("a")
    for _ in range(2):
        worker.turn(2)
        worker.runner.begin()
        worker.runner.end_one(next(iter(worker.runner.running)), Ending.RAISED, after_s=10)
        worker.turn(4)
        worker.schedule(3)
        assert stage.record("a").shown is State.SCHEDULED
        pass_ms(stage, worker, by_ms=9_000)
        worker.turn(3)
        assert not worker.runner.waiting
        pass_ms(stage, worker, by_ms=1_000)
    worker.work()
    assert worker.runner.history == [("a", 1), ("a", 2), ("a", 3)]
    assert [outcome.state for outcome in stage.outcomes("a")] == [State.SCHEDULED, State.SCHEDULED, State.SUCCESS]
    assert unburied(stage) == set()


def test_key_headers_and_bytes_travel_and_what_has_no_key_takes_turns() -> None:
    stage = Stage(partitions=4)
    worker = stage.player(order="unordered")
    stage.delay("k1", "k2", by_ms=10, key=b"\xffcustomer", partition=1)
    stage.delay("n1", "n2", "n3", "n4", by_ms=20, partition=2)
    waiting = stage.lying_in(stage.topics.delayed)[0]
    worker.schedule(5)
    stage.clock.turn(20)
    worker.schedule(8)
    records = {decode(record.value).task_id: record for record in stage.lying_in(stage.topics.tasks)}
    assert records["k1"].key == records["k2"].key == b"\xffcustomer"
    assert records["k1"].partition == records["k2"].partition
    assert records["k1"].headers == {"trace": b"\xff\x00"}
    assert records["k1"].value == waiting.value
    assert {records[f"n{number}"].partition for number in range(1, 5)} == {0, 1, 2, 3}
    assert all(records[f"n{number}"].key is None for number in range(1, 5))


def test_many_that_are_due_at_once_fire_in_a_few_rounds(stage: Stage, worker: Player) -> None:
    names = [f"t{number}" for number in range(2_000)]
    stage.delay(*names, by_ms=1_000)
    worker.schedule(10)
    stage.clock.turn(1_000)
    worker.schedule(20)
    assert sorted(fired(stage)) == sorted(names)
    assert (in_index(stage), unburied(stage)) == (0, set())


# -- T1: keys and what is tombstoned unfired ---------------------------------------------------------------------------


def test_the_tombstone_of_one_firing_does_not_take_the_next_retry_with_it(stage: Stage, worker: Player) -> None:
    """The counterexample of `delayed_by_task`: generation 2 is scheduled before the tombstone of generation 1."""
    stage.delay("a", by_ms=1_000, generation=1)
    worker.schedule(5)
    stage.clock.turn(1_000)
    worker.schedule()
    stage.delay("a", by_ms=1_000, generation=2)
    worker.schedule(5)
    assert unburied(stage) == {b"2:a"}
    assert in_index(stage) == 1
    stage.clock.turn(1_000)
    worker.schedule(5)
    assert fired(stage) == ["a", "a"]
    assert unburied(stage) == set()


def test_what_is_sealed_is_tombstoned_unfired(stage: Stage, worker: Player) -> None:
    stage.publish("a")
    worker.work()
    assert stage.record("a").final
    stage.delay("a", by_ms=1_000)
    worker.schedule(5)
    stage.clock.turn(1_000)
    worker.schedule(5)
    assert fired(stage) == ["a"], "as it was published; nothing came behind it"
    assert unburied(stage) == set()
    assert worker.kinds("a").count("unfired") == 1


def test_what_a_later_generation_has_passed_is_tombstoned_unfired(stage: Stage, worker: Player) -> None:
    stage.publish("a")
    worker.turn(2)
    worker.runner.begin()
    worker.runner.end_one(next(iter(worker.runner.running)), Ending.RAISED, after_s=60)
    worker.turn(4)
    assert stage.record("a").generation == 1
    stage.delay("a", by_ms=1_000)
    worker.schedule(5)
    stage.clock.turn(1_000)
    worker.schedule(5)
    assert fired(stage) == ["a"]
    assert unburied(stage) == {b"1:a"}


def test_what_runs_or_has_an_outcome_that_is_not_sealed_is_fired_all_the_same(stage: Stage, worker: Player) -> None:
    """T1: neither is over: only the sealed end and a later generation are sure to be in Kafka."""
    stage.publish("a", "b")
    worker.turn(2)
    worker.runner.begin()
    worker.producer.hold = True
    worker.runner.end_one(next(iter(worker.runner.running)))
    worker.turn(2)
    assert (stage.record("a").status, stage.record("a").sealed) == (State.SUCCESS, False)
    assert stage.record("b").status is State.PROCESSING
    stage.delay("a", "b", by_ms=1_000)
    other = stage.player("other", order="unordered")
    other.schedule(5)
    stage.clock.turn(1_000)
    other.schedule(5)
    assert fired(stage)[2:] == ["a", "b"]
    assert "unfired" not in other.kinds()


# -- T2: a crash anywhere, and a partition that moves ------------------------------------------------------------------


@pytest.mark.parametrize("crash_at", range(9))
@pytest.mark.parametrize("held", [False, True], ids=["kafka-quick", "kafka-slow"])
def test_a_crash_at_any_step_of_a_firing_neither_loses_nor_repeats(crash_at: int, held: bool) -> None:
    stage = Stage()
    dying = stage.player("dying", order="unordered")
    stage.delay("a", "b", by_ms=1_000)
    dying.schedule(2)
    stage.clock.turn(1_000)
    dying.producer.hold = held
    for step in range(crash_at):
        dying.schedule()
        if held and step % 2:  # the answers come later than the next turn
            dying.producer.let_go()
            dying.producer.hold = True
        assert unburied(stage) | {f"0:{task_id}".encode() for task_id in fired(stage)} == {b"0:a", b"0:b"}
    dying.crash()
    stage.lease_over()
    heir = stage.player("heir", order="unordered")
    heir.schedule(10)
    heir.work()
    heir.schedule(10)
    assert sorted(heir.runner.history) == [("a", 1), ("b", 1)]
    assert all(stage.record(task_id).shown is State.SUCCESS for task_id in "ab")
    assert (unburied(stage), in_index(stage)) == (set(), 0)


def test_a_tombstone_is_not_sent_before_the_envelope_is_acknowledged(stage: Stage, worker: Player) -> None:
    stage.delay("a", by_ms=1_000)
    worker.schedule(3)
    stage.clock.turn(1_000)
    worker.producer.hold = True
    worker.schedule(5)
    assert worker.producer.sent == []
    worker.producer.let_go()
    worker.producer.hold = True
    worker.schedule(5)
    assert [message.topic for message in worker.producer.sent] == [stage.topics.tasks]
    assert in_index(stage) == 1
    worker.producer.let_go()
    worker.schedule(5)
    assert (unburied(stage), in_index(stage)) == (set(), 0)


def test_a_retry_that_is_written_again_behind_its_tombstone_gets_one_of_its_own(stage: Stage, worker: Player) -> None:
    """Its worker died between the retry and its seal, the retry fired meanwhile, and the next owner writes it again."""
    stage.delay("a", by_ms=1_000)
    worker.schedule(3)
    stage.clock.turn(1_000)
    worker.schedule()
    worker.producer.hold = True
    worker.schedule()
    worker.producer.let_go()  # Kafka has the tombstone, and the scheduler has not heard of it
    assert unburied(stage) == set()
    again = stage.lying_in(stage.topics.delayed)[0]
    stage.broker.append(Message(stage.topics.delayed, again.value, again.key, 0, again.headers))
    worker.schedule(6)
    assert (unburied(stage), in_index(stage)) == (set(), 0)
    worker.work()
    assert worker.runner.history == [("a", 1)]


@pytest.mark.parametrize("fails", [1, 2, 3])
def test_what_kafka_does_not_take_is_fired_again(stage: Stage, worker: Player, fails: int) -> None:
    stage.delay("a", by_ms=1_000)
    worker.schedule(3)
    stage.clock.turn(1_000)
    worker.producer.fail_next = fails
    for _ in range(8):
        worker.schedule(3)
        stage.clock.turn(300)
    assert "a" in fired(stage)
    worker.work()
    worker.schedule(5)
    assert worker.runner.history == [("a", 1)]
    assert (unburied(stage), in_index(stage)) == (set(), 0)


def test_partitions_move_between_two_schedulers_and_everything_fires_once() -> None:
    stage = Stage(partitions=4)
    first = stage.player("first", order="unordered")
    names = [f"t{number}" for number in range(40)]
    for number, name in enumerate(names):
        stage.delay(name, by_ms=1_000 + 100 * number, partition=number % 4)
    first.schedule(10)
    second = stage.player("second", order="unordered")
    for _ in range(60):
        stage.clock.turn(100)
        first.schedule()
        second.schedule()
    for player in (first, second):
        player.schedule(5)
        assert "fired" in player.kinds()
    assert sorted(fired(stage)) == sorted(names)
    assert (unburied(stage), in_index(stage, 4)) == (set(), 0)


def test_a_partition_that_has_gone_is_not_fired_and_what_was_under_way_is_finished() -> None:
    stage = Stage(partitions=2)
    first = stage.player("first", order="unordered")
    stage.delay("under way", by_ms=1_000, partition=1)
    stage.delay("later", by_ms=2_000, partition=1)
    first.schedule(5)
    stage.clock.turn(1_000)
    first.producer.hold = True
    first.schedule()
    second = stage.player("second", order="unordered")
    for _ in range(4):
        second.schedule()
        first.schedule()
    stage.clock.turn(1_000)
    first.producer.let_go()
    first.schedule(6)
    assert "later" not in fired(stage), "it is not first's any more"
    second.schedule(6)
    assert first.kinds("later") == ["scheduled"]
    assert set(fired(stage)) == {"under way", "later"}
    first.schedule(6)
    assert (unburied(stage), in_index(stage, 2)) == (set(), 0)
