"""Ctrl+C in the middle of work: once finishes what runs, twice leaves at once; nothing is lost either way."""

import time

import pytest
from drama import Stage, task

from yadtq.states import State

pytestmark = pytest.mark.real
WAITING = ["next1", "next2"]


def test_ctrl_c_once_finishes_what_runs_commits_it_and_starts_nothing_new(stage: Stage) -> None:
    stage.producer(task("running", "sleep", 1.5), *(task(name, "add", 1, 1) for name in WAITING))
    first = stage.consumer("first")
    with stage.observed():
        stage.until_running("running")
        first.interrupt()
        first.says("finishing what runs; once more to leave at once")
        first.leaves(0)
        first.says("running SUCCESS after attempt 1")
        assert stage.committed() == {0: 1}
        assert stage.finals(["running", *WAITING]) == {"running": State.SUCCESS}
        second = stage.consumer("second")
        second.says("partition 0 assigned, continues at offset 1")
        stage.until_final(WAITING)
        stage.until_committed({0: 3})
    assert first.said(r": (\w+) starts") == ["running"]
    stage.account().check(duplicated=set())


def test_ctrl_c_twice_leaves_at_once_and_another_runs_the_task_again(stage: Stage) -> None:
    stage.producer(task("running", "sleep", 2.5), *(task(name, "add", 1, 1) for name in WAITING))
    first = stage.consumer("first")
    stage.until_running("running")
    first.interrupt()
    first.says("finishing what runs")
    asked_s = time.time()
    first.interrupt()
    first.leaves(130)
    assert time.time() - asked_s < 2
    assert stage.committed().get(0, 0) == 0
    second = stage.consumer("second")
    second.says("running taken over from first")
    assert set(stage.until_final(["running", *WAITING]).values()) == {State.SUCCESS}
    account = stage.account().check(duplicated={"running"})
    assert account.of_task("running")[0].end_ms is None
    assert account.attempts["running"] == 2


def test_ctrl_c_before_there_is_a_queue_leaves_too(stage: Stage) -> None:
    consumer = stage.consumer("early")
    consumer.says("is not there yet; the producer creates it")
    consumer.interrupt()
    consumer.leaves(0)
