"""What every ledger does while it waits, is read in, and opens again (R2, R3, R4, C8)."""

from typing import Any

import msgspec
import pytest
from ledger_bench import TTL_S, Bench, MemoryBench, RedisBench

from yadtq.codec import OutcomeRecord
from yadtq.layout import LOCK_MS
from yadtq.ledger import Errand, Held, Over, Refusal, Resend, Run, Stale
from yadtq.states import State


def held(task_id: str = "t", **changes: Any) -> Held:
    facts: dict[str, Any] = {
        "fence": "5.3",
        "task_type": "add",
        "partition": 1,
        "offset": 7,
        "queued_at_ms": 5,
        "attempt": 2,
        "failures": 1,
        "deaths": 1,
        "generation": 0,
        "started_at_ms": 9,
    }
    return Held(task_id, **(facts | changes))


FRESH_MS = 2**50  # an end that has its whole life before it


def outcome(task_id: str = "t", state: State = State.SUCCESS, **changes: Any) -> OutcomeRecord:
    facts: dict[str, Any] = {
        "fence": "5.3",
        "task_type": "add",
        "attempts": 2,
        "result": msgspec.Raw(b'{"a":1}' if state is State.SUCCESS else b"null"),
        "error_log": None if state is State.SUCCESS else "boom",
        "worker": "w0",
        "queued_at_ms": 5,
        "started_at_ms": 6,
        "finished_at_ms": None if state is State.SCHEDULED else FRESH_MS,
        "topic": "q",
        "partition": 1,
        "offset": 7,
        "generation": int(state is State.SCHEDULED),
        "not_before_ms": 99 if state is State.SCHEDULED else 0,
        "failures": 1,
        "deaths": 1,
    }
    return OutcomeRecord(task_id=task_id, state=state, **(facts | changes))


@pytest.fixture
def waiting(empty_ledger: Bench) -> Bench:
    """A ledger without an epoch, with two living workers; `a` has the errand to rebuild it."""
    empty_ledger.start("w1", "w2")
    assert empty_ledger.ledger.take("q", "a", 0) is Errand.REBUILD
    return empty_ledger


def opened(bench: Bench, batches: int = 0, floor: int = 0) -> int:
    """Let `a` open it; return the epoch."""
    epoch = bench.ledger.allot("q", "a", floor)
    assert epoch is not None
    assert bench.ledger.open("q", "a", epoch, batches)
    return epoch


def register(bench: Bench, worker: str, *attempts: Held) -> int | None:
    return bench.ledger.register("q", worker, bench.incarnations[worker], attempts)


# -- register ----------------------------------------------------------------------------------------------------------


def test_what_is_registered_is_held_by_its_worker_and_accepted_by_its_old_fence(waiting: Bench) -> None:
    age_ms = register(waiting, "w1", held())
    assert age_ms is not None
    record = waiting.record()
    assert (record.status, record.fence, record.worker, record.attempts) == (State.PROCESSING, "5.3", "w1", 2)
    assert (record.failures, record.deaths, record.queued_at_ms, record.started_at_ms) == (1, 1, 5, 9)
    assert waiting.ttl_s() is None
    epoch = opened(waiting)
    assert waiting.claim("w2").worker == "w1"  # type: ignore[union-attr]
    run = Run("5.3", 2, 1, 9)
    assert waiting.accept(run, result=b"3") is not None
    assert waiting.record().fence == f"{epoch}.3", "an old fence would stand behind the marker"
    assert waiting.accept(run, result=b"3") is not None, "the answer may be lost"
    assert not waiting.seal(run)
    assert waiting.seal(Run(f"{epoch}.3", 2, 1, 9))
    assert waiting.accept(run) is None, "Kafka has it: the claim says so"


