"""An `end` belongs to one run: a later producer opens the next, and who starts after an `end` waits for it."""

import pytest
from drama import QUEUE, Stage, task

from yadtq.states import State

pytestmark = pytest.mark.real


def test_a_later_producer_opens_a_new_run_and_late_consumers_wait_for_it(stage: Stage) -> None:
    first = stage.producer(task("a1", "add", 1, 1), "end")
    early = stage.consumer("early")
    for actor in (first, early):
        actor.leaves(0)
    first.says("1 published, 0 skipped; 1 SUCCESS, 0 FAILED")

    late = stage.consumer("late")
    monitor = stage.monitor("--topic", QUEUE)
    late.says("partition 0 assigned, continues at offset 1")
    monitor.says("late is ALIVE")
    second = stage.producer(task("b1", "add", 2, 2))
    stage.until_final(["b1"])
    assert late.alive
    assert monitor.alive
    second.write(task("b2", "fail"), "end")
    for actor in (second, late, monitor):
        actor.leaves(0)
    second.says("the queue has ended: 2 published, 0 skipped; 1 SUCCESS, 1 FAILED")
    assert late.said(r": (\w+) starts")[0] == "b1"
    stage.account().check(duplicated={"b2"})
    assert {topic: run.number for topic, run in stage.app.ledger.runs().items()} == {stage.topics.tasks: 2}


def test_with_two_producers_the_end_counts_when_both_have_ended(stage: Stage) -> None:
    consumer = stage.consumer("consumer")
    one = stage.producer(task("a1", "add", 1, 1), name="one")
    two = stage.producer(task("b1", "add", 2, 2), name="two")
    stage.until_final(["a1", "b1"])
    one.write("end")
    one.says("waiting until all are done")
    two.write(task("b2", "add", 3, 3))
    stage.until_final(["b2"])
    stage.until_committed({0: 3})  # all is done, and yet it is no end
    two.write(task("b3", "sleep", 1))
    stage.until_running("b3")
    assert all(actor.alive for actor in (one, two, consumer))
    two.write("end")
    for actor in (one, two, consumer):
        actor.leaves(0)
    one.says("the queue has ended: 1 published, 0 skipped; 1 SUCCESS, 0 FAILED")
    two.says("the queue has ended: 3 published, 0 skipped; 3 SUCCESS, 0 FAILED")
    stage.account().check(duplicated=set())


def test_a_producer_that_was_killed_or_left_without_end_does_not_hold_up_the_others(stage: Stage) -> None:
    consumer = stage.consumer("consumer")
    killed = stage.producer(task("a1", "add", 1, 1), name="killed")
    left = stage.producer(task("b1", "add", 1, 1), name="left")
    ending = stage.producer(task("c1", "add", 2, 2), name="ending")
    stage.until_final(["a1", "b1", "c1"])
    killed.kill()
    left.close_input()
    left.leaves(0)
    left.says("the input is over, without `end`: 1 published, 0 skipped; the queue goes on")
    ending.write("end")
    for actor in (ending, consumer):
        actor.leaves(0)
    ending.says("the queue has ended: 1 published, 0 skipped; 1 SUCCESS, 0 FAILED")
    assert stage.account().check().states == dict.fromkeys(["a1", "b1", "c1"], State.SUCCESS)
