"""Each rule that a trace shows to be needed, taken away: the test that replays the trace turns red."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import test_mutants
import test_rule_mutants
import test_traces_of_claims as claims
import test_traces_of_recovery as recovery

import yadtq.engine
import yadtq.writes
from mutants import Mutant, Mutants, turns_red
from yadtq.claim import Work
from yadtq.codec import OutcomeRecord
from yadtq.engine import Engine
from yadtq.layout import QueueTopics
from yadtq.ledger import Answer, Claim, Resend, Run, Stale
from yadtq.ledger.memory import MemoryLedger
from yadtq.ledger.memory_life import Life
from yadtq.ledger.memory_task import Task
from yadtq.settle import Settler
from yadtq.states import State
from yadtq.writes import Writes

TRACES = Mutants()

# What other modules change too, here seen by the trace that showed the rule to be needed.
for apply, breaks, red in (
    (test_mutants.commit_before_done, "a claim commits nothing", claims.test_what_is_only_claimed_is_not_committed),
    (test_mutants.commit_past_a_gap, "no commit passes a gap", claims.test_a_commit_does_not_pass_what_has_not_ended),
    (test_mutants.no_fence, "by fence, or not at all (S2)", claims.test_a_superseded_attempt_is_not_accepted),
    (
        test_mutants.dead_letter_not_awaited,
        "the dead letter is acknowledged before the outcome is sent (S1)",
        claims.test_a_dead_letter_that_kafka_did_not_take_holds_the_commit,
    ),
    (
        test_rule_mutants.copy_not_awaited,
        "a head is closed when Kafka has its copy (S5)",
        claims.test_a_head_is_not_closed_before_its_copy_is_in_kafka,
    ),
    (
        test_mutants.release_omitted,
        "a claim that is not used is given back (C1)",
        claims.test_a_claim_that_did_not_start_is_given_back_when_its_partition_goes,
    ),
    (
        test_rule_mutants.a_token_for_every_question,
        "a claim is asked again under its token (C2)",
        claims.test_a_claim_whose_answer_was_lost_is_not_lost_itself,
    ),
    (
        test_mutants.start_under_any_lease,
        "nothing starts under a lease that may be over (C6)",
        claims.test_nothing_starts_under_a_lease_that_has_ended,
    ),
    (
        test_rule_mutants.delayed_by_task,
        "what waits has the key of its task and its generation (T1)",
        recovery.test_the_tombstone_of_a_firing_does_not_erase_the_retry_after_it,
    ),
    (
        test_rule_mutants.no_barrier,
        "a ledger waits until everybody who is alive has registered (R3)",
        recovery.test_what_was_accepted_before_a_wipe_arrives_in_kafka_before_anybody_claims,
    ),
    (
        test_mutants.fence_reset_after_a_wipe,
        "a new life of the ledger has a higher epoch than any before (R4)",
        recovery.test_a_fence_of_a_wiped_ledger_is_no_fence_of_the_next,
    ),
    (
        test_rule_mutants.everything_is_registered,
        "only what the present incarnation has claimed is registered (R3)",
        recovery.test_what_an_incarnation_claimed_that_has_ended_is_not_registered,
    ),
    (
        test_rule_mutants.no_marker_of_a_second_life,
        "a life begins behind a marker in every partition (R4)",
        recovery.test_what_was_accepted_before_a_wipe_and_written_after_it_does_not_count,
    ),
    (
        test_rule_mutants.answers_not_counted,
        "a ledger that knows of fewer answers than its worker has lost writes (R2)",
        recovery.test_a_ledger_that_lost_its_last_write_is_not_trusted,
    ),
    (
        test_rule_mutants.sealed_when_it_is_accepted,
        "an end is shown when Kafka has it (S1)",
        recovery.test_an_end_is_not_shown_before_kafka_has_it,
    ),
    (
        test_rule_mutants.what_is_absent_may_run,
        "an absent record is no free pass (C8)",
        recovery.test_what_has_ended_and_expired_is_not_given_out_again,
    ),
):
    TRACES.add(breaks, red)(apply)


# -- claim and settle --------------------------------------------------------------------------------------------------


@TRACES.add(
    "what the asker holds itself under another token is elsewhere (C3)",
    claims.test_the_copy_of_what_runs_does_not_run_beside_it,
)
def what_is_mine_is_given_to_me_again(patch: pytest.MonkeyPatch) -> None:
    really = MemoryLedger._claim

    def claim(self: MemoryLedger, topic: str, worker: str, incarnation: str, asked: Claim, now: int) -> Answer:
        task = self._tasks.get(asked.task_id)
        if task and task.record.status is State.PROCESSING and task.record.worker == worker:
            task.token = asked.token
        return really(self, topic, worker, incarnation, asked, now)

    patch.setattr(MemoryLedger, "_claim", claim)


@TRACES.add(
    "a retry that was accepted and perhaps never written is written again (C4)",
    claims.test_a_retry_that_was_accepted_and_not_written_is_not_taken_for_done,
)
def only_an_end_is_written_again(patch: pytest.MonkeyPatch) -> None:
    really = Engine._answered

    def answered(self: Engine, works: Sequence[Work], answers: Sequence[Answer], incarnation: str) -> None:
        really(self, works, [Stale() if isinstance(at, Resend) else at for at in answers], incarnation)

    patch.setattr(Engine, "_answered", answered)


@TRACES.add(
    "all writes of a verdict are repeated, not the outcome alone (S3)",
    claims.test_a_verdict_that_is_repeated_has_its_dead_letter_too,
)
def only_the_outcome_is_written_again(patch: pytest.MonkeyPatch) -> None:
    def again(work: Work, outcome: OutcomeRecord, topics: QueueTopics) -> Writes:
        writes = yadtq.writes.writes_of(work, outcome, topics)
        del writes.messages[:-1]
        return writes

    patch.setattr(yadtq.engine, "writes_of", again)


@TRACES.add("a refused accept closes nothing (S2)", claims.test_a_refused_verdict_closes_nothing)
def what_is_refused_is_closed(patch: pytest.MonkeyPatch) -> None:
    really = Settler.accepted

    def accepted(
        self: Settler, works: Sequence[Work], answers: Sequence[int | None], epoch: int
    ) -> tuple[list[Work], list[tuple[Work, float]]]:
        done, back = really(self, works, answers, epoch)
        refused = [work for work, at_ms in zip(works, answers, strict=True) if at_ms is None]
        for work in refused:
            work.assignment.close(work.record.offset)
        return [*done, *refused], [(work, wait_s) for work, wait_s in back if work not in refused]

    patch.setattr(Settler, "accepted", accepted)


@TRACES.add("stale is told by generation (C4)", claims.test_an_envelope_is_not_stale_because_of_attempts)
def stale_by_attempts(patch: pytest.MonkeyPatch) -> None:
    really = MemoryLedger._claim

    def claim(self: MemoryLedger, topic: str, worker: str, incarnation: str, asked: Claim, now: int) -> Answer:
        task = self._tasks.get(asked.task_id)
        if task and task.record.attempts > asked.generation + 1:
            return Stale()
        return really(self, topic, worker, incarnation, asked, now)

    patch.setattr(MemoryLedger, "_claim", claim)


@TRACES.add("what is used up ends in the claim (C5)", claims.test_what_is_used_up_does_not_start_again)
def nothing_is_used_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("yadtq.ledger.memory.over", lambda *_: "")


@TRACES.add(
    "a claim after the death of a runner is made by the present incarnation (C7)",
    claims.test_what_is_claimed_again_after_the_death_of_its_runner_has_the_present_incarnation,
)
def claimed_again_under_the_old_incarnation(patch: pytest.MonkeyPatch) -> None:
    really = MemoryLedger._claim
    first: dict[str, str] = {}

    def claim(self: MemoryLedger, topic: str, worker: str, incarnation: str, asked: Claim, now: int) -> Answer:
        answer = really(self, topic, worker, incarnation, asked, now)
        if isinstance(answer, Run) and not answer.taken_from:
            self._tasks[asked.task_id].incarnation = first.setdefault(asked.task_id, incarnation)
        return answer

    patch.setattr(MemoryLedger, "_claim", claim)


# -- recovery ----------------------------------------------------------------------------------------------------------


@TRACES.add(
    "the last word in Kafka is not the one that counts (S4)",
    recovery.test_a_retry_that_is_written_late_does_not_override_an_end,
)
def the_last_outcome_counts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Task, "gives_way", lambda *_: True)


@TRACES.add(
    "what is accepted has the time of the barrier to arrive in Kafka (R3)",
    recovery.test_the_barrier_lasts_although_everybody_has_registered,
)
def opened_when_all_have_registered(patch: pytest.MonkeyPatch) -> None:
    really = Life.take

    def take(self: Life, token: str, least_ms: int, now: int) -> object:
        return really(self, token, least_ms if self.since_ms is None else 0, now)

    patch.setattr(Life, "take", take)


@TRACES.add("only a sealed record has a time to live (R1)", recovery.test_what_has_not_ended_does_not_expire)
def every_record_expires(patch: pytest.MonkeyPatch) -> None:
    really = MemoryLedger._take

    def take(self: MemoryLedger, topic: str, task: Task, claim: Claim, lost: str) -> None:
        really(self, topic, task, claim, lost)
        task.expires_at_ms = self._clock.now_ms() + self._ttl_ms

    patch.setattr(MemoryLedger, "_take", take)


@TRACES.add(
    "no QUEUED is written later than a minute after the submit (C8)",
    recovery.test_a_late_write_of_a_submit_brings_nothing_back,
)
def a_submit_writes_however_late(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("yadtq.publisher.LATE_QUEUED_S", float("inf"))


@contextmanager
def bare() -> Iterator[tuple[()]]:
    yield ()


@pytest.mark.parametrize("mutant", TRACES, ids=str)
def test_without_its_rule_the_trace_goes_on(mutant: Mutant) -> None:
    turns_red(mutant, bare)