def test_a_fence_that_was_renewed_does_not_let_the_old_one_in_again(waiting: Bench) -> None:
    register(waiting, "w1", held())
    opened(waiting)
    run = Run("5.3", 2, 1, 9)
    assert waiting.accept(run, State.SCHEDULED) is not None
    later = waiting.run("w2", waiting.wish(generation=1))
    assert waiting.accept(run, State.SUCCESS) is None
    assert waiting.record().fence == later.fence
    assert waiting.accept(later, State.SCHEDULED) is not None
    assert waiting.accept(run, State.SCHEDULED) is None, "it was told of the later one's verdict"


def test_of_two_that_register_one_task_the_later_claim_stays(waiting: Bench) -> None:
    for first, second in (("9.2", "10.1"), ("10.1", "9.2"), ("10.1", "10.1")):
        task_id = f"{first}-{second}"
        register(waiting, "w1", held(task_id, fence=first))
        register(waiting, "w2", held(task_id, fence=second))
        record = waiting.record(task_id)
        assert (record.fence, record.worker) == ("10.1", "w2" if first == "9.2" else "w1")


def test_an_end_that_was_read_in_is_not_registered_over(waiting: Bench) -> None:
    waiting.ledger.restore("q", "a", [outcome(fence="5.1")])
    register(waiting, "w1", held())
    assert waiting.record().final


def test_nothing_is_registered_in_an_open_ledger(waiting: Bench) -> None:
    opened(waiting)
    assert register(waiting, "w1", held()) is None
    assert waiting.ledger.records(["t"]) == [None]


def test_the_barrier_grows_old_from_the_first_who_asks(empty_ledger: Bench) -> None:
    empty_ledger.start("w1")
    first = register(empty_ledger, "w1")
    assert first is not None
    empty_ledger.pass_ms(20)
    second = register(empty_ledger, "w1")
    assert second is not None
    assert second >= first + 20
    assert empty_ledger.ledger.take("q", "a", 60_000) is Errand.EARLY
    assert empty_ledger.ledger.take("q", "a", 20) is Errand.REBUILD


# -- the errand --------------------------------------------------------------------------------------------------------


def test_one_has_the_errand_until_it_drops_it(waiting: Bench) -> None:
    ledger = waiting.ledger
    assert ledger.take("q", "b", 0) is Errand.TAKEN
    assert ledger.take("q", "a", 0) is Errand.REBUILD
    assert ledger.allot("q", "b", 0) is None
    assert ledger.restore("q", "b", [outcome()]) is None
    assert not ledger.open("q", "b", 1, 0)
    ledger.drop("q", "b")
    assert ledger.take("q", "b", 0) is Errand.TAKEN
    ledger.drop("q", "a")
    assert ledger.take("q", "b", 0) is Errand.REBUILD
    assert ledger.records(["t"]) == [None]


def test_an_errand_that_nobody_works_on_is_given_to_another(waiting: Bench) -> None:
    expire_lock(waiting)
    ledger = waiting.ledger
    assert ledger.restore("q", "a", [outcome()]) is None
    assert ledger.take("q", "b", 0) is Errand.REBUILD
    assert ledger.allot("q", "a", 0) is None


def test_epochs_only_grow(waiting: Bench) -> None:
    ledger = waiting.ledger
    first, second = ledger.allot("q", "a", 0), ledger.allot("q", "a", 2**50)
    third = ledger.allot("q", "a", 0)
    assert first is not None
    assert third is not None
    assert (second, third) == (2**50 + 1, 2**50 + 2)
    assert not ledger.open("q", "a", first, 0), "it was allotted another one since"
    assert ledger.open("q", "a", third, 0)
    assert waiting.run("w1").fence == f"{third}.1"
    assert ledger.take("q", "a", 0) is Errand.NOTHING
    assert ledger.allot("q", "a", 0) is None


