"""A result that is no JSON or too large ends its task FAILED with the reason after one run, and others go on."""

import pytest
from drama import Stage

from yadtq.states import State

pytestmark = pytest.mark.real
OTHERS = [f"other{n}" for n in range(20)]


@pytest.mark.parametrize("runners", ["0", "1"])
def test_they_fail_once_and_say_why(stage: Stage, runners: str) -> None:
    stage.create(partitions=2)
    worker = stage.worker("own", "--runners", runners)
    worker.says("assigned partition 1")
    stage.submit(("odd", "give", "odd", 0), ("large", "give", "large", 70_000), ("fits", "give", "large", 60_000))
    stage.submit(*((name, "add", 1, 1) for name in OTHERS))
    states = stage.until_final(["odd", "large", "fits", *OTHERS])
    stage.until_drained()
    assert {task_id for task_id, state in states.items() if state is not State.SUCCESS} == {"odd", "large"}
    account = stage.account().check(duplicated=set())
    assert len(stage.dead_letters()) == 2
    odd, large = account.outcomes["odd"][0], account.outcomes["large"][0]
    assert "object" in (odd.error_log or "")
    assert "70,002 bytes" in (large.error_log or "")
    assert "65,536" in (large.error_log or "")
    worker.interrupt()
    worker.leaves(0)
