"""What every ledger does with claims and outcomes (protocol rules C1-C3, C5, S1, S2, R1, R2)."""

import pytest
from ledger_bench import TTL_S, Bench

from yadtq.errors import LedgerUnavailable
from yadtq.ledger import Batch, Elsewhere, NewTask, Over, Release, Run, Seal
from yadtq.ledger.protocol import MAX_TAKEOVERS
from yadtq.states import State


def queue(bench: Bench, task_id: str = "t", tries: int = 0) -> None:
    bench.ledger.queued([NewTask(task_id, "add", "q", 1, 7, 5, tries)])


def test_a_queued_task_has_a_record(bench: Bench) -> None:
    queue(bench, tries=1)
    record = bench.record()
    assert (record.status, record.shown, record.final, record.attempts) == (State.QUEUED, State.QUEUED, False, 1)
    assert (record.task_id, record.task_type, record.topic, record.partition, record.offset) == ("t", "add", "q", 1, 7)
    assert (record.queued_at_ms, record.started_at_ms, record.finished_at_ms) == (5, None, None)
    assert (record.worker, record.result, record.error_log, record.fence) == (None, None, None, "")


def test_a_task_nobody_knows_has_no_record(bench: Bench) -> None:
    queue(bench)
    assert [record is None for record in bench.ledger.records(["unknown", "t", "?"])] == [True, False, True]
    assert bench.ledger.records([]) == []


@pytest.mark.parametrize("state", [State.PROCESSING, State.QUEUED, State.SUCCESS, State.FAILED])
def test_queued_never_moves_a_state_backwards(bench: Bench, state: State) -> None:
    run = bench.run("w1")
    if state is not State.PROCESSING:
        bench.accept(run, state)
    before = bench.record()
    queue(bench)
    assert bench.record() == before
    assert before.status is state


def test_a_claim_raises_attempt_and_fence_before_anything_runs(bench: Bench) -> None:
    queue(bench)
    run = bench.run("w1")
    record = bench.record()
    assert (run.attempt, run.failures, run.taken_from) == (1, 0, "")
    assert (record.status, record.attempts, record.fence, record.worker) == (
        State.PROCESSING,
        1,
        run.fence,
        "w1",
    )
    assert record.started_at_ms == run.started_at_ms


def test_a_claim_of_a_task_that_was_never_queued_makes_its_record(bench: Bench) -> None:
    bench.run("w1", bench.wish(offset=9, queued_at_ms=11, task_type="mul"))
    record = bench.record()
    assert (record.task_id, record.task_type, record.topic, record.partition, record.offset, record.queued_at_ms) == (
        "t",
        "mul",
        "q",
        1,
        9,
        11,
    )


def test_the_asker_goes_on_while_its_answers_are_on_their_way(bench: Bench) -> None:
    bench.start("w1")
    turns: list[int] = []

    def meanwhile() -> bool:
        turns.append(len(turns))
        return len(turns) < 3

    batch = Batch(claims=[bench.wish()])
    (answer,) = bench.ledger.ask("q", "w1", bench.incarnations["w1"], batch).answers(meanwhile).claims
    assert isinstance(answer, Run)
    assert turns
    assert bench.record().status is State.PROCESSING


def test_questions_of_several_workers_that_are_under_way_together_get_their_own_answers(bench: Bench) -> None:
    bench.start("w1", "w2", "w3")
    questions = {
        name: bench.ledger.ask("q", name, bench.incarnations[name], Batch(claims=[bench.wish(f"t-{name}")]))
        for name in ("w1", "w2", "w3")
    }
    assert bench.ledger.records(["t-none"]) == [None]  # and who asks something else is not held up
    for name in ("w3", "w1", "w2"):
        (answer,) = questions[name].answers().claims
        assert isinstance(answer, Run)
        assert bench.record(f"t-{name}").worker == name
    assert bench.exchange("w1", claims=[bench.wish("t-w2")]).claims == [Elsewhere("w2")]


@pytest.mark.parametrize("error", [OSError("ours"), ValueError("ours")])
def test_what_goes_wrong_meanwhile_is_no_fault_of_the_ledger(bench: Bench, error: Exception) -> None:
    bench.start("w1")

    def meanwhile() -> bool:
        raise error

    wish = bench.wish()
    with pytest.raises(type(error), match="ours"):
        bench.ledger.ask("q", "w1", bench.incarnations["w1"], Batch(claims=[wish])).answers(meanwhile)
    # The same token gets the same answer, and no reply is left over for whoever asks next.
    assert isinstance(bench.claim("w1", wish), Run)
    assert bench.record().attempts == 1