def test_a_ledger_that_does_not_know_of_every_batch_does_not_open(waiting: Bench) -> None:
    epoch = waiting.ledger.allot("q", "a", 0)
    assert epoch is not None
    assert waiting.ledger.restore("q", "a", []) == 0
    assert not waiting.ledger.open("q", "a", epoch, 2)
    assert waiting.ledger.open("q", "a", epoch, 1)


def test_a_reading_in_an_open_ledger_keeps_the_epoch_and_marks_it_read(waiting: Bench) -> None:
    epoch = opened(waiting)
    forget_reading(waiting)
    assert waiting.claim("w1", waiting.wish("t", in_doubt=True)) is Refusal.UNREAD
    assert waiting.ledger.take("q", "a", 60_000) is Errand.READ
    present = waiting.run("w1", waiting.wish("present", queued_at_ms=2**50))
    found = [outcome(), outcome("present"), outcome("waits", State.SCHEDULED)]
    assert waiting.ledger.restore("q", "a", found, absent_only=True) == 1
    assert waiting.ledger.open("q", "a", 0, 1)
    assert waiting.over("w1").sealed
    assert waiting.record("present").fence == present.fence
    assert waiting.run("w1", waiting.wish("waits", in_doubt=True)).fence == f"{epoch}.1"


def test_a_reading_does_not_open_a_ledger_that_was_wiped_meanwhile(waiting: Bench) -> None:
    waiting.wipe()
    assert waiting.ledger.take("q", "a", 0) is Errand.REBUILD
    assert not waiting.ledger.open("q", "a", 0, 0)


# -- restore -----------------------------------------------------------------------------------------------------------


def test_an_end_is_restored_as_it_was_sealed_and_expires(waiting: Bench) -> None:
    found = [outcome("ok"), outcome("bad", State.FAILED)]
    assert waiting.ledger.restore("q", "a", found) == 2
    ok, bad = waiting.record("ok"), waiting.record("bad")
    assert (ok.status, ok.sealed, ok.result, ok.attempts, ok.fence) == (State.SUCCESS, True, b'{"a":1}', 2, "5.3")
    assert (bad.status, bad.sealed, bad.error_log, bad.result) == (State.FAILED, True, "boom", None)
    assert (ok.worker, ok.queued_at_ms, ok.started_at_ms, ok.finished_at_ms) == ("w0", 5, 6, FRESH_MS)
    assert (ok.topic, ok.partition, ok.offset, ok.failures, ok.deaths) == ("q", 1, 7, 1, 1)
    assert TTL_S - 60 < (waiting.ttl_s("ok") or 0) <= TTL_S
    opened(waiting, 1)
    answer = waiting.claim("w1", waiting.wish("ok"))
    assert isinstance(answer, Over)
    assert answer.record == ok


def test_a_retry_is_restored_as_one_that_kafka_has(waiting: Bench) -> None:
    waiting.ledger.restore("q", "a", [outcome(state=State.SCHEDULED)])
    record = waiting.record()
    assert (record.status, record.generation, record.not_before_ms) == (State.SCHEDULED, 1, 99)
    assert waiting.ttl_s() is None
    opened(waiting, 1)
    assert isinstance(waiting.claim("w1"), Stale)
    assert waiting.seal(Run("5.3", 2, 1, 9)), "it was read in, so Kafka has it before the marker"
    run = waiting.run("w1", waiting.wish(generation=1))
    assert (run.attempt, run.failures, run.deaths) == (3, 1, 1)


def test_the_first_end_of_the_newest_life_stays(waiting: Bench) -> None:
    first, second = outcome(fence="5.1"), outcome(state=State.FAILED, fence="5.2")
    assert waiting.ledger.restore("q", "a", [first, second]) == 1
    assert waiting.record().status is State.SUCCESS
    assert waiting.ledger.restore("q", "a", [outcome(state=State.FAILED, fence="10.1"), first]) == 1
    assert (waiting.record().status, waiting.record().fence) == (State.FAILED, "10.1")


