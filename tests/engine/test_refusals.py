"""What Kafka refuses in the queue for ever, when its time has come, ends FAILED once, with its bytes kept."""

import hashlib
from collections.abc import Callable

import pytest
from stage import Player, Stage

from yadtq.attempt import Ending
from yadtq.broker import Message, Report
from yadtq.codec import decode
from yadtq.deadletters import DeadLetters
from yadtq.layout import HEADER_KEY, HEADER_REASON, HEADER_SHA256, HEADER_SOURCE, HEADER_TASK, Layout
from yadtq.ledger import NewTask
from yadtq.replay import Replayer
from yadtq.states import State
from yadtq.writes import reference

Q = "q"


def lower(stage: Stage, topic: str, limit: int = 20) -> None:
    stage.broker.configs[topic] = {"max.message.bytes": str(limit)}


def turn(stage: Stage, *players: Player, times: int = 12) -> None:
    for _ in range(times):
        stage.clock.turn(300)
        for player in players:
            player.heartbeat.turn()
            player.turn()
            player.schedule(2)


def waits_and_is_refused(stage: Stage, *names: str, generation: int = 0, key: bytes | None = None) -> None:
    stage.delay(*names, by_ms=1_000, key=key, generation=generation)
    lower(stage, stage.topics.tasks)


def unburied(stage: Stage) -> set[bytes]:
    last = {record.key or b"": record for record in stage.lying_in(stage.topics.delayed)}
    return {key for key, record in last.items() if record.value}


def waits(stage: Stage) -> int:
    return stage.ledger.due.places(stage.topics.tasks, [0])[0].waits


@pytest.fixture
def worker(stage: Stage) -> Player:
    return stage.player(order="unordered")


def test_it_ends_failed_with_a_dead_letter_and_is_never_fired_again(stage: Stage, worker: Player) -> None:
    waits_and_is_refused(stage, "a", generation=1, key=b"customer")
    waiting = stage.lying_in(stage.topics.delayed)[0]
    turn(stage, worker)
    record = stage.record("a")
    assert (record.shown, record.final, record.attempts) == (State.FAILED, True, 0)
    assert "does not take its envelope" in (record.error_log or "")
    assert [outcome.state for outcome in stage.ends("a")] == [State.FAILED]
    (letter,) = stage.lying_in(stage.topics.dead)
    assert letter.value == waiting.value
    assert letter.headers[HEADER_KEY] == b"customer"
    assert (letter.headers[HEADER_TASK], letter.headers[HEADER_SOURCE]) == (b"a", b"q.delayed/0/0")
    assert letter.headers["trace"] == b"\xff\x00"
    assert (unburied(stage), waits(stage)) == (set(), 0)
    (failed,) = [event.detail for event in worker.events if event.kind == "failed"]
    assert failed.startswith("add: ")
    assert not worker.runner.history


def test_the_writes_come_in_their_order(stage: Stage, worker: Player) -> None:
    """S1: dead letter, outcome, seal, tombstone, each when the one before is durable."""
    waits_and_is_refused(stage, "a")
    topics = []
    for _ in range(60):
        stage.clock.turn(300)
        worker.producer.hold = True
        worker.schedule()
        held = [message.topic for message, _ in worker.producer._held]
        if stage.topics.delayed in held:
            assert stage.record("a").final
        elif held:
            assert not any(record and record.final for record in stage.ledger.records(["a"]))
        topics += held
        worker.producer.let_go()
        worker.heartbeat.turn()
        worker.turn()
    behind = [topic for topic in topics if topic != stage.topics.tasks]
    assert behind == [stage.topics.dead, stage.topics.outcomes, stage.topics.delayed]


