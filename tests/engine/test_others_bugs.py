"""What went wrong in other queues on Kafka, played here: each test names the bug, and says what it was."""

import pytest
from stage import GROUP, Player, Stage

from yadtq.attempt import Ending
from yadtq.broker import TopicPartition
from yadtq.layout import HEADER_SOURCE
from yadtq.offsets import Position, Tracker, read_bitmap


def end_of(player: Player, *task_ids: str) -> None:
    """End these of the tasks that run, and settle them."""
    for number, attempt in list(player.runner.running.items()):
        if attempt.task_id in task_ids:
            player.runner.end_one(number)
    player.turn(4)


def commit(stage: Stage, *players: Player) -> Position | None:
    """Let the next commit be due; return what Kafka has."""
    stage.clock.turn(2_000)
    for player in players:
        player.heartbeat.turn()
        player.turn(2)
    found = stage.broker.committed(stage.topics.tasks, GROUP).get(TopicPartition(stage.topics.tasks, 0))
    assert found is None or found.offset <= len(stage.lying_in(stage.topics.tasks)), "no such offset was ever written"
    return found


def begun(player: Player) -> Player:
    player.turn(3)
    player.runner.begin()
    return player


# -- confluentinc/parallel-consumer ------------------------------------------------------------------------------------


def test_parallel_consumer_547_what_was_on_its_way_when_the_partition_went_uses_up_no_room(stage: Stage) -> None:
    """Work of a revoked partition was never taken off the count of what is out, until nothing more was polled."""
    ids = [f"t{number}" for number in range(8)]
    stage.publish(*ids)
    worker = stage.player(order="unordered", slots=2)
    for turn in range(6):
        worker.turn(3)
        if turn % 2:
            worker.runner.begin()
        worker.consumer.expel()
        worker.turn(2)
        worker.runner.end()
        commit(stage, worker)
    worker.work()
    assert all(stage.record(task_id).final for task_id in ids)
    assert (worker.runner.room(), worker.engine.idle) == (2, True)
    assert max(attempt for _, attempt in worker.runner.history) == 1
    found = commit(stage, worker)
    assert found is not None
    assert found.offset == len(ids)


def test_parallel_consumer_826_what_was_read_and_not_run_is_not_committed_when_the_partition_goes(stage: Stage) -> None:
    """The highest offset that was seen was committed, though nothing had run; after the rebalance it was never read."""
    stage.publish("a", "b", "c")
    old = stage.player("old", order="unordered")
    old.turn(3)
    assert len(old.runner.waiting) == 3
    found = commit(stage, old)
    assert found == Position(0, "")
    new = stage.player("new", order="unordered")
    old.consumer.expel()
    old.turn(3)
    assert commit(stage, new) == Position(0, "")
    new.work()
    assert sorted(new.runner.history) == [("a", 1), ("b", 1), ("c", 1)]


def test_parallel_consumer_894_a_new_owner_without_new_records_commits_no_offset_that_nobody_wrote(
    stage: Stage,
) -> None:
    """The committed offset, which is the next one to read, was taken for one that was done: one more was committed."""
    stage.publish("a", "b", "c", "d")
    last = begun(stage.player("p0", order="unordered"))
    end_of(last, "c")
    for number, task_id in enumerate(("b", "d"), 1):
        found = commit(stage, last)
        assert found is not None
        assert found.offset == 0
        last.crash()
        last = stage.player(f"p{number}", order="unordered")
        stage.lease_over(last)
        end_of(begun(last), task_id)
    found = commit(stage, last)
    assert found is not None
    assert (found.offset, read_bitmap(found.metadata, 0)) == (0, {1, 2, 3})
    end_of(last, "a")
    assert commit(stage, last) == Position(4, "")


def test_parallel_consumer_909_a_record_that_comes_again_is_not_taken_for_the_stale_one_that_still_runs(
    stage: Stage,
) -> None:
    """The record that was read anew was dropped in favour of its stale self, whose end then counted for nothing."""
    stage.publish("a", "b")
    worker = begun(stage.player())
    worker.consumer.expel()
    worker.turn(3)
    assert len(worker.intake.assignments) == 1, "the partition is back"
    end_of(worker, "a")
    assert commit(stage, worker) is not None
    worker.work()
    found = commit(stage, worker)
    assert found is not None
    assert found.offset == 2
    assert worker.runner.history == [("a", 1), ("b", 1)]


def test_parallel_consumer_664_what_ends_while_a_commit_is_under_way_is_committed_by_the_next() -> None:
    """The answer to a commit made the partition clean, also of what had ended since the commit was sent."""
    tracker = Tracker()
    for offset in range(3):
        tracker.open(offset)
    tracker.close(0)
    sent = tracker.committable()
    assert sent == Position(1, "")
    tracker.close(1)
    tracker.committed(sent)
    assert tracker.committable() == Position(2, "")


# -- faust -------------------------------------------------------------------------------------------------------------


def test_parallel_consumer_662_a_slot_that_is_held_for_long_leaves_the_others_supplied(stage: Stage) -> None:
    """What was on its way was counted twice against what might be taken, and slots beside a slow record stood empty."""
    tiny = [f"t{number}" for number in range(12)]
    stage.publish("slow", *tiny)
    worker = begun(stage.player(order="unordered", slots=3))
    for ended in range(0, len(tiny), 2):
        assert [attempt.task_id for attempt in worker.runner.running.values()] == ["slow", *tiny[ended : ended + 2]]
        end_of(worker, *tiny)
        worker.runner.begin()
    assert [attempt.task_id for attempt in worker.runner.running.values()] == ["slow"]
    found = commit(stage, worker)
    assert found is not None
    assert (found.offset, len(read_bitmap(found.metadata, 0))) == (0, len(tiny))


