"""What is left when a ledger was wiped, lost writes or forgot, and what has to be true of it in the end.

One invariant: nothing is lost, nothing finished runs again, one end counts.
"""

from collections.abc import Callable, Sequence

from stage import Player, Stage

from yadtq.attempt import Ending

IDS = [f"t{number}" for number in range(4)]


def played(stage: Stage, *players: Player, rounds: int = 30) -> None:
    """Everybody works to the end; time passes, and what waits for a time comes due."""
    for _ in range(rounds):
        stage.clock.turn(400)
        for player in players:
            player.heartbeat.turn()
            player.turn()
            player.runner.begin()
            player.runner.end()
            player.turn(2)
        due(stage)


def due(stage: Stage) -> None:
    """Bring what waits in `Q.delayed` to the queue, as its scheduler does: once each."""
    for record in stage.lying_in(stage.topics.delayed)[stage.fired :]:
        stage.fired += 1
        stage.publish_bytes(record.value)


def check(stage: Stage, ids: Sequence[str] = IDS) -> None:
    for task_id in ids:
        assert len({end.fence for end in stage.ends(task_id)}) == 1, f"{task_id}: {stage.outcomes(task_id)}"
        assert stage.record(task_id).final
    assert stage.committed() == len(stage.lying_in(stage.topics.tasks))


def one_step(worker: Player, step: int, ending: Ending) -> None:
    moves: list[Callable[[], object]] = [
        lambda: worker.intake.turn(worker.consumer),
        lambda: worker.engine.step(0.0),
        worker.runner.begin,
        lambda: worker.engine.step(0.0),
        lambda: worker.runner.end(ending),
        lambda: worker.stage.clock.turn(300),
    ]
    moves[step % len(moves)]()
