"""The promises of the engine hold because tests would notice: each mutant breaks one, and turns a named test red."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import test_claims
import test_others_bugs
import test_out_of_order
import test_settle_order
import test_wipes
from msgspec import structs
from stage import Stage

from mutants import Mutant, Mutants, turns_red
from yadtq.broker import Record, Report
from yadtq.claim import Work
from yadtq.codec import OutcomeRecord
from yadtq.engine import Engine
from yadtq.heartbeat import Identity
from yadtq.intake import Assignment
from yadtq.layout import QueueTopics
from yadtq.ledger import Accept, Answer, Over
from yadtq.ledger.memory import MemoryLedger
from yadtq.ledger.memory_life import Life
from yadtq.offsets import Position, Tracker
from yadtq.settle import Settler
from yadtq.writes import Writes, writes_of

MUTANTS = Mutants()


def without_stage(test: Callable[[], None]) -> Callable[[Stage], None]:
    """For a test that makes its own stage."""

    def on_its_own(_: Stage) -> None:
        test()

    on_its_own.__name__ = test.__name__
    return on_its_own


def of_a_queue_that_was_open(test: Callable[[Stage], None]) -> Callable[[Stage], None]:
    """For a test of the rebuild, whose stage has been opened by a worker."""

    def on_an_open_queue(_: Stage) -> None:
        stage = Stage(opened=False)
        opener = stage.player("opener")
        assert opener.rebuilder.turn()
        opener.crash()
        test(stage)

    on_an_open_queue.__name__ = test.__name__
    return on_an_open_queue


# -- the commit --------------------------------------------------------------------------------------------------------


@MUTANTS.add(
    "an offset is closed when the fate of its record is durable, not when the record arrives",
    test_settle_order.test_the_outcome_is_final_for_users_only_after_kafka_has_it,
)
def commit_before_done(patch: pytest.MonkeyPatch) -> None:
    really_open, really_close = Assignment.open, Assignment.close

    def open_and_close(self: Assignment, records: Sequence[Record]) -> list[Record]:
        fresh = really_open(self, records)
        for record in fresh:
            really_close(self, record.offset)
        return fresh

    patch.setattr(Assignment, "open", open_and_close)
    patch.setattr(Assignment, "close", lambda *_: None)


@MUTANTS.add(
    "no commit passes a record that is not finished",
    test_settle_order.test_what_is_finished_above_an_unfinished_record_travels_with_the_commit_and_is_skipped,
)
def commit_past_a_gap(patch: pytest.MonkeyPatch) -> None:
    really = Tracker.committable

    def committable(self: Tracker) -> Position | None:
        done = [offset for offset in self._order if offset not in self._open]
        return Position(max(done) + 1, "") if done else really(self)

    patch.setattr(Tracker, "committable", committable)


@MUTANTS.add(
    "what is finished above the position travels with the commit",
    test_out_of_order.test_the_next_owner_skips_what_was_finished_above_a_slow_task,
)
def commit_without_the_bitmap(patch: pytest.MonkeyPatch) -> None:
    really = Assignment.committable

    def committable(self: Assignment) -> Position | None:
        position = really(self)
        return None if position is None else Position(position.offset, "")

    patch.setattr(Assignment, "committable", committable)


# -- the fence ---------------------------------------------------------------------------------------------------------


@MUTANTS.add(
    "a verdict counts only under the present fence (S2)",
    without_stage(
        test_settle_order.test_after_a_refused_accept_the_offset_stays_open_until_the_attempt_that_counts_has_ended
    ),
)
def no_fence(patch: pytest.MonkeyPatch) -> None:
    really = MemoryLedger._accept

    def accept_any(self: MemoryLedger, accept: Accept, epoch: int, now: int) -> int | None:
        present = self._tasks[accept.task_id].record.fence
        return really(self, structs.replace(accept, fence=present), epoch, now)

    patch.setattr(MemoryLedger, "_accept", accept_any)


@MUTANTS.add(
    "a new life of the ledger has a higher epoch than any before (R4)",
    of_a_queue_that_was_open(test_wipes.test_a_fence_of_the_life_before_is_never_right_by_chance),
)
def fence_reset_after_a_wipe(patch: pytest.MonkeyPatch) -> None:
    really = Life.allot

    def allot_one(self: Life, token: str, floor: int, now: int) -> int | None:
        if really(self, token, floor, now) is None:
            return None
        self.allotted = 1
        return 1

    patch.setattr(Life, "allot", allot_one)


@MUTANTS.add(
    "nothing starts under a lease that may be over (C6)",
    test_claims.test_a_claim_is_not_started_when_the_lease_may_be_over,
)
def start_under_any_lease(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Identity, "alive", True)


@MUTANTS.add(
    "a claim that is not used is given back (C1)",
    test_claims.test_what_was_given_and_has_not_started_is_recalled_when_the_partition_goes,
)
def release_omitted(patch: pytest.MonkeyPatch) -> None:
    really = Engine._give_back

    def keep(self: Engine, work: Work) -> None:
        really(self, work)
        self._releasing.pop()

    patch.setattr(Engine, "_give_back", keep)


# -- settle ------------------------------------------------------------------------------------------------------------


@MUTANTS.add(
    "the dead letter is acknowledged before the outcome is sent (S1)",
    test_others_bugs.test_taskbroker_344_a_dead_letter_that_kafka_does_not_take_is_not_dropped_with_its_task,
)
def dead_letter_not_awaited(patch: pytest.MonkeyPatch) -> None:
    really = Settler.write

    def write(self: Settler, writes: Iterable[Writes]) -> None:
        writes = list(writes)
        for each in writes:
            for message in each.messages[:-1]:
                self._producer.produce(message, lambda _: None)
            del each.messages[:-1]
        really(self, writes)

    patch.setattr(Settler, "write", write)


@MUTANTS.add(
    "the dead letter is sent before the outcome (S1)",
    test_settle_order.test_the_dead_letter_is_acknowledged_before_the_outcome_is_sent,
)
def outcome_before_the_dead_letter(patch: pytest.MonkeyPatch) -> None:
    def turned_round(work: Work, outcome: OutcomeRecord, topics: QueueTopics) -> Writes:
        writes = writes_of(work, outcome, topics)
        writes.messages.reverse()
        return writes

    patch.setattr("yadtq.settle.writes_of", turned_round)


@MUTANTS.add(
    "what Kafka did not take is sent again",
    test_settle_order.test_a_write_that_kafka_does_not_acknowledge_is_sent_again_and_holds_the_offset,
)
def every_report_is_good(patch: pytest.MonkeyPatch) -> None:
    really = Writes.reported
    patch.setattr(Writes, "reported", lambda self, _: really(self, Report(None, 0, 0)))


@MUTANTS.add(
    "a verdict that was accepted and perhaps never written is written in full by the next owner (S3)",
    test_claims.test_an_accepted_verdict_whose_worker_died_is_written_in_full_by_the_next_owner,
)
def verdict_not_written_again(patch: pytest.MonkeyPatch) -> None:
    really = Engine._answered

    def answered(self: Engine, works: Sequence[Work], answers: Sequence[Answer], incarnation: str) -> None:
        sealed = [Over(structs.replace(at.record, sealed=True)) if isinstance(at, Over) else at for at in answers]
        really(self, works, sealed, incarnation)

    patch.setattr(Engine, "_answered", answered)


# ----------------------------------------------------------------------------------------------------------------------


@contextmanager
def ground() -> Iterator[tuple[Stage]]:
    yield (Stage(),)


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutant_does_not_survive(mutant: Mutant) -> None:
    turns_red(mutant, ground)


def test_a_mutant_that_changes_nothing_is_called_a_survivor() -> None:
    sound = Mutant(
        "sound", "nothing", lambda _: None, test_claims.test_a_settled_task_that_comes_again_is_closed_without_a_run
    )
    with pytest.raises(pytest.fail.Exception, match="sound survives"):
        turns_red(sound, ground)


def test_a_mutant_that_breaks_down_by_itself_proves_nothing() -> None:
    def no_verdict(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(Settler, "finished", lambda self, work, _: self.accepting.append(work))

    ill = Mutant("ill", "nothing", no_verdict, test_settle_order.test_a_task_runs_once_and_its_offset_is_committed)
    with pytest.raises(AssertionError, match="ill breaks down by itself"):
        turns_red(ill, ground)