def test_a_retry_goes_over_what_is_older_and_never_over_an_end(waiting: Bench) -> None:
    retry = outcome(state=State.SCHEDULED, fence="5.3")
    for present, stays in (("5.2", False), ("5.3", False), ("5.4", True), ("10.1", True)):
        register(waiting, "w1", held(present, fence=present))
        restored = waiting.ledger.restore("q", "a", [msgspec.structs.replace(retry, task_id=present)])
        assert (restored == 0) is stays
        assert (waiting.record(present).status is State.PROCESSING) is stays
    assert waiting.ledger.restore("q", "a", [outcome(), retry]) == 1
    assert waiting.record().final


def test_an_end_goes_over_what_runs_and_over_a_verdict_without_a_seal(waiting: Bench) -> None:
    register(waiting, "w1", held(fence="7.1"))
    assert waiting.ledger.restore("q", "a", [outcome()]) == 1
    assert waiting.record().final
    opened(waiting, 1)
    run = waiting.run("w1", waiting.wish("u"))
    waiting.accept(run, task_id="u", result=b"3")
    lose_writes(waiting)
    assert waiting.ledger.take("q", "a", 0) is Errand.REBUILD
    assert waiting.ledger.restore("q", "a", [outcome("u", fence=run.fence, result=msgspec.Raw(b"3"))]) == 1
    assert waiting.record("u").final


def test_an_end_is_restored_for_what_is_left_of_its_life_and_the_reading_counts_as_long(waiting: Bench) -> None:
    """C8: where one of them has gone, an absent record says nothing any more."""
    waiting.ledger.restore(
        "q", "a", [outcome("old", finished_at_ms=waiting.now_ms() - (TTL_S - 100) * 1000), outcome()]
    )
    assert 40 < (waiting.ttl_s("old") or 0) <= 100
    assert (waiting.ttl_s() or 0) > TTL_S - 60
    opened(waiting, 1)
    waiting.run("w1", waiting.wish("new", in_doubt=True))  # all that was read in is there
    assert 40_000 < reading_ms(waiting) <= 100_000


def test_an_end_whose_life_is_over_is_not_restored_and_its_absence_is_no_free_pass(waiting: Bench) -> None:
    ended = outcome(finished_at_ms=8)
    register(waiting, "w1", held(fence="5.3"))
    assert waiting.ledger.restore("q", "a", [ended]) == 0
    assert waiting.ledger.records(["t"]) == [None], "an end goes over what runs"
    opened(waiting, 1)
    assert waiting.claim("w1", waiting.wish(in_doubt=True)) is Refusal.UNREAD
    assert waiting.claim("w1", waiting.wish(queued_at_ms=5)) is Refusal.UNREAD
    assert waiting.ledger.take("q", "a", 0) is Errand.READ
    assert waiting.ledger.restore("q", "a", [ended], absent_only=True) == 1
    assert waiting.ledger.open("q", "a", 0, 1)
    assert waiting.over("w1").sealed
    assert (waiting.ttl_s() or 0) > TTL_S - 60, "asked for, it lives as long as the reading counts"


def test_the_end_of_what_was_retried_is_restored_however_old(waiting: Bench) -> None:
    """A repeated record of the retry may stand behind it (S4)."""
    ended = outcome(finished_at_ms=8, generation=1, fence="5.4")
    assert waiting.ledger.restore("q", "a", [ended, outcome(state=State.SCHEDULED)]) == 1
    assert waiting.record().final