def test_many_claims_are_answered_in_their_order(bench: Bench) -> None:
    wishes = [bench.wish(f"t{at}") for at in range(50)]
    held = bench.run("w2", bench.wish("t3"))
    answers = bench.exchange("w1", claims=wishes).claims
    assert [isinstance(answer, Run) for answer in answers] == [at != 3 for at in range(50)]
    assert bench.record("t3").fence == held.fence


def test_the_same_token_gets_the_same_answer(bench: Bench) -> None:
    wish = bench.wish()
    assert bench.run("w1", wish) == bench.run("w1", wish)
    assert bench.record().attempts == 1


def test_the_same_token_gets_the_same_answer_after_the_answer_was_lost(bench: Bench) -> None:
    wish = bench.wish()
    bench.lose_next_reply()
    with pytest.raises(LedgerUnavailable):
        bench.claim("w1", wish)
    assert bench.record().attempts == 1
    assert bench.run("w1", wish).fence == bench.record().fence
    assert bench.record().attempts == 1


def test_another_token_of_the_same_owner_is_elsewhere(bench: Bench) -> None:
    bench.run("w1")
    assert bench.claim("w1") == Elsewhere("w1")
    assert bench.record().attempts == 1


def test_what_a_living_worker_holds_is_elsewhere(bench: Bench) -> None:
    run = bench.run("w1")
    assert bench.claim("w2") == Elsewhere("w1")
    assert bench.record().fence == run.fence


def test_the_token_of_another_worker_is_no_way_in(bench: Bench) -> None:
    wish = bench.wish()
    bench.run("w1", wish)
    assert bench.claim("w2", wish) == Elsewhere("w1")


def test_a_token_counts_only_with_its_worker_and_its_incarnation(bench: Bench) -> None:
    assert bench.beat("twin", bench.incarnations["w1"], first=True)  # two workers may call their incarnations the same
    wish = bench.wish()
    old = bench.run("w1", wish)
    assert bench.claim("twin", wish) == Elsewhere("w1")
    bench.start("w1")
    new = bench.run("w1", wish)
    assert (new.taken_from, new.attempt) == ("w1", 2)
    assert counter(new) > counter(old)


def test_a_lost_workers_task_is_taken_over_under_a_higher_fence(bench: Bench) -> None:
    old = bench.run("w1")
    bench.lose("w1")
    new = bench.run("w2")
    assert (new.taken_from, new.attempt, new.failures) == ("w1", 2, 0)
    assert counter(new) > counter(old)
    assert bench.record().worker == "w2"


def test_what_the_old_attempt_says_after_a_takeover_is_refused_and_changes_nothing(bench: Bench) -> None:
    old = bench.run("w1")
    bench.lose("w1")
    new = bench.run("w2")
    before = bench.record()
    assert bench.accept(old, result=b'"zombie"') is None
    assert not bench.seal(old)
    bench.release(old)
    assert bench.record() == before
    assert bench.accept(new, result=b"3")
    assert bench.accept(old, State.FAILED, error_log="zombie") is None
    assert bench.record().result == b"3"


def test_an_outcome_is_accepted_once_and_answered_the_same_again(bench: Bench) -> None:
    run = bench.run("w1")
    at_ms = bench.accept(run, result=b"3")
    bench.pass_ms(2)
    assert bench.accept(run, result=b"4") == at_ms
    record = bench.record()
    assert (record.result, record.finished_at_ms, record.attempts) == (b"3", at_ms, 1)


def test_a_lost_answer_to_an_accept_is_answered_again(bench: Bench) -> None:
    run = bench.run("w1")
    bench.lose_next_reply()
    with pytest.raises(LedgerUnavailable):
        bench.accept(run, State.QUEUED, error_log="boom")
    assert bench.accept(run, State.QUEUED, error_log="boom")
    assert bench.run("w1").failures == 1


