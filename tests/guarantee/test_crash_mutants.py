"""The deaths at named points prove something: without a rule that a recovery rests on, they turn red."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import test_mutants
import test_rule_mutants
from mortal import PLAIN, VERDICTS, Ground, Play, fails_once, narrow, story
from test_crash_points import dies_once
from test_crash_rebuild import Loss, points, steps

from mutants import Mutant, Mutants, turns_red
from yadtq.broker import Record
from yadtq.ledger import Errand
from yadtq.ledger.memory import MemoryLedger
from yadtq.ledger.memory_life import Life
from yadtq.lineup import LineUp

MUTANTS = Mutants()
TWO = Ground("unordered", 2)


def dies_where_an_order_is_kept() -> None:
    dies_once("retry scheduled", Ground("key", 2), "after accepts 2")


@MUTANTS.add("what has a key starts when the one before it has ended", dies_where_an_order_is_kept)
def no_lane(patch: pytest.MonkeyPatch) -> None:
    def lane_of(self: LineUp, record: Record) -> None:
        return None

    patch.setattr(LineUp, "_lane_of", lane_of)


def the_heir_dies_too() -> None:
    story(lambda: Play(VERDICTS["failed"], PLAIN), ["before dead letter 1", "after claims 1"])


MUTANTS.add("an accepted verdict that is not sealed is written again, in full (S3)", the_heir_dies_too)(
    test_mutants.verdict_not_written_again
)


def dies_between_epoch_and_marker() -> None:
    story(lambda: Loss("wiped", TWO), ["after allot 1"])


@MUTANTS.add("what Kafka knows to be over is over in the new life (R3)", dies_between_epoch_and_marker)
def outcomes_not_read(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryLedger, "_restore", lambda *_: False)


def dies_with_the_errand() -> None:
    story(lambda: Loss("forgotten", PLAIN), [steps(points("forgotten", PLAIN))[1]])


@MUTANTS.add("an errand is another's when its time is over (R3)", dies_with_the_errand)
def the_errand_is_kept_for_ever(patch: pytest.MonkeyPatch) -> None:
    really = Life.take

    def take(self: Life, token: str, least_ms: int, now: int) -> Errand:
        return Errand.TAKEN if self.token not in ("", token) else really(self, token, least_ms, now)

    patch.setattr(Life, "take", take)


def the_answer_to_a_claim_is_lost() -> None:
    fails_once(lambda: Play(VERDICTS["success"]), "after claims 1")


MUTANTS.add("a claim is asked again under its token (C2)", the_answer_to_a_claim_is_lost)(
    test_rule_mutants.a_token_for_every_question
)


@contextmanager
def ground() -> Iterator[tuple[()]]:
    with narrow():
        yield ()


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_without_a_rule_of_recovery_a_death_turns_red(mutant: Mutant) -> None:
    turns_red(mutant, ground)
