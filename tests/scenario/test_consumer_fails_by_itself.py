"""The consumer that fails on purpose leaves the task it was executing uncommitted; the next begins exactly there."""

import pytest
from drama import Stage, task

from yadtq.states import State

pytestmark = pytest.mark.real


def test_the_next_consumer_continues_at_the_first_unfinished_task_and_repeats_none(stage: Stage) -> None:
    failing = stage.consumer("failing", fail_after=3)
    producer = stage.producer(task("t1", "add", 1, 1), task("t2", "mul", "2", "2"))
    with stage.observed():
        failing.says("partition 0 committed up to offset 2")
        producer.write(task("t3", "sub", 3, 1), task("t4", "div", 4, 2), task("t5", "add", "5", 0))
        failing.says("fails now, while executing t3; its offset stays uncommitted")
        failing.leaves(3)
        assert stage.committed() == {0: 2}
        record = stage.record("t3")
        assert record is not None
        assert (record.shown, record.attempts) == (State.PROCESSING, 1)

        guarantee = stage.stand_by("guarantee")
        guarantee.says("takes over partition 0 at offset 2")
        assert stage.until_final(["t3", "t4", "t5"]) == dict.fromkeys(["t3", "t4", "t5"], State.SUCCESS)
        stage.until_committed({0: 5})

    assert guarantee.said(r": (\w+) starts") == ["t3", "t4", "t5"]
    assert guarantee.said(r"(\w+) taken over from failing") == ["t3"]
    account = stage.account().check(duplicated={"t3"})
    assert account.attempts == {"t1": 1, "t2": 1, "t3": 2, "t4": 1, "t5": 1}


def test_without_being_told_it_fails_at_its_third_to_fifth_task(stage: Stage) -> None:
    stage.create()
    stage.producer(*(task(f"t{n}", "add", n, n) for n in range(6)))
    failing = stage.enter_as_written("consumer.py", "original")
    name = failing.says(r"fails now, while executing (t\d)")[1]
    failing.leaves(3)
    assert name in ("t2", "t3", "t4")
    assert stage.record("t5").attempts == 0  # type: ignore[union-attr]