def test_what_is_there_at_a_reading_lives_as_long_as_the_reading_counts(waiting: Bench) -> None:
    old = outcome(finished_at_ms=waiting.now_ms() - (TTL_S - 100) * 1000)
    waiting.ledger.restore("q", "a", [old])
    opened(waiting, 1)
    forget_reading(waiting)
    assert waiting.ledger.take("q", "a", 0) is Errand.READ
    assert waiting.ledger.restore("q", "a", [old], absent_only=True) == 0
    assert waiting.ledger.open("q", "a", 0, 1)
    assert (waiting.ttl_s() or 0) > TTL_S - 60
    assert reading_ms(waiting) > (TTL_S // 2 - 60) * 1000


def test_what_a_rebuild_finds_there_bounds_the_reading_too(waiting: Bench) -> None:
    old = outcome(finished_at_ms=waiting.now_ms() - (TTL_S - 100) * 1000)
    waiting.ledger.restore("q", "a", [old, old])
    waiting.ledger.restore("q", "a", [old])
    opened(waiting, 2)
    assert reading_ms(waiting) <= 100_000


# -- lost writes -------------------------------------------------------------------------------------------------------


def test_a_ledger_that_knows_of_less_than_its_worker_waits(bench: Bench) -> None:
    bench.run("w1", bench.wish("a"))
    bench.exchange("w1")
    epoch = int(bench.record("a").fence.partition(".")[0])
    forget_writes(bench)
    bench.exchange("w2")
    bench.exchange("w2")
    answers = bench.exchange("w1", claims=[bench.wish("b")])
    assert answers.waiting
    assert list(answers.claims) == [Refusal.WAIT]
    assert bench.ledger.records(["b"]) == [None]
    assert bench.exchange("w2").waiting
    assert bench.ledger.take("q", "a", 0) is Errand.REBUILD
    assert opened(bench) > epoch
    assert isinstance(bench.claim("w1", bench.wish("b")), Run)
    assert isinstance(bench.claim("w2", bench.wish("c")), Run)


def test_what_was_accepted_before_the_loss_is_written_under_the_new_epoch(bench: Bench) -> None:
    done, waits = bench.run("w1", bench.wish("done")), bench.run("w1", bench.wish("waits"))
    bench.accept(done, task_id="done", result=b"3")
    bench.accept(waits, State.SCHEDULED, task_id="waits")
    lose_writes(bench)
    assert bench.ledger.take("q", "a", 0) is Errand.REBUILD
    epoch = opened(bench)
    assert not bench.seal(done, "done"), "its outcome may stand behind the marker"
    assert not bench.seal(waits, "waits")
    assert bench.over("w1", bench.wish("done")).fence == f"{epoch}.1"
    again = bench.claim("w1", bench.wish("waits"))
    assert isinstance(again, Resend)
    assert again.record.fence == f"{epoch}.1"
    assert bench.seal(Run(f"{epoch}.1", 1, 0, 1), "done")
    assert bench.seal(Run(f"{epoch}.1", 1, 0, 1), "waits")


def lose_writes(bench: Bench) -> None:
    """Lose writes, and let a worker notice. The records stay as they are."""
    forget_writes(bench)
    assert bench.exchange("w1").waiting


def forget_writes(bench: Bench) -> None:
    """Lose what the ledger knows of its answers."""
    if isinstance(bench, RedisBench):
        bench.client.delete(bench.layout.writes("q"))
    elif isinstance(bench, MemoryBench):
        bench.ledger.forget_writes("q")


def expire_lock(bench: Bench) -> None:
    if isinstance(bench, RedisBench):
        assert 0 < bench.client.pttl(bench.layout.lock("q")) <= LOCK_MS
        bench.client.delete(bench.layout.lock("q"))
    else:
        bench.pass_ms(LOCK_MS)


def reading_ms(bench: Bench) -> int:
    """How long the reading counts from now on."""
    if isinstance(bench, RedisBench):
        return int(bench.client.pttl(bench.layout.read("q")))
    assert isinstance(bench, MemoryBench)
    return bench.ledger._life("q").read_until_ms - bench.now_ms()


def forget_reading(bench: Bench) -> None:
    if isinstance(bench, RedisBench):
        bench.client.delete(bench.layout.read("q"))
    elif isinstance(bench, MemoryBench):
        bench.ledger.forget_reading("q")