def test_a_retry_keeps_the_attempts_and_counts_the_failure(bench: Bench) -> None:
    first = bench.run("w1")
    assert bench.accept(first, State.QUEUED, error_log="boom")
    record = bench.record()
    assert (record.status, record.attempts, record.error_log, record.finished_at_ms) == (
        State.QUEUED,
        1,
        "boom",
        None,
    )
    second = bench.run("w1")
    assert (second.attempt, second.failures, second.taken_from) == (2, 1, "")
    assert bench.accept(second, State.QUEUED, error_log="boom again")
    assert bench.run("w2").failures == 2


def test_an_attempt_that_was_accepted_cannot_be_given_back(bench: Bench) -> None:
    run = bench.run("w1")
    bench.accept(run, result=b"3")
    bench.release(run)
    assert (bench.record().status, bench.record().attempts) == (State.SUCCESS, 1)


def test_a_takeover_uses_up_no_retry(bench: Bench) -> None:
    bench.run("w1", bench.wish(max_attempts=1))
    bench.lose("w1")
    assert bench.run("w2", bench.wish(max_attempts=1)).failures == 0


def test_used_up_attempts_are_answered_as_a_failure_that_is_not_sealed(bench: Bench) -> None:
    bench.accept(bench.run("w1"), State.QUEUED, error_log="boom")
    record = bench.over("w2", bench.wish(max_attempts=1))
    assert (record.status, record.sealed, record.attempts, record.error_log) == (State.FAILED, False, 1, "boom")
    assert record == bench.record()


def test_the_verdict_on_used_up_attempts_can_be_sealed_by_its_fence(bench: Bench) -> None:
    record = bench.over("w1", bench.wish(tries=3))
    assert record.error_log == "no attempt is left: 3 of 3 were made before"
    assert bench.ledger.exchange("q", "w1", "-", Batch(seals=[Seal("t", record.fence)])).seals == [True]
    assert bench.over("w2").final


def test_a_task_whose_workers_are_lost_again_and_again_ends(bench: Bench) -> None:
    bench.run("w1")
    for _ in range(MAX_TAKEOVERS):
        bench.lose("w1")
        bench.start("w1")
        assert bench.run("w1").taken_from == "w1"
    bench.lose("w1")
    record = bench.over("w2")
    assert (record.status, record.sealed) == (State.FAILED, False)
    assert f"lost {MAX_TAKEOVERS + 1} times" in (record.error_log or "")
    assert "w1" in (record.error_log or "")


def test_attempts_made_elsewhere_are_a_floor_that_never_lowers_the_number(bench: Bench) -> None:
    queue(bench, tries=1)
    first = bench.run("w1", bench.wish(tries=1))
    assert (first.attempt, first.failures) == (2, 1)
    bench.accept(first, State.QUEUED, error_log="boom")
    second = bench.run("w1", bench.wish(tries=1))
    assert (second.attempt, second.failures) == (3, 2)


def test_a_refused_task_fails_without_an_attempt(bench: Bench) -> None:
    queue(bench)
    record = bench.over("w1", bench.wish(refusal="unknown task; known are add, sub"))
    assert (record.status, record.sealed, record.attempts) == (State.FAILED, False, 0)
    assert record.error_log == "unknown task; known are add, sub"
    assert record.finished_at_ms is not None
    assert bench.ledger.exchange("q", "w1", "-", Batch(seals=[Seal("t", record.fence)])).seals == [True]


def test_a_refusal_does_not_touch_what_runs_elsewhere(bench: Bench) -> None:
    bench.run("w1")
    assert bench.claim("w2", bench.wish(refusal="unknown task")) == Elsewhere("w1")


def test_before_the_seal_an_outcome_is_shown_as_processing_and_stays_for_ever(bench: Bench) -> None:
    run = bench.run("w1")
    assert bench.ttl_s() is None
    bench.accept(run, result=b"3")
    record = bench.record()
    assert (record.status, record.shown, record.sealed, record.final) == (
        State.SUCCESS,
        State.PROCESSING,
        False,
        False,
    )
    assert bench.ttl_s() is None


@pytest.mark.parametrize("state", [State.SUCCESS, State.FAILED])
def test_a_sealed_outcome_is_final_and_expires(bench: Bench, state: State) -> None:
    run = bench.run("w1")
    bench.accept(run, state)
    assert bench.seal(run)
    assert bench.seal(run)
    record = bench.record()
    assert (record.shown, record.sealed, record.final) == (state, True, True)
    assert TTL_S - 60 < (bench.ttl_s() or 0) <= TTL_S