@pytest.mark.parametrize("crash_at", range(12))
@pytest.mark.parametrize("lose_replies", [False, True], ids=["heard", "unheard"])
def test_a_crash_at_any_step_loses_nothing_and_makes_one_end(crash_at: int, lose_replies: bool) -> None:
    stage = Stage()
    dying = stage.player("dying", order="unordered")
    waits_and_is_refused(stage, "a", "b")
    dying.schedule(2)
    for _ in range(crash_at):
        stage.clock.turn(400)
        dying.heartbeat.turn()
        dying.turn()
        stage.ledger.lose_replies = int(lose_replies)
        dying.schedule()
    stage.ledger.lose_replies = 0
    dying.crash()
    stage.lease_over()
    heir = stage.player("heir", order="unordered")
    turn(stage, heir)
    for task_id in "ab":
        ends = stage.ends(task_id)
        assert {outcome.state for outcome in ends} == {State.FAILED}
        assert len({outcome.fence for outcome in ends}) == 1, "however often it was written, it is one end"
        assert stage.record(task_id).final
    assert {record.headers[HEADER_TASK] for record in stage.lying_in(stage.topics.dead)} == {b"a", b"b"}
    assert (unburied(stage), waits(stage)) == (set(), 0)


def test_what_is_refused_only_with_its_batch_is_fired(stage: Stage, worker: Player) -> None:
    """Kafka refuses a whole batch for its size: each of it may be small enough by itself."""
    stage.delay("a", "b", "c", by_ms=1_000)
    really, calls = worker.producer.produce_batch, []

    def produce_batch(messages: list[Message], tags: list[object], on_reports: Callable[[object], None]) -> None:
        calls.append(len(messages))
        if len(messages) > 1 and messages[0].topic == stage.topics.tasks:
            on_reports([(tag, Report("the batch is too large", refused=True, too_large=True)) for tag in tags])
        else:
            really(messages, tags, on_reports)

    worker.producer.produce_batch = produce_batch  # type: ignore[assignment]
    turn(stage, worker)
    worker.work()
    assert 3 in calls
    assert sorted(worker.runner.history) == [("a", 1), ("b", 1), ("c", 1)]
    assert stage.lying_in(stage.topics.dead) == []
    assert (unburied(stage), waits(stage)) == (set(), 0)


def test_what_lay_in_the_queue_before_is_not_judged(stage: Stage, worker: Player) -> None:
    """It was fired, its tombstone is missing, and the limit came down then: it runs, and ends by itself."""
    stage.delay("a", by_ms=1_000)
    worker.schedule(3)
    stage.clock.turn(1_000)
    stage.broker.append(Message(stage.topics.tasks, stage.lying_in(stage.topics.delayed)[0].value, None, 0))
    worker.turn(3)
    worker.runner.begin()
    lower(stage, stage.topics.tasks)
    turn(stage, worker)
    assert stage.record("a").status is State.PROCESSING
    worker.runner.end()
    turn(stage, worker)
    assert [outcome.state for outcome in stage.ends("a")] == [State.SUCCESS]
    assert (unburied(stage), waits(stage)) == (set(), 0)
    assert stage.lying_in(stage.topics.dead) == []


def test_what_the_ledger_shows_as_queued_is_not_judged(stage: Stage, worker: Player) -> None:
    """It lies in the queue, and nobody has claimed it yet."""
    stage.ledger.queued([NewTask("a", "add", stage.topics.tasks, 0, 7, stage.clock.now_ms())])
    waits_and_is_refused(stage, "a")
    turn(stage, worker)
    assert stage.record("a").status is State.QUEUED
    assert (stage.lying_in(stage.topics.dead), stage.ends("a")) == ([], [])


def test_small_ones_behind_it_fire(stage: Stage, worker: Player) -> None:
    stage.delay("small", by_ms=1_000)
    size = len(stage.lying_in(stage.topics.delayed)[0].value)
    stage.delay("large" * 20, by_ms=500)
    lower(stage, stage.topics.tasks, size)
    worker.producer.fail_next = 3
    turn(stage, worker)
    worker.work()
    assert worker.runner.history == [("small", 1)]
    assert stage.record("large" * 20).shown is State.FAILED


