"""A worker whose engine does not move any more turns DEAD and leaves by itself, and what it had is taken over."""

import time
from pathlib import Path

import pytest
from drama import Stage

from yadtq.states import State

pytestmark = pytest.mark.real
BEFORE = ["before0", "before1"]
RUNNING = ["running0", "running1"]
WAITING = [f"waiting{n}" for n in range(8)]
TAKEN_OVER_S = 15.0


def test_it_leaves_and_says_where_it_stood_and_the_other_takes_over(stage: Stage, tmp_path: Path) -> None:
    wedged = tmp_path / "wedged"
    stage.create(partitions=2)
    stuck = stage.worker("stuck", "--runners", "1", "--concurrency", "2", env={"WEDGED": str(wedged)})
    stage.until(lambda: list(stage.partitions_of("stuck")) == [0, 1])
    with stage.observed():
        stage.submit(*((name, "add", 1, 1) for name in BEFORE))
        stage.until_committed({0: 1, 1: 1})
        stage.submit(*((name, "nap", 30) for name in RUNNING), *((name, "nap", 0.1) for name in WAITING))
        firsts = [stage.until_running(name) for name in RUNNING]
        wedged.touch()
        wedged_s = time.time()
        other = stage.worker("other", "--runners", "1", "--concurrency", "10")
        stage.until(lambda: not stage.partitions_of("stuck"))
        assert stuck.alive, "it left before its beats had ended: void"
        stuck.leaves(1)
        stuck.says("yadtq-engine has not moved for 10.5 s; this worker leaves")
        stuck.says("_gather")
        for first in firsts:
            again = stage.until_running(first.task_id, attempt=2)
            assert again.start_ms / 1000 - wedged_s < TAKEN_OVER_S
        assert set(stage.until_final(WAITING).values()) == {State.SUCCESS}
        other.kill()  # two naps of half a minute would prove nothing more
    account = stage.account()
    assert account.duplicated == set(RUNNING)
    assert account.lost == set(RUNNING), "they go on"
