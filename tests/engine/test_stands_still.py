"""When an engine stands still: judged by looks, and never while it waits for the ledger."""

from stage import Stage

from yadtq.worker import Stillness


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


def test_an_engine_that_waits_for_the_ledger_does_not_stand_still() -> None:
    stage = Stage()
    stage.publish("a")
    player = stage.player()
    stillness = Stillness(player.engine)
    looks: list[int] = []
    exchange = stage.ledger.exchange

    def slow(*args: object) -> object:
        for _ in range(50):
            stillness.look()
        looks.append(stillness.looks)
        return exchange(*args)  # type: ignore[arg-type]

    stage.ledger.exchange = slow  # type: ignore[method-assign,assignment]
    player.turn(3)
    assert looks
    assert set(looks) == {0}
    stillness.look()
    stillness.look()
    assert stillness.looks >= 1, "it is looked at again when the ledger has answered"