def test_a_seal_needs_a_final_state_and_the_right_fence(bench: Bench) -> None:
    run = bench.run("w1")
    assert not bench.seal(run)  # it still runs
    bench.accept(run, State.QUEUED)
    assert not bench.seal(run)  # a retry is not the end
    other = bench.run("w1")
    bench.accept(other)
    assert not bench.seal(run)  # the fence of an earlier attempt
    assert not bench.seal(other, "unknown")
    assert not bench.record().sealed
    assert bench.ttl_s() is None


@pytest.mark.parametrize("sealed", [True, False])
def test_a_task_with_a_verdict_is_over_for_whoever_claims_it(bench: Bench, sealed: bool) -> None:
    run = bench.run("w1")
    bench.accept(run, result=b"3")
    if sealed:
        bench.seal(run)
    assert bench.claim("w1") == bench.claim("w2", bench.wish(refusal="unknown")) == Over(bench.record())
    assert bench.record().sealed is sealed


def test_a_released_claim_gives_its_attempt_back_and_keeps_its_fence(bench: Bench) -> None:
    run = bench.run("w1")
    bench.release(run)
    record = bench.record()
    assert (record.status, record.attempts, record.worker, record.fence) == (State.QUEUED, 0, None, run.fence)
    again = bench.run("w2")
    assert (again.attempt, again.taken_from) == (1, "")
    assert counter(again) > counter(run)


def test_a_released_attempt_cannot_write(bench: Bench) -> None:
    run = bench.run("w1")
    bench.release(run)
    bench.release(run)
    assert bench.accept(run, result=b"3") is None
    assert not bench.seal(run)
    assert (bench.record().status, bench.record().attempts, bench.record().result) == (State.QUEUED, 0, None)


def test_a_released_token_claims_anew(bench: Bench) -> None:
    wish = bench.wish()
    run = bench.run("w1", wish)
    bench.release(run)
    assert counter(bench.run("w1", wish)) > counter(run)


def test_one_exchange_settles_releases_and_claims(bench: Bench) -> None:
    done, spare = bench.run("w1", bench.wish("done")), bench.run("w1", bench.wish("spare"))
    bench.accept(done, task_id="done")
    answers = bench.exchange(
        "w1", seals=[Seal("done", done.fence)], releases=[Release("spare", spare.fence)], claims=[bench.wish("new")]
    )
    assert (answers.accepts, answers.seals) == ([], [True])
    assert isinstance(answers.claims[0], Run)
    assert bench.record("done").final
    assert bench.record("spare").status is State.QUEUED


def test_nothing_at_all_is_a_batch_too(bench: Bench) -> None:
    assert not Batch()
    answers = bench.exchange("w1")
    assert (list(answers.accepts), list(answers.seals), list(answers.claims)) == ([], [], [])


def test_a_lost_worker_may_still_say_how_its_attempt_ended(bench: Bench) -> None:
    run = bench.run("w1")
    bench.lose("w1")
    assert bench.accept(run, result=b"3")
    assert bench.seal(run)


HOSTILE = [
    '"quoted" \\ {}',
    "line\nbreak\r\n\tand tab",
    "snow ☃ and 𝔊 and \u2028",
    "yadtq:task:*",
    "%s %d %1 %%",
    "'; --",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_comes_back_as_it_was(bench: Bench, text: str) -> None:
    bench.start(text)
    run = bench.run(text, bench.wish(text, task_type=text))
    assert bench.claim("w1", bench.wish(text)) == Elsewhere(text)
    bench.accept(run, State.QUEUED, text, error_log=text)
    record = bench.record(text)
    assert (record.task_id, record.task_type, record.worker, record.error_log) == (text,) * 4
    record = bench.over("w1", bench.wish(text, refusal=text))
    assert record.error_log == text


def test_a_large_result_comes_back_as_it_was(bench: Bench) -> None:
    large = ("".join(map(chr, range(32, 2_000))) * 40).encode()
    bench.accept(bench.run("w1"), result=large)
    assert bench.record().result == bench.over("w2").result == large


def counter(run: Run) -> int:
    return int(run.fence.partition(".")[2])