def test_bytes_that_no_dead_letter_can_hold_stay_and_are_referred_to(stage: Stage, worker: Player) -> None:
    waits_and_is_refused(stage, "a", key=b"customer")
    value = stage.lying_in(stage.topics.delayed)[0].value
    lower(stage, stage.topics.dead)
    turn(stage, worker)
    (letter,) = stage.lying_in(stage.topics.dead)
    assert (letter.value, letter.headers[HEADER_KEY]) == (b"", b"customer")
    assert letter.headers[HEADER_SHA256] == hashlib.sha256(value).hexdigest().encode()
    kept = stage.lying_in(stage.topics.delayed)[-1]
    assert letter.headers[HEADER_SOURCE] == f"q.delayed/0/{kept.offset}".encode()
    assert (kept.key, kept.value) == (b"0:a", value)
    assert HEADER_REASON in kept.headers
    assert stage.record("a").final
    assert waits(stage) == 0
    stage.ledger.wipe()
    worker.rebuilder._least_ms = 0
    turn(stage, worker)
    assert (waits(stage), unburied(stage)) == (0, {b"0:a"}), "an index that is read anew takes it for what it is"
    assert stage.record("a").shown is State.FAILED
    lower(stage, stage.topics.tasks, 10_000)
    found = DeadLetters(stage.broker, Layout()).find(Q, f"{letter.partition}/{letter.offset}")
    replayer = Replayer(stage.broker, stage.ledger, Layout())
    replayer.replay(found)
    replayer.close()
    replayed = stage.lying_in(stage.topics.tasks)[-1]
    assert (replayed.key, decode(replayed.value).replay_of) == (b"customer", "a")


def test_a_reference_is_kept_where_nothing_takes_the_bytes(stage: Stage, worker: Player) -> None:
    waits_and_is_refused(stage, "a")
    lower(stage, stage.topics.dead)
    lower(stage, stage.topics.delayed)
    turn(stage, worker)
    (letter,) = stage.lying_in(stage.topics.dead)
    assert letter.headers[HEADER_SOURCE] == b"q.delayed/0/0"
    assert stage.record("a").final
    assert waits(stage) == 0
    assert unburied(stage) == {b"0:a"}


def test_dead_letters_that_cannot_be_written_end_nothing(stage: Stage, worker: Player) -> None:
    log = stage.broker.logs.pop(stage.topics.dead)
    waits_and_is_refused(stage, "a")
    turn(stage, worker, times=30)
    assert not stage.record("a").final
    assert stage.ends("a") == []
    stage.broker.logs[stage.topics.dead] = log
    turn(stage, worker)
    assert [outcome.state for outcome in stage.ends("a")] == [State.FAILED]
    assert unburied(stage) == set()


def test_a_retry_that_the_queue_refuses_ends_failed(stage: Stage, worker: Player) -> None:
    stage.publish("a")
    worker.turn(2)
    worker.runner.begin()
    lower(stage, stage.topics.tasks)
    worker.runner.end_one(next(iter(worker.runner.running)), Ending.RAISED, after_s=2)
    turn(stage, worker)
    record = stage.record("a")
    assert (record.shown, record.attempts, record.failures) == (State.FAILED, 1, 1)
    assert [outcome.state for outcome in stage.ends("a")] == [State.FAILED]


def test_a_reference_is_small_whatever_it_refers_to() -> None:
    ours = {HEADER_KEY: b"k" * 1_000, HEADER_REASON: b"why", HEADER_TASK: b"a", HEADER_SOURCE: b"q/0/0"}
    made = reference(Message("q.dlq", b"x" * 9_000, b"a", headers={**ours, "trace": b"t" * 9_000}))
    assert made.headers == {**ours, HEADER_SHA256: hashlib.sha256(b"x" * 9_000).hexdigest().encode()}
    assert HEADER_KEY not in reference(Message("q.dlq", b"x", b"a", headers={HEADER_KEY: b"k" * 9_000})).headers
