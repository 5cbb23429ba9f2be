"""Retries that wait in `Q.delayed`, seen from the ledger: generations, and records that are no free pass."""

from ledger_bench import HOUR_MS, TTL_S, Bench, MemoryBench, RedisBench

from opening import open_ledger
from yadtq.ledger import NewTask, Refusal, Resend, Run, Stale
from yadtq.states import State


def retry(bench: Bench, worker: str = "w1", wait_ms: int = 5_000) -> tuple[Run, int]:
    """A first run that failed and is to run again later; with the time it waits for."""
    run = bench.run(worker)
    at = bench.accept(run, State.SCHEDULED, wait_ms=wait_ms, error_log="boom")
    assert at is not None
    return run, at


def test_a_retry_is_the_next_generation_and_waits_by_the_ledgers_clock(bench: Bench) -> None:
    run, at = retry(bench, wait_ms=HOUR_MS)
    record = bench.record()
    assert (record.status, record.shown, record.generation, record.failures) == (State.SCHEDULED, State.SCHEDULED, 1, 1)
    assert record.not_before_ms == at
    assert record.started_at_ms is not None
    assert 0 <= at - record.started_at_ms - HOUR_MS < 60_000
    assert bench.accept(run, State.SCHEDULED, wait_ms=HOUR_MS) == at, "asked again, the answer is the same"
    assert bench.record().generation == 1, "and counted once"


def test_before_the_seal_of_a_retry_its_old_record_is_to_send_it_again(bench: Bench) -> None:
    run, at = retry(bench)
    answer = bench.claim("w2")
    assert isinstance(answer, Resend)
    assert (answer.record.generation, answer.record.not_before_ms, answer.record.fence) == (1, at, run.fence)
    assert bench.seal(run)
    assert bench.claim("w2") == Stale()
    assert bench.seal(run), "sealed again, it is sealed"


def test_the_next_generation_runs_and_the_old_one_is_stale_whatever_its_attempt(bench: Bench) -> None:
    run, _ = retry(bench)
    bench.seal(run)
    again = bench.run("w2", bench.wish(generation=1))
    assert (again.attempt, again.failures) == (2, 1)
    assert bench.claim("w1") == Stale()
    assert not bench.seal(run), "the retry has its own attempt now"
    bench.accept(again)
    assert bench.over("w1").status is State.SUCCESS
    assert bench.over("w1", bench.wish(generation=1)).status is State.SUCCESS


def test_a_retry_that_runs_before_its_seal_needs_none(bench: Bench) -> None:
    retry(bench)
    bench.run("w2", bench.wish(generation=1))
    assert bench.claim("w1") == Stale(), "the retry is known to be in Kafka: it came from there"


def test_a_taken_over_attempt_of_the_same_generation_is_not_stale(bench: Bench) -> None:
    bench.run("w1")
    bench.lose("w1")
    run = bench.run("w2")
    bench.release(run)
    bench.start("w1")
    assert bench.run("w1").attempt == 2, "attempts are no generations (C4)"


def test_a_task_that_waits_for_a_time_is_scheduled_and_not_final(bench: Bench) -> None:
    bench.ledger.queued([NewTask("t", "add", "q", 0, 1, 2, not_before_ms=99), NewTask("u", "add", "q", 0, 1, 2)])
    assert (bench.record().shown, bench.record().not_before_ms) == (State.SCHEDULED, 99)
    assert bench.record("u").shown is State.QUEUED
    assert bench.run("w1").attempt == 1


def test_an_old_task_without_a_record_is_asked_for_only_after_the_outcomes_were_read(empty_ledger: Bench) -> None:
    bench = empty_ledger
    open_ledger(bench.ledger, "q")
    bench.start("w1")
    forget_reading(bench)
    assert bench.claim("w1") is Refusal.UNREAD, "queued in 1970"
    young = bench.wish(queued_at_ms=now_ms(bench))
    assert isinstance(bench.claim("w1", young), Run)
    assert bench.claim("w1", bench.wish("v", queued_at_ms=now_ms(bench), in_doubt=True)) is Refusal.UNREAD
    bench.ledger.queued([NewTask("w", "add", "q", 0, 1, 2)])
    assert isinstance(bench.claim("w1", bench.wish("w", in_doubt=True)), Run), "it has a record"
    open_ledger(bench.ledger, "q")
    assert isinstance(bench.claim("w1", bench.wish("v", in_doubt=True)), Run)


def test_reading_counts_for_half_the_life_of_a_record(bench: Bench) -> None:
    if isinstance(bench, RedisBench):
        assert TTL_S * 500 - 60_000 < bench.client.pttl(bench.layout.read("q")) <= TTL_S * 500
        return
    bench.start("w1")
    bench.pass_ms(TTL_S * 500 - 1)
    assert isinstance(bench.claim("w1", bench.wish("a")), Run)
    bench.pass_ms(1)
    assert bench.claim("w1", bench.wish("b")) is Refusal.UNREAD


def test_an_epoch_of_one_queue_opens_no_other(bench: Bench) -> None:
    answers = bench.ledger.exchange("other", "w1", bench.incarnations["w1"], bench.batch(claims=[bench.wish()]))
    assert answers.waiting
    assert list(answers.claims) == [Refusal.WAIT]


def forget_reading(bench: Bench) -> None:
    if isinstance(bench, RedisBench):
        bench.client.delete(bench.layout.read("q"))
    elif isinstance(bench, MemoryBench):
        bench.ledger.forget_reading("q")


def now_ms(bench: Bench) -> int:
    return bench.now_ms() if isinstance(bench, RedisBench) else bench.clock.now_ms()  # type: ignore[attr-defined]
