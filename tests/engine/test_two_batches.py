"""The ledger works on one batch while the engine looks at the answers to the one before."""

from stage import Player, Stage

from yadtq.attempt import Attempt
from yadtq.ledger import Batch, Beat, Claim
from yadtq.ledger.made import Made
from yadtq.states import State

Log = list[tuple[str, list[str]]]


def meanwhile(stage: Stage, player: Player, *task_ids: str) -> Log:
    """Let these arrive while the ledger works on the first claims. The log tells what is claimed and started when."""
    log: Log = []
    ask, start = stage.ledger.ask, player.runner.start

    def asks(topic: str, worker: str, incarnation: str, batch: Batch) -> Made:
        made = ask(topic, worker, incarnation, batch)
        if batch.claims:
            if not log:
                stage.publish(*task_ids)
                player.intake.turn(player.consumer)
            log.append(("claimed", [claim.task_id for claim in batch.claims]))
        return made

    def starts(attempts: list[Attempt]) -> None:
        log.append(("started", [attempt.task_id for attempt in attempts]))
        start(attempts)

    stage.ledger.ask = asks  # type: ignore[method-assign]
    player.runner.start = starts  # type: ignore[method-assign]
    return log


def test_the_next_batch_is_asked_before_the_answers_to_the_last_are_looked_at(stage: Stage) -> None:
    stage.publish("a")
    worker = stage.player(order="unordered")
    log = meanwhile(stage, worker, "b", "c")
    worker.turn(3)
    assert log == [("claimed", ["a"]), ("claimed", ["b", "c"]), ("started", ["a"]), ("started", ["b", "c"])]
    assert not worker.engine.idle
    worker.work()
    assert (worker.engine.idle, worker.runner.in_hand) == (True, [])
    stage.clock.turn(1_000)
    worker.turn()
    assert stage.committed() == 3


def test_what_was_claimed_and_has_not_started_has_its_room(stage: Stage) -> None:
    stage.publish("a", "b")
    worker = stage.player(order="unordered", slots=3)
    log = meanwhile(stage, worker, "c", "d")
    worker.turn(5)
    assert [ids for what, ids in log if what == "claimed"] == [["a", "b"], ["c"]]
    assert stage.ledger.records(["d"]) == [None]


def test_a_batch_that_gets_lost_behind_one_that_was_answered_is_asked_again(stage: Stage) -> None:
    stage.publish("a")
    worker = stage.player(order="unordered")
    meanwhile(stage, worker, "b")
    ask = stage.ledger.ask

    def loses_the_second(topic: str, worker: str, incarnation: str, batch: Batch) -> Made:
        if [claim.task_id for claim in batch.claims] == ["b"] and stage.record("a").attempts:
            stage.ledger.ask = ask  # type: ignore[method-assign]
            stage.ledger.lose_replies = 1
        return ask(topic, worker, incarnation, batch)

    stage.ledger.ask = loses_the_second  # type: ignore[method-assign]
    worker.turn(3)
    assert [attempt.task_id for attempt in worker.runner.waiting.values()] == ["a"]
    stage.clock.turn(1_000)
    worker.heartbeat.turn()
    worker.work()
    assert sorted(worker.runner.history) == [("a", 1), ("b", 1)]
    stage.clock.turn(1_000)
    worker.turn()
    assert stage.committed() == 2


def test_a_worker_that_is_told_to_drain_waits_for_the_answers_to_what_it_asked(stage: Stage) -> None:
    stage.publish("a")
    worker = stage.player(order="unordered")
    stage.ledger.beat(Beat("other", "1", 10_000, first=True))
    claim = Claim("a", "token", "add", 0, 0, stage.clock.now_ms(), 0, 3)
    stage.ledger.exchange(stage.topics.tasks, "other", "1", Batch(claims=[claim]))
    meanwhile(stage, worker, "b")
    worker.turn()
    assert stage.record("b").status is State.PROCESSING
    assert not worker.engine.idle, "the ledger has given b to this worker, which does not know it yet"
    worker.drain()
    assert (worker.engine.idle, stage.record("b").status) == (True, State.QUEUED)
