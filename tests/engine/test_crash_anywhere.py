"""A worker dies between any two steps: nothing is lost, one outcome counts, and no commit passes an unfinished task."""

from collections.abc import Callable

import pytest
from stage import Player, Stage

from yadtq.attempt import Ending
from yadtq.settings import Order
from yadtq.states import State

ENDINGS = {"ok": Ending.RETURNED, "bad": Ending.RAISED}


def one_step(worker: Player, step: int, ending: Ending) -> None:
    """The smallest moves of a worker, in turn."""
    moves: list[Callable[[], object]] = [
        lambda: worker.intake.turn(worker.consumer),
        lambda: worker.engine.step(0.0),
        worker.runner.begin,
        lambda: worker.runner.end(ending),
        lambda: worker.stage.clock.turn(300),
    ]
    moves[step % len(moves)]()


def check_commit(stage: Stage, ids: list[str]) -> None:
    """Seen from outside: everything below the committed offset is final."""
    for task_id in ids[: stage.committed()]:
        assert stage.record(task_id).final, f"the commit passed {task_id}"


@pytest.mark.parametrize("order", ["unordered", "partition"])
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("crash_at", range(1, 46))
def test_a_crash_after_any_step_loses_nothing_and_changes_no_outcome(crash_at: int, ending: str, order: Order) -> None:
    stage = Stage()
    ids = [f"t{number}" for number in range(3)]
    stage.publish(*ids, max_attempts=2)
    dying = stage.player("dying", order=order)
    for step in range(crash_at):
        one_step(dying, step, ENDINGS[ending])
        check_commit(stage, ids)
    done_before = {task_id: outcome for task_id in ids for outcome in stage.outcomes(task_id)}
    sealed_before = {task_id for task_id in done_before if stage.record(task_id).final}
    dying.crash()
    stage.lease_over()
    heir = stage.player("heir", order=order)
    for _ in range(60):
        for step in range(5):
            one_step(heir, step, ENDINGS[ending])
        heir.heartbeat.turn()
        check_commit(stage, ids)
    expected = State.SUCCESS if ending == "ok" else State.FAILED
    assert [stage.record(task_id).shown for task_id in ids] == [expected] * 3
    assert stage.committed() == 3
    for task_id in ids:
        assert len({outcome.fence for outcome in stage.outcomes(task_id)}) == 1, "two outcomes of one task"
    ran_by_heir = {task_id for task_id, _ in heir.runner.history}
    assert not ran_by_heir & done_before.keys(), "what had an outcome in Kafka ran again"
    assert sealed_before <= set(ids)
