"""When an engine stands still: judged by looks, and never while it waits for the ledger."""

import pytest
from stage import Stage

from waiting import ManualClock
from yadtq.app import App
from yadtq.ledger import Answers
from yadtq.ledger.made import Made
from yadtq.ledger.protocol import Meanwhile
from yadtq.service import Service
from yadtq.settings import WorkerSettings
from yadtq.worker import LEAST_S, LEAVE_S, Stillness, Worker


def test_looks_without_a_turn_are_counted_and_a_turn_begins_anew() -> None:
    engine = Stage().player().engine
    stillness = Stillness(engine)
    for looks in (1, 2, 3):
        stillness.look()
        assert stillness.looks == looks
    engine.step(0.0)
    stillness.look()
    assert stillness.looks == 0


def test_time_alone_makes_nothing_stand_still() -> None:
    stage = Stage()
    stillness = Stillness(stage.player().engine)
    stage.clock.turn(3_600_000)  # SIGSTOP, or a machine that slept: nobody looked meanwhile
    stillness.look()
    assert stillness.looks == 1


def test_an_engine_that_waits_for_the_ledger_does_not_stand_still(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    stage.publish("a")
    player = stage.player()
    stillness = Stillness(player.engine)
    looks: list[int] = []
    answers = Made.answers

    def slow(made: Made, meanwhile: Meanwhile | None = None) -> Answers:
        for _ in range(50):
            stillness.look()
        looks.append(stillness.looks)
        return answers(made, meanwhile)

    monkeypatch.setattr(Made, "answers", slow)
    player.turn(3)
    assert looks
    assert set(looks) == {0}
    stillness.look()
    stillness.look()
    assert stillness.looks >= 1, "it is looked at again when the ledger has answered"


def test_an_engine_that_stands_still_while_the_ledger_works_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage()
    stage.publish("a")
    player = stage.player()
    engine = player.engine
    handle, answers = engine._handle, Made.answers
    asking: list[bool] = []
    meanwhile: list[bool] = []

    def handles(event: object) -> None:
        if asking:
            meanwhile.append(engine.at_ledger)
        handle(event)  # type: ignore[arg-type]

    def waits(made: Made, meanwhile: Meanwhile | None = None) -> Answers:
        asking.append(True)
        engine.inbox.put([])  # something comes
        try:
            return answers(made, meanwhile)
        finally:
            asking.clear()

    engine._handle = handles  # type: ignore[method-assign]
    monkeypatch.setattr(Made, "answers", waits)
    player.work()
    assert meanwhile
    assert not any(meanwhile)


class Endless(Service):
    """A loop that does not end, and takes all the time that it is given."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__("yadtq-endless")
        self._clock = clock
        self.given_s = -1.0

    def join(self, timeout_s: float | None = None) -> bool:
        assert timeout_s is not None
        self.given_s = timeout_s
        self._clock.turn(round(timeout_s * 1000))
        return False


def test_loops_that_do_not_end_hold_up_the_end_once_and_not_each_of_them() -> None:
    stage, clock = Stage(), ManualClock()
    app = App("q", broker=stage.broker, ledger=stage.ledger)
    worker = Worker(app, WorkerSettings("w1"), clock=clock)
    loops = [Endless(clock) for _ in range(5)]
    began_s = clock.mono_s()
    worker._stop(loops)
    assert all(loop.stopping.is_set() for loop in loops)
    assert [loop.given_s for loop in loops] == [LEAVE_S, *[LEAST_S] * 4]
    assert clock.mono_s() - began_s == LEAVE_S + 4 * LEAST_S
