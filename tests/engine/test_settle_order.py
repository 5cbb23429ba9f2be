"""From the runner's outcome to the closed offset: every step in its place, and none passed over."""

import pytest
from stage import Stage, registry_of

from yadtq.attempt import Ending
from yadtq.catalogue import Catalogue, rules_of
from yadtq.errors import LedgerFull
from yadtq.layout import HEADER_REASON, HEADER_SHA256, HEADER_SOURCE
from yadtq.ledger import Batch, Seal
from yadtq.ledger.made import Made
from yadtq.states import State


def test_a_task_runs_once_and_its_offset_is_committed(stage: Stage) -> None:
    stage.publish("a", "b", "c")
    worker = stage.player()
    worker.work()
    stage.clock.turn(2_000)
    worker.turn(2)
    assert [task_id for task_id, _ in worker.runner.history] == ["a", "b", "c"]
    assert stage.committed() == 3
    assert [len(stage.outcomes(task_id)) for task_id in "abc"] == [1, 1, 1]
    assert stage.record("a").final


def test_the_outcome_is_final_for_users_only_after_kafka_has_it(stage: Stage) -> None:
    stage.publish("a")
    worker = stage.player()
    worker.turn(2)
    worker.runner.begin()
    worker.producer.hold = True
    worker.runner.end()
    worker.turn(3)
    assert stage.record("a").status is State.SUCCESS
    assert stage.record("a").shown is State.PROCESSING
    stage.clock.turn(2_000)
    worker.turn(2)
    assert stage.committed() == 0
    worker.producer.let_go()
    worker.turn(3)
    stage.clock.turn(2_000)
    worker.turn(2)
    assert stage.record("a").shown is State.SUCCESS
    assert stage.committed() == 1


def test_the_dead_letter_is_acknowledged_before_the_outcome_is_sent(stage: Stage) -> None:
    stage.publish("a", max_attempts=1)
    worker = stage.player()
    worker.turn(2)
    worker.runner.begin()
    worker.producer.hold = True
    worker.runner.end(Ending.RAISED)
    worker.turn(3)
    assert [message.topic for message in worker.producer.sent] == []
    worker.producer.let_go()
    worker.turn(3)
    assert [message.topic for message in worker.producer.sent] == [stage.topics.dead, stage.topics.outcomes]
    letter = stage.lying_in(stage.topics.dead)[0]
    assert letter.value == stage.lying_in(stage.topics.tasks)[0].value
    assert letter.headers[HEADER_REASON] == b"boom"
    assert letter.headers[HEADER_SOURCE] == f"{stage.topics.tasks}/0/0".encode()


def test_a_write_that_kafka_does_not_acknowledge_is_sent_again_and_holds_the_offset(stage: Stage) -> None:
    stage.publish("a", max_attempts=1)
    worker = stage.player()
    worker.turn(2)
    worker.runner.begin()
    worker.producer.fail_next = 3
    worker.runner.end(Ending.RAISED)
    for left in (2, 1, 0):
        worker.turn(3)
        assert worker.producer.fail_next == left
        assert stage.committed() == 0
        stage.clock.turn(2_000)
    worker.turn(5)
    stage.clock.turn(2_000)
    worker.turn(2)
    assert stage.committed() == 1
    assert len(stage.lying_in(stage.topics.dead)) == 1
    assert "unavailable" in worker.kinds()
    assert "available" in worker.kinds()


