"""What every ledger does with its epoch: a ledger that was wiped, or an incarnation that is not alive, runs nothing."""

import pytest
from ledger_bench import Bench

from opening import open_ledger
from yadtq.ledger import Refusal, Run
from yadtq.states import State


def test_without_an_epoch_every_claim_has_to_wait(empty_ledger: Bench) -> None:
    empty_ledger.start("w1")
    wishes = [empty_ledger.wish("a"), empty_ledger.wish("b")]
    assert empty_ledger.exchange("w1", claims=wishes).claims == [Refusal.WAIT] * 2
    assert empty_ledger.ledger.records(["a", "b"]) == [None, None]
    open_ledger(empty_ledger.ledger, "q")
    assert isinstance(empty_ledger.claim("w1", wishes[0]), Run)


def test_opening_again_keeps_the_epoch(bench: Bench) -> None:
    first = bench.run("w1", bench.wish("a"))
    bench.pass_ms(2)
    open_ledger(bench.ledger, "q")
    assert epoch(bench.run("w1", bench.wish("b"))) == epoch(first)


def test_after_a_wipe_the_epoch_is_higher_and_old_fences_write_nothing(bench: Bench) -> None:
    old = bench.run("w1")
    bench.wipe()
    bench.start("w1")
    assert bench.claim("w1") is Refusal.WAIT
    open_ledger(bench.ledger, "q")
    new = bench.run("w1")
    assert epoch(new) > epoch(old)
    assert bench.accept(old) is None
    assert not bench.seal(old)
    assert bench.record().status is State.PROCESSING


@pytest.mark.parametrize("name", ["lost", "stranger", "left", "old"])
def test_an_incarnation_that_is_not_alive_gets_no_claim(bench: Bench, name: str) -> None:
    bench.incarnations["stranger"] = "-"
    bench.start("lost", "left", "old")
    bench.lose("lost")
    bench.ledger.leave("left", bench.incarnations["left"])
    before = bench.incarnations["old"]
    bench.start("old")
    bench.incarnations["old"] = before
    assert bench.exchange(name, claims=[bench.wish("a"), bench.wish("b")]).claims == [Refusal.DEAD] * 2
    assert bench.ledger.records(["a", "b"]) == [None, None]


def epoch(run: Run) -> int:
    return int(run.fence.partition(".")[0])
