"""A run ends when every producer that is alive gave `end` and everything is done, and everybody sees the same end."""

from collections.abc import Sequence

from stage import GROUP, Stage

from yadtq.attempt import Ending
from yadtq.ledger import Place
from yadtq.run import EndWatch, Producing, drained
from yadtq.telemetry import Telemetry


def producing(stage: Stage, name: str) -> Producing:
    made = Producing(stage.ledger, stage.topics.tasks, name, Telemetry())
    made.open()
    return made


def watch(stage: Stage, *, closes: bool = True) -> EndWatch:
    broker = stage.broker if closes else None
    made = EndWatch(stage.ledger, stage.topics.tasks, Telemetry(), lambda: None, broker=broker, group=GROUP)
    made.look()
    return made


def over(watch: EndWatch) -> bool:
    """The first look may close the run, the second sees it closed."""
    return watch.look() or watch.look()


def finish(stage: Stage) -> None:
    worker = stage.player()
    worker.work()
    stage.clock.turn(1_000)
    worker.turn(2)


def test_the_end_comes_when_all_is_committed_and_not_before(stage: Stage) -> None:
    producer, consumer, monitor = producing(stage, "p"), watch(stage), watch(stage, closes=False)
    stage.publish("a")
    producer.beat(ended=True)
    assert not consumer.look()
    finish(stage)
    assert over(consumer)
    assert monitor.look()
    assert producer.beat(ended=True).ended


def test_with_two_producers_the_end_counts_when_both_have_ended(stage: Stage) -> None:
    first, second, consumer = producing(stage, "first"), producing(stage, "second"), watch(stage)
    first.beat(ended=True)
    assert not over(consumer)
    second.beat(ended=True)
    assert over(consumer)


def test_a_killed_or_leaving_producer_holds_up_nothing(stage: Stage) -> None:
    first, second, killed, consumer = (
        *(producing(stage, name) for name in ("first", "second", "killed")),
        watch(stage),
    )
    second.beat(left=True)
    first.beat(ended=True)
    assert not over(consumer)
    stage.clock.turn(11_000)
    assert killed.run_record.number == 1
    first.beat(ended=True)
    assert over(consumer)


def test_a_consumer_that_starts_after_an_end_waits_for_the_next_run(stage: Stage) -> None:
    producing(stage, "first").beat(ended=True)
    early = watch(stage)
    assert over(early)
    late = watch(stage)
    assert not over(late)
    second = producing(stage, "second")
    assert second.run_record.number == 2
    assert not late.look()
    second.beat(ended=True)
    assert over(late)


def test_a_consumer_that_starts_between_end_and_the_last_task_leaves_with_the_others(stage: Stage) -> None:
    stage.publish("a")
    producing(stage, "p").beat(ended=True)
    late = watch(stage)
    finish(stage)
    assert over(late)


def test_a_redis_that_is_down_is_no_end(stage: Stage) -> None:
    producer, consumer = producing(stage, "p"), watch(stage)
    producer.beat(ended=True)
    stage.ledger.down = True
    assert not consumer.look()
    stage.ledger.down = False
    assert over(consumer)


def test_what_waits_for_a_time_holds_up_the_end(stage: Stage) -> None:
    producer, consumer, worker = producing(stage, "p"), watch(stage), stage.player(order="unordered")
    stage.delay("a", by_ms=5_000)
    producer.beat(ended=True)
    assert not over(consumer), "nobody has read it into the index yet"
    worker.schedule(5)
    assert not over(consumer)
    stage.clock.turn(5_000)
    worker.schedule(5)
    assert not over(consumer), "it lies in the queue now"
    worker.work()
    stage.clock.turn(1_000)
    worker.turn(2)
    assert over(consumer)


def test_a_task_that_goes_from_one_topic_to_the_other_while_somebody_looks_is_seen(stage: Stage) -> None:
    """The first look at what waits finds nothing, then the retry leaves the queue for it."""
    producer, worker = producing(stage, "p"), stage.player(order="unordered")
    stage.delay("before", by_ms=1)
    worker.schedule(3)
    stage.clock.turn(1)
    worker.schedule(5)
    worker.work()
    stage.publish("a")
    worker.turn(2)
    worker.runner.begin()
    producer.beat(ended=True)
    asked = stage.ledger.due.places

    def then_it_fails(topic: str, partitions: Sequence[int]) -> list[Place]:
        found = asked(topic, partitions)
        worker.runner.end_one(next(iter(worker.runner.running)), Ending.RAISED, after_s=60)
        worker.turn(4)
        stage.clock.turn(1_000)
        worker.turn(2)
        return found

    stage.ledger.due.places = then_it_fails  # type: ignore[method-assign]
    assert not drained(stage.ledger, stage.broker, stage.topics.tasks, GROUP)
    stage.ledger.due.places = asked  # type: ignore[method-assign]
    assert not drained(stage.ledger, stage.broker, stage.topics.tasks, GROUP)
    assert stage.committed() == 2, "the queue alone looked drained"
