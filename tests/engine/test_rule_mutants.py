"""Rules of claims, of hand-offs, of what waits for a time and of a ledger that is read in: each has a mutant."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import test_claims
import test_heartbeat
import test_later
import test_others_bugs
import test_rebuild
import test_scheduler
import test_scheduler_index
import test_settle_order
import test_wipes
from msgspec import structs
from stage import Stage

from mutants import Mutant, Mutants, turns_red
from yadtq.attempt import Ending, Lease
from yadtq.broker import TopicPartition
from yadtq.claim import Work
from yadtq.heartbeat import Identity
from yadtq.ledger import Accept, Answer, Claim
from yadtq.ledger.memory import MemoryLedger
from yadtq.ledger.memory_life import Life, Seen
from yadtq.rebuild import Rebuilder
from yadtq.register import Registrar
from yadtq.scheduler import Scheduler, Shelf, Step
from yadtq.settle import Settler
from yadtq.states import FINAL, State
from yadtq.writes import Writes

RULES, RECOVERY = Mutants(), Mutants()


# -- claims and settle -------------------------------------------------------------------------------------------------


def with_a_worker(test: Callable[..., None], *values: object) -> Callable[[Stage], None]:
    def on_a_stage(stage: Stage) -> None:
        test(stage, stage.player(order="unordered"), *values)

    on_a_stage.__name__ = test.__name__
    return on_a_stage


def claiming(patch: pytest.MonkeyPatch, change: Callable[[Claim], Claim]) -> None:
    really = Work.claim
    patch.setattr(Work, "claim", lambda self, registry: change(really(self, registry)))


@RULES.add(
    "a claim is asked again under its token (C2)",
    test_claims.test_a_claim_whose_answer_was_lost_is_asked_again_and_runs_once,
)
def a_token_for_every_question(patch: pytest.MonkeyPatch) -> None:
    numbers = itertools.count()
    claiming(patch, lambda claim: structs.replace(claim, token=f"{claim.token}/{next(numbers)}"))


@RULES.add(
    "what the asker holds itself under another token is elsewhere (C3)",
    test_others_bugs.test_parallel_consumer_909_a_record_that_comes_again_is_not_taken_for_the_stale_one_that_still_runs,
)
def a_worker_takes_over_from_itself(patch: pytest.MonkeyPatch) -> None:
    really = MemoryLedger._claim

    def claim(self: MemoryLedger, topic: str, worker: str, incarnation: str, asked: Claim, now: int) -> Answer:
        task = self._tasks.get(asked.task_id)
        if task and task.record.status is State.PROCESSING and task.record.worker == worker:
            task.incarnation = task.incarnation if task.token == asked.token else ""
        return really(self, topic, worker, incarnation, asked, now)

    patch.setattr(MemoryLedger, "_claim", claim)


@RULES.add(
    "what was claimed under a lease does not start when it is over (C6)",
    lambda stage: test_claims.test_what_a_runner_was_given_does_not_start_when_the_lease_is_over(stage, known=False),
)
def a_lease_without_an_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Lease, "allows", lambda self, incarnation, _: incarnation == self.incarnation)


@RULES.add(
    "nor when the worker goes on under a new one (C6)",
    lambda stage: test_claims.test_what_a_runner_was_given_does_not_start_when_the_lease_is_over(stage, known=True),
)
def a_lease_for_every_incarnation(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Lease, "allows", lambda self, _, now_s: now_s < self.until_s)


@RULES.add(
    "a lease counts from the sending of its beat (C6)",
    lambda _: test_heartbeat.test_a_lease_counts_from_the_sending_of_its_beat(),
)
def a_lease_from_the_answer_on(patch: pytest.MonkeyPatch) -> None:
    really = Identity.renewed
    patch.setattr(Identity, "renewed", lambda self, _: really(self, self._clock.mono_s()))


@RULES.add(
    "an envelope of an older generation runs nothing (C4)",
    with_a_worker(test_later.test_an_envelope_of_an_older_generation_is_closed_and_runs_nothing),
)
def every_generation_is_the_present_one(patch: pytest.MonkeyPatch) -> None:
    claiming(patch, lambda claim: structs.replace(claim, generation=99))


@RULES.add(
    "an end is shown when Kafka has it, and not before (S4)",
    test_settle_order.test_the_outcome_is_final_for_users_only_after_kafka_has_it,
)
def sealed_when_it_is_accepted(patch: pytest.MonkeyPatch) -> None:
    really = MemoryLedger._accept

    def accept(self: MemoryLedger, asked: Accept, epoch: int, now: int) -> int | None:
        at_ms = really(self, asked, epoch, now)
        if at_ms is not None and asked.state in FINAL:
            self._tasks[asked.task_id].set(sealed=True)
        return at_ms

    patch.setattr(MemoryLedger, "_accept", accept)


@RULES.add(
    "a head is closed when Kafka has its copy (S5)",
    test_later.test_a_copy_that_kafka_does_not_acknowledge_keeps_the_head_open,
)
def copy_not_awaited(patch: pytest.MonkeyPatch) -> None:
    really = Settler.write

    def write(self: Settler, writes: Iterable[Writes]) -> None:
        writes = list(writes)
        for each in writes:
            if each.outcome is None:
                for message in each.messages:
                    self._producer.produce(message, lambda _: None)
                each.messages.clear()
        really(self, writes)

    patch.setattr(Settler, "write", write)


# -- what waits for a time ---------------------------------------------------------------------------------------------


@RULES.add(
    "the tombstone is written when Kafka has the envelope (T2)",
    with_a_worker(test_scheduler.test_what_kafka_does_not_take_is_fired_again, 1),
)
def tombstone_at_once(patch: pytest.MonkeyPatch) -> None:
    really = Scheduler._send

    def send(self: Scheduler, steps: Sequence[Step]) -> None:
        really(self, steps)
        for step in steps:
            if step.kind == "fire":
                self._producer.produce(self._tombstone(step.where, step.key, step.offset).message, lambda _: None)

    patch.setattr(Scheduler, "_send", send)


@RULES.add(
    "what waits has the key of its task and its generation (T1)",
    with_a_worker(test_scheduler.test_the_tombstone_of_one_firing_does_not_take_the_next_retry_with_it),
)
def delayed_by_task(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("yadtq.delayed.key_of", lambda task_id, _: f"0:{task_id}".encode())


@RULES.add(
    "nothing fires before the tombstones behind it are read",
    with_a_worker(test_scheduler_index.test_nothing_fires_before_the_tombstones_behind_it_are_read),
)
def fired_while_the_index_is_read(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Shelf, "ready", property(lambda self: self.upto is not None))


@contextmanager
def ground() -> Iterator[tuple[Stage]]:
    yield (Stage(),)


@pytest.mark.parametrize("mutant", RULES, ids=str)
def test_a_mutant_of_a_rule_does_not_survive(mutant: Mutant) -> None:
    turns_red(mutant, ground)


# -- a ledger that is read in ------------------------------------------------------------------------------------------


@RECOVERY.add(
    "a ledger waits until everybody who is alive has registered (R3)",
    test_wipes.test_without_a_barrier_what_was_accepted_would_run_again,
)
def no_barrier(patch: pytest.MonkeyPatch) -> None:
    really = Life.take
    patch.setattr(Life, "take", lambda self, token, _, now: really(self, token, 0, now))


@RECOVERY.add(
    "a life begins behind a marker in every partition (R4)",
    test_wipes.test_an_outcome_of_a_worker_that_missed_the_barrier_does_not_count,
)
def no_marker_of_a_second_life(patch: pytest.MonkeyPatch) -> None:
    really = Rebuilder._mark
    opened: list[int] = []

    def mark(self: Rebuilder, epoch: int, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        opened.append(epoch)
        if len(opened) == 1:
            return dict(really(self, epoch, partitions))
        ends = self._broker.end_offsets(self._topics.outcomes)
        return {where: ends[where][1] for where in partitions}

    patch.setattr(Rebuilder, "_mark", mark)


@RECOVERY.add(
    "only what the present incarnation has claimed is registered (R3)",
    test_wipes.test_what_an_earlier_incarnation_claimed_is_not_registered,
)
def everything_is_registered(patch: pytest.MonkeyPatch) -> None:
    really = Registrar.wait

    def wait(self: Registrar, works: Iterable[Work]) -> None:
        works = list(works)
        for work in works:
            work.incarnation = self._identity.incarnation
        really(self, works)

    patch.setattr(Registrar, "wait", wait)


@RECOVERY.add(
    "who may have been DEAD beats before it registers (R3)",
    test_wipes.test_a_worker_whose_lease_may_be_over_beats_before_it_registers,
)
def registered_under_any_lease(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Identity, "alive", True)


@RECOVERY.add(
    "what is written to Kafka bears the present epoch (R4)",
    test_wipes.test_who_only_runs_things_registers_too_and_its_end_counts_in_the_new_life,
)
def outcome_under_the_old_epoch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Work, "renew", lambda *_: None)


def wiped_late(stage: Stage) -> None:
    test_wipes.test_a_wipe_after_any_step_loses_nothing_and_runs_nothing_finished_again(
        stage, 29, Ending.RETURNED, dies=False
    )


@RECOVERY.add("what Kafka knows to be over is over in the new life (R3)", wiped_late)
def outcomes_not_read(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryLedger, "_restore", lambda *_: False)


def rolled_back_late(stage: Stage) -> None:
    test_rebuild.test_a_ledger_that_lost_writes_is_noticed_and_read_in(stage, kept_at=0, lost_at=20)


@RECOVERY.add("a ledger that knows of fewer answers than its worker has lost writes (R2)", rolled_back_late)
def answers_not_counted(patch: pytest.MonkeyPatch) -> None:
    really = Life.call

    def call(self: Life, worker: str, _: Seen) -> Seen | None:
        return really(self, worker, (0, 0))

    patch.setattr(Life, "call", call)


@RECOVERY.add(
    "an absent record is no free pass (C8, R5)",
    test_rebuild.test_what_the_group_and_the_ledger_forgot_is_read_in_before_it_could_run,
)
def what_is_absent_may_run(patch: pytest.MonkeyPatch) -> None:
    really = Life.call

    def call(self: Life, worker: str, seen: Seen) -> Seen | None:
        self.read_until_ms = 1 << 60
        return really(self, worker, seen)

    patch.setattr(Life, "call", call)


@contextmanager
def opened_before() -> Iterator[tuple[Stage]]:
    """A queue that has been open, as the tests of the rebuild have it."""
    stage = Stage(opened=False)
    opener = stage.player("opener")
    assert opener.rebuilder.turn()
    opener.crash()
    yield (stage,)


@pytest.mark.parametrize("mutant", RECOVERY, ids=str)
def test_a_mutant_of_the_recovery_does_not_survive(mutant: Mutant) -> None:
    turns_red(mutant, opened_before)
