"""Each bug of others, put into this engine as a mutant: the test that is named after it turns red."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import test_others_bugs as others
from stage import Stage

import yadtq.engine
from mutants import Mutant, Mutants, turns_red
from yadtq.attempt import Outcome, Recalled, Started
from yadtq.broker import Record, Report
from yadtq.claim import Work, close_records
from yadtq.engine import Engine
from yadtq.intake import Assignment
from yadtq.offsets import Position, Tracker
from yadtq.settle import Settler
from yadtq.states import State
from yadtq.writes import Writes

MUTANTS = Mutants()


def finished(tracker: Tracker) -> list[int]:
    """What has ended, and something below it has not."""
    return [offset for offset in tracker._order if offset not in tracker._open]


@MUTANTS.add(
    "what comes back from the runner is taken off the books",
    others.test_parallel_consumer_547_what_was_on_its_way_when_the_partition_went_uses_up_no_room,
)
def works_that_are_recalled_stay_in_the_books(patch: pytest.MonkeyPatch) -> None:
    really = Engine._heard

    def heard(self: Engine, events: Sequence[Started | Outcome | Recalled]) -> None:
        really(self, [event for event in events if not isinstance(event, Recalled)])

    patch.setattr(Engine, "_heard", heard)


@MUTANTS.add(
    "what is read and has not ended is not committed",
    others.test_parallel_consumer_826_what_was_read_and_not_run_is_not_committed_when_the_partition_goes,
)
def the_highest_seen_is_committed(patch: pytest.MonkeyPatch) -> None:
    def committable(self: Tracker) -> Position | None:
        return None if self._next is None else Position(self._next, "")

    patch.setattr(Tracker, "committable", committable)


@MUTANTS.add(
    "a committed offset is the next to be read",
    others.test_parallel_consumer_894_a_new_owner_without_new_records_commits_no_offset_that_nobody_wrote,
)
def the_committed_offset_is_taken_for_done(patch: pytest.MonkeyPatch) -> None:
    really = Tracker.__init__

    def begin(self: Tracker, metadata: str = "", base: int = 0) -> None:
        really(self, metadata, base)
        if metadata:
            self._finished_before.add(base)

    patch.setattr(Tracker, "__init__", begin)


@MUTANTS.add(
    "a record belongs to the assignment that read it",
    others.test_parallel_consumer_909_a_record_that_comes_again_is_not_taken_for_the_stale_one_that_still_runs,
)
def a_record_that_still_runs_is_not_taken_again(patch: pytest.MonkeyPatch) -> None:
    really = Engine._arrived

    def arrived(self: Engine, records: Sequence[tuple[Assignment, Record]]) -> None:
        running = {(work.record.where, work.record.offset) for work in self._running.values()}
        really(self, [(at, record) for at, record in records if (record.where, record.offset) not in running])

    patch.setattr(Engine, "_arrived", arrived)


@MUTANTS.add(
    "the answer to a commit speaks of what was sent",
    others.test_parallel_consumer_664_what_ends_while_a_commit_is_under_way_is_committed_by_the_next,
)
def any_answer_makes_clean(patch: pytest.MonkeyPatch) -> None:
    def committed(self: Tracker, _: Position) -> None:
        self._committed = self.committable() or self._committed

    patch.setattr(Tracker, "committed", committed)


@MUTANTS.add(
    "the commit begins at the first record that has not ended",
    others.test_faust_312_a_hole_before_everything_that_has_ended_holds_the_commit,
)
def the_first_run_of_what_has_ended_is_committed(patch: pytest.MonkeyPatch) -> None:
    really = Tracker.committable

    def committable(self: Tracker) -> Position | None:
        done = finished(self)
        run = [offset for at, offset in enumerate(done) if offset == done[0] + at]
        return Position(run[-1] + 1, "") if run else really(self)

    patch.setattr(Tracker, "committable", committable)


@MUTANTS.add(
    "only a record can hold the commit",
    others.test_faust_606_an_offset_that_nobody_wrote_is_told_from_a_record_that_has_not_ended,
)
def offsets_that_nobody_wrote_hold_the_commit(patch: pytest.MonkeyPatch) -> None:
    really_open, really = Tracker.open, Tracker.committable
    holes: list[int] = []

    def open_record(self: Tracker, offset: int) -> bool:
        if self._next is not None:
            holes.extend(range(self._next, offset))
        return really_open(self, offset)

    def committable(self: Tracker) -> Position | None:
        position = really(self)
        return position and Position(min([position.offset, *holes]), position.metadata)

    patch.setattr(Tracker, "open", open_record)
    patch.setattr(Tracker, "committable", committable)


@MUTANTS.add(
    "a hole is passed only where there is no record",
    others.test_faust_606_an_offset_that_nobody_wrote_is_told_from_a_record_that_has_not_ended,
)
def every_hole_is_passed(patch: pytest.MonkeyPatch) -> None:
    really = Tracker.committable

    def committable(self: Tracker) -> Position | None:
        done = finished(self)
        return Position(done[-1] + 1, "") if done else really(self)

    patch.setattr(Tracker, "committable", committable)


@MUTANTS.add(
    "offset 0 can be committed",
    others.test_karafka_3215_an_unfinished_offset_0_is_a_position_like_any_other_and_no_loss,
)
def offset_0_is_nothing(patch: pytest.MonkeyPatch) -> None:
    really = Assignment.committable

    def committable(self: Assignment) -> Position | None:
        position = really(self)
        return position if position is not None and position.offset else None

    patch.setattr(Assignment, "committable", committable)


@MUTANTS.add(
    "a dead letter settles the task that failed and no other",
    others.test_karafka_3216_a_dead_letter_is_of_the_one_that_failed_and_commits_nothing_beside_it,
)
def a_dead_letter_ends_all_before_it(patch: pytest.MonkeyPatch) -> None:
    def close(works: Sequence[Work]) -> None:
        close_records(works)
        for work in works:
            if work.verdict is not None and work.verdict.state is State.FAILED:
                work.assignment.close(*[at for at in work.assignment._held if at < work.record.offset])

    patch.setattr(yadtq.engine, "close_records", close)


def failing_twice(stage: Stage) -> None:
    others.test_karafka_3220_a_task_that_fails_where_its_partition_was_lost_has_one_dead_letter(stage, "is over")


@MUTANTS.add("who was refused writes nothing (S2)", failing_twice)
def refused_verdicts_are_written_too(patch: pytest.MonkeyPatch) -> None:
    really = Settler.accepted

    def accepted(
        self: Settler, works: Sequence[Work], answers: Sequence[int | None], epoch: int
    ) -> tuple[list[Work], list[tuple[Work, float]]]:
        return really(self, works, [at or 1 for at in answers], epoch)

    patch.setattr(Settler, "accepted", accepted)


@MUTANTS.add(
    "what Kafka refuses is not dropped",
    others.test_taskbroker_344_a_dead_letter_that_kafka_does_not_take_is_not_dropped_with_its_task,
)
def what_is_refused_is_dropped(patch: pytest.MonkeyPatch) -> None:
    really = Writes.reported

    def reported(self: Writes, report: Report) -> bool:
        return really(self, Report(None, 0, 0) if report.refused else report)

    patch.setattr(Writes, "reported", reported)


@contextmanager
def ground() -> Iterator[tuple[Stage]]:
    yield (Stage(),)


@contextmanager
def bare() -> Iterator[tuple[()]]:
    yield ()


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_the_bug_of_others_is_noticed_here(mutant: Mutant) -> None:
    of_the_tracker_alone = not mutant.red.__code__.co_argcount
    turns_red(mutant, bare if of_the_tracker_alone else ground)