def test_faust_312_a_hole_before_everything_that_has_ended_holds_the_commit(stage: Stage) -> None:
    """With 34 to 37 acknowledged and 33 not, 38 was committed: the run was looked for from the first that was."""
    stage.publish(*"abcdef")
    worker = begun(stage.player(order="unordered"))
    end_of(worker, *"cdef")
    found = commit(stage, worker)
    assert found is not None
    assert (found.offset, read_bitmap(found.metadata, 0)) == (0, {2, 3, 4, 5})
    end_of(worker, "b")
    found = commit(stage, worker)
    assert found is not None
    assert found.offset == 0
    end_of(worker, "a")
    assert commit(stage, worker) == Position(6, "")


def test_faust_606_an_offset_that_nobody_wrote_is_told_from_a_record_that_has_not_ended() -> None:
    """So that offsets missing in a compacted topic hold up nothing, every hole was passed: also what still ran."""
    tracker = Tracker("", 10)
    for offset in (10, 11, 14, 15):  # 12 and 13 are not there
        assert tracker.open(offset)
    for offset in (11, 14, 15):
        tracker.close(offset)
    found = tracker.committable()
    assert found is not None
    assert (found.offset, read_bitmap(found.metadata, 10)) == (10, {11, 14, 15})
    tracker.close(10)
    assert tracker.committable() == Position(16, "")


# -- karafka -----------------------------------------------------------------------------------------------------------


def test_karafka_3215_an_unfinished_offset_0_is_a_position_like_any_other_and_no_loss(stage: Stage) -> None:
    """With offset 0 unfinished there was nothing to mark, and that was reported as a lost partition."""
    stage.publish("a", "b", "c")
    worker = begun(stage.player(order="unordered"))
    end_of(worker, "b", "c")
    found = commit(stage, worker)
    assert found is not None
    assert (found.offset, found.committed, read_bitmap(found.metadata, 0)) == (0, True, {1, 2})
    assert "lost" not in worker.kinds()
    worker.crash()
    heir = stage.player("heir", order="unordered")
    stage.lease_over(heir)
    heir.work()
    assert heir.runner.history == [("a", 2)]


def test_karafka_3216_a_dead_letter_is_of_the_one_that_failed_and_commits_nothing_beside_it(stage: Stage) -> None:
    """Where a batch ran in parallel and one part of it failed for good, any message of that part went to the dead
    letters, and the commit passed what other parts had not finished."""
    stage.publish("a", "b", "c", "d", max_attempts=1)
    worker = begun(stage.player(order="unordered"))
    (failed,) = [number for number, attempt in worker.runner.running.items() if attempt.task_id == "c"]
    worker.runner.end_one(failed, Ending.RAISED)
    worker.turn(4)
    found = commit(stage, worker)
    assert found is not None
    assert (found.offset, read_bitmap(found.metadata, 0)) == (0, {2})
    (letter,) = stage.lying_in(stage.topics.dead)
    assert letter.headers[HEADER_SOURCE] == f"{stage.topics.tasks}/0/2".encode()
    assert letter.value == stage.lying_in(stage.topics.tasks)[2].value
    worker.crash()
    heir = stage.player("heir", order="unordered")
    stage.lease_over(heir)
    heir.work()
    assert heir.runner.history == [("a", 2), ("b", 2), ("d", 2)]


@pytest.mark.parametrize("lease", ["holds", "is over"])
def test_karafka_3220_a_task_that_fails_where_its_partition_was_lost_has_one_dead_letter(
    stage: Stage, lease: str
) -> None:
    """The owner that had lost the partition wrote a dead letter, and the new one, which ran it again, another."""
    stage.publish("a", max_attempts=1)
    old, new = stage.player("old"), stage.player("new")
    begun(old)
    old.consumer.expel()
    if lease == "is over":
        stage.lease_over(new)
        new.work(ending=Ending.RAISED)
        assert new.runner.history == [("a", 2)]
    old.runner.end(Ending.RAISED)
    old.turn(4)
    for _ in range(3):
        commit(stage, old, new)
    assert len(stage.lying_in(stage.topics.dead)) == 1
    assert len(stage.outcomes("a")) == 1
    assert ("refused" in old.kinds("a")) == (lease == "is over")
    assert stage.committed() == 1


# -- taskbroker --------------------------------------------------------------------------------------------------------


def test_taskbroker_344_a_dead_letter_that_kafka_does_not_take_is_not_dropped_with_its_task(stage: Stage) -> None:
    """What could not be written to the dead letters was logged and deleted."""
    stage.publish("a", max_attempts=1)
    dead = stage.broker.logs.pop(stage.topics.dead)
    worker = stage.player()
    worker.work(ending=Ending.RAISED)
    for _ in range(20):
        found = commit(stage, worker)
        assert found is None or found.offset == 0
    assert stage.outcomes("a") == []
    assert not stage.record("a").final
    stage.broker.logs[stage.topics.dead] = dead
    for _ in range(3):
        commit(stage, worker)
    (letter,) = stage.lying_in(stage.topics.dead)
    assert letter.value == stage.lying_in(stage.topics.tasks)[0].value
    assert stage.record("a").final
    assert stage.committed() == 1