def test_a_full_ledger_is_full_until_it_takes_something_new(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beats and seals land: that is no room for claims, and no coming and going."""
    worker, ask, sealed = stage.player(), stage.ledger.ask, list[Seal]()

    def full(topic: str, name: str, incarnation: str, batch: Batch) -> Made:
        if batch.brings:
            raise LedgerFull("full")
        sealed.extend(batch.seals)
        return ask(topic, name, incarnation, batch)

    stage.publish("t")
    worker.producer.hold = True
    worker.work(3)
    with monkeypatch.context() as patch:
        patch.setattr(stage.ledger, "ask", full)
        for _ in range(4):
            stage.clock.turn(1_000)
            worker.turn()
            worker.heartbeat.turn()
        assert "unavailable" in worker.kinds()
        worker.producer.let_go()
        stage.clock.turn(1_000)
        worker.turn(2)
        assert sealed
        worker.heartbeat.turn()
        assert "available" not in worker.kinds()
    stage.clock.turn(1_000)
    worker.turn(2)
    assert worker.kinds()[-1] == "available"


@pytest.mark.parametrize("loop", ["intake", "scheduler"])
def test_kafka_answers_again_as_soon_as_a_poll_is_answered_though_there_is_nothing_to_do(
    stage: Stage, loop: str
) -> None:
    worker = stage.player()
    turn = worker.turn if loop == "intake" else worker.schedule
    turn()
    for _ in range(2):
        stage.broker.down = True
        turn()
        stage.broker.down = False
        turn(2)
    assert [kind for kind in worker.kinds() if "available" in kind] == ["unavailable", "available"], (
        "the rest is too soon"
    )


def test_a_refused_accept_closes_nothing_and_goes_back_to_the_claim(stage: Stage) -> None:
    stage.publish("a")
    slow, quick = stage.player("slow"), stage.player("quick")
    slow.turn(3)
    slow.runner.begin()
    slow.consumer.expel()
    stage.lease_over(quick)
    quick.work()
    assert quick.runner.history == [("a", 2)]
    slow.runner.end(result=b'"late"')
    slow.turn(5)
    assert "refused" in slow.kinds("a")
    assert stage.record("a").result == b"1"
    assert [bytes(outcome.result) for outcome in stage.outcomes("a")] == [b"1"]


def test_undecodable_bytes_go_to_the_dead_letters_as_they_are_and_hold_up_nobody(stage: Stage) -> None:
    for data in (b"\x00\xff garbage", b"", b"{}", b"[1, 2]", b'{"task_id": ""}'):
        stage.publish_bytes(data)
    stage.publish("good")
    worker = stage.player()
    worker.work()
    stage.clock.turn(2_000)
    worker.turn(2)
    assert {record.value for record in stage.lying_in(stage.topics.dead)} == {
        b"\x00\xff garbage", b"", b"{}", b"[1, 2]", b'{"task_id": ""}',
    }  # fmt: skip
    assert stage.record("good").final
    assert stage.committed() == 6


def test_a_worker_that_is_told_of_new_code_runs_what_only_that_knows() -> None:
    stage = Stage(tasks=("add",))
    catalogue = Catalogue(rules_of(stage.registry))
    stage.registry = catalogue  # type: ignore[assignment]  # what a worker has that its runners teach
    worker = stage.player(solo_slots=1, order="unordered")
    catalogue.learn(rules_of(registry_of("add", "new!")))
    stage.publish("t", task_type="new!")
    worker.turn(2)
    assert [attempt.place for attempt in worker.runner.in_hand] == ["solo"]
    worker.work(4)
    assert stage.record("t").shown is State.SUCCESS
    catalogue.learn(rules_of(registry_of("new!")))
    stage.publish("u")
    worker.work(4)
    assert stage.record("u").shown is State.FAILED


def test_an_unknown_task_ends_failed_at_once_and_names_the_known_ones(stage: Stage) -> None:
    stage.publish("a", task_type="nosuch")
    worker = stage.player()
    worker.work()
    record = stage.record("a")
    assert (record.status, record.attempts, record.final) == (State.FAILED, 0, True)
    assert record.error_log == "unknown task 'nosuch'; this worker knows add"
    assert stage.lying_in(stage.topics.dead)[0].value == stage.lying_in(stage.topics.tasks)[0].value
    assert worker.runner.history == []


def test_a_dead_letter_that_is_too_large_to_copy_is_referenced(stage: Stage) -> None:
    stage.broker.configs[stage.topics.dead] = {"max.message.bytes": "50"}
    stage.publish_bytes(b"x" * 200)
    worker = stage.player()
    worker.turn(3)
    stage.clock.turn(1_000)
    worker.turn(3)
    stage.clock.turn(2_000)
    worker.turn(2)
    letter = stage.lying_in(stage.topics.dead)[0]
    assert letter.value == b""
    assert len(letter.headers[HEADER_SHA256]) == 64
    assert stage.committed() == 1


def test_a_failing_task_is_tried_three_times_with_its_waits_in_place(stage: Stage) -> None:
    stage.publish("a", "b")
    worker = stage.player()
    for attempt, wait_ms in ((1, 250), (2, 500), (3, 0)):
        worker.turn(3)
        worker.runner.begin()
        assert worker.runner.history[-1] == ("a", attempt)
        worker.runner.end(Ending.RAISED)
        worker.turn(2)
        stage.clock.turn(wait_ms - 1) if wait_ms else None
        worker.turn(2)
        if wait_ms:
            assert worker.runner.waiting == {}, "the retry came before its time"
            stage.clock.turn(1)
    worker.work()
    assert worker.runner.history[3:] == [("b", 1)]
    record = stage.record("a")
    assert (record.status, record.attempts, record.result, record.error_log) == (State.FAILED, 3, None, "boom")


@pytest.mark.parametrize("ending", [Ending.BAD_RESULT, Ending.BAD_ARGUMENTS])
def test_what_would_fail_the_same_way_again_is_not_run_again(stage: Stage, ending: Ending) -> None:
    stage.publish("a")
    worker = stage.player()
    worker.work(ending=ending)
    assert worker.runner.history == [("a", 1)]
    assert stage.record("a").status is State.FAILED


def test_what_is_finished_above_an_unfinished_record_travels_with_the_commit_and_is_skipped(stage: Stage) -> None:
    stage.publish("a")
    stage.publish_bytes(b"garbage")
    first, second = stage.player("first"), stage.player("second")
    first.turn(3)
    first.runner.begin()
    stage.clock.turn(2_000)
    first.turn(2)
    assert stage.committed() == 0, "the commit passed a record that still runs"
    assert len(stage.lying_in(stage.topics.dead)) == 1
    first.crash()
    stage.lease_over(second)
    second.work()
    stage.lease_over(second)
    assert second.runner.history == [("a", 2)]
    assert len(stage.lying_in(stage.topics.dead)) == 1, "the finished record was read again"
    assert stage.committed() == 2


def test_after_a_refused_accept_the_offset_stays_open_until_the_attempt_that_counts_has_ended() -> None:
    stage = Stage(partitions=2)
    stage.publish("a", partition=0)
    slow, other = stage.player("slow"), stage.player("other")
    slow.turn(3)
    slow.runner.begin()
    stage.publish("a", partition=1)  # a copy of the task, in a partition of the other worker
    stage.lease_over(other)
    other.turn(3)
    other.runner.begin()
    assert other.runner.history == [("a", 2)]
    slow.runner.end(result=b'"late"')
    slow.turn(4)
    assert "refused" in slow.kinds("a")
    stage.clock.turn(2_000)
    slow.turn(2)
    assert stage.committed(0) == 0, "the commit passed a task that still runs elsewhere"
    other.runner.end()
    other.turn(4)
    for _ in range(4):
        slow.heartbeat.turn()
        slow.turn(2)
        stage.clock.turn(1_500)
    slow.turn(2)
    assert stage.committed(0) == 1
    assert [bytes(outcome.result) for outcome in stage.outcomes("a")] == [b"1"]


def test_a_dead_letter_that_is_refused_for_another_reason_than_its_size_keeps_its_bytes(stage: Stage) -> None:
    dead = stage.broker.logs.pop(stage.topics.dead)
    stage.publish_bytes(b"garbage")
    worker = stage.player()
    worker.turn(3)
    stage.clock.turn(1_000)
    worker.turn(2)
    stage.broker.logs[stage.topics.dead] = dead
    stage.clock.turn(1_000)
    worker.turn(3)
    assert [record.value for record in stage.lying_in(stage.topics.dead)] == [b"garbage"]
