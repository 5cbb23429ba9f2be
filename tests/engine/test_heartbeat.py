"""The heartbeat is the lease: who beats, who turns DEAD, and who has to leave."""

import pytest
from obedient import ObedientRunner
from stage import Player, Stage

from yadtq.attempt import Lease
from yadtq.errors import Superseded
from yadtq.ledger import Beat, Pulse
from yadtq.ledger.memory import MemoryLedger
from yadtq.runners import Sink


def status(stage: Stage, name: str) -> str:
    return {worker.name: worker.status for worker in stage.ledger.workers()}[name]


def test_a_worker_whose_loops_move_stays_alive(stage: Stage) -> None:
    worker = stage.player()
    for _ in range(6):
        stage.clock.turn(5_000)
        worker.turn()
        worker.heartbeat.turn()
    assert status(stage, "w1") == "ALIVE"


@pytest.mark.parametrize("wedged", ["engine", "intake"])
def test_a_worker_with_a_wedged_loop_turns_dead_although_its_heart_could_go_on(stage: Stage, wedged: str) -> None:
    worker = stage.player()
    worker.turn()
    worker.heartbeat.turn()
    for _ in range(3):
        stage.clock.turn(5_000)
        if wedged == "engine":
            worker.intake.turn(worker.consumer)
        else:
            worker.engine.step(0.0)
        worker.heartbeat.turn()
    assert status(stage, "w1") == "DEAD"


def test_the_older_of_two_processes_under_one_name_leaves(stage: Stage) -> None:
    older = stage.player("same")
    newer = stage.player("same")
    older.turn()
    assert older.identity.alive
    with pytest.raises(Superseded, match="under the worker name 'same'"):
        older.heartbeat.turn()
    assert (older.identity.alive, newer.identity.alive) == (False, True), (
        "its claims have ended with the newer one's first beat"
    )
    newer.turn()
    newer.heartbeat.turn()
    assert status(stage, "same") == "ALIVE"


def test_a_newer_process_under_the_same_name_takes_over_at_once(stage: Stage) -> None:
    stage.publish("a")
    older = stage.player("same")
    older.turn(3)
    older.runner.begin()
    older.crash()
    newer = stage.player("same")
    newer.work()
    assert newer.runner.history == [("a", 2)]


def test_a_redis_that_is_down_for_a_moment_changes_nothing(stage: Stage) -> None:
    stage.publish("a")
    worker = stage.player()
    worker.turn(3)
    worker.runner.begin()
    stage.ledger.down = True
    worker.runner.end()
    worker.heartbeat.turn()
    worker.turn(3)
    stage.clock.turn(3_000)
    stage.ledger.down = False
    worker.turn(5)
    worker.heartbeat.turn()
    assert stage.record("a").final
    assert worker.runner.history == [("a", 1)]
    assert worker.kinds().count("unavailable") >= 1
    assert "available" in worker.kinds()
    assert "reborn" not in worker.kinds()


class SlowLedger(MemoryLedger):
    """Its answers to beats take a while."""

    def beat(self, beat: Beat) -> Pulse:
        pulse = super().beat(beat)
        self._clock.turn(4_000)  # type: ignore[attr-defined]
        return pulse


def test_a_lease_counts_from_the_sending_of_its_beat() -> None:
    stage = Stage()
    stage.ledger = SlowLedger(stage.clock)
    sent_s = stage.clock.mono_s()
    worker = stage.player()
    assert worker.identity.lease == Lease(worker.identity.incarnation, sent_s + 10.0)
    assert worker.identity.alive
    stage.clock.turn(6_000)
    assert not worker.identity.alive


def test_the_runner_knows_of_a_lease_before_anything_is_claimed_under_it(stage: Stage) -> None:
    """And of its end before anybody else: what it has been given must not start any more."""
    shown: list[tuple[Lease, Lease]] = []

    class Watched(Player):
        def make_runner(self, sink: Sink, slots: int, solo_slots: int) -> ObedientRunner:
            runner = super().make_runner(sink, slots, solo_slots)
            really = runner.renew

            def renew(lease: Lease) -> None:
                shown.append((lease, self.identity.lease))
                really(lease)

            runner.renew = renew  # type: ignore[method-assign]
            return runner

    worker = Watched(stage, "w1", 1, "unordered", 0)
    first = worker.identity.lease
    stage.lease_over()
    worker.turn()
    worker.heartbeat.turn()
    reborn = worker.identity.lease
    assert reborn.incarnation != first.incarnation
    assert not worker.identity.alive
    worker.heartbeat.turn()
    assert [told for told, _ in shown] == [first, reborn, worker.identity.lease]
    assert [before for _, before in shown] == [Lease(first.incarnation), first, reborn]


def test_a_beat_without_an_answer_lengthens_no_lease(stage: Stage) -> None:
    worker = stage.player()
    before = worker.identity.lease
    stage.clock.turn(5_000)
    worker.turn()
    stage.ledger.down = True
    worker.heartbeat.turn()
    assert "unavailable" in worker.kinds()
    assert worker.identity.lease == before
