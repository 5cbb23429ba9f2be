"""The naive models of claims and of settle notice what a broken rule does: each mutant turns one of them red."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import test_mutants
import test_rule_mutants
import test_trace_mutants
from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from test_claims_model import Claims, few_takeovers
from test_settle_model import Settling

from mutants import Mutant, Mutants, turns_red

MODELS = Mutants()
# The same examples in every run, and none made smaller: what is wanted is that one is found.
SEARCH = settings(
    max_examples=200,
    stateful_step_count=40,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    report_multiple_bugs=False,
)


def model(machine: type[RuleBasedStateMachine]) -> Callable[[], None]:
    def against_the_model() -> None:
        run_state_machine_as_test(machine, settings=SEARCH)

    return against_the_model


for broken, breaks in (
    (test_mutants.no_fence, "a verdict counts only under the present fence (S2)"),
    (test_trace_mutants.what_is_mine_is_given_to_me_again, "another token of the owner is ELSEWHERE (C3)"),
    (test_trace_mutants.stale_by_attempts, "stale is told by generation (C4)"),
    (test_trace_mutants.nothing_is_used_up, "what is used up ends in the claim (C5)"),
    (test_trace_mutants.every_record_expires, "only a sealed record has a time to live (R1)"),
    (test_rule_mutants.sealed_when_it_is_accepted, "an end is shown when Kafka has it (S1)"),
):
    MODELS.add(breaks, model(Claims))(broken)

for broken, breaks in (
    (test_mutants.dead_letter_not_awaited, "the dead letter is acknowledged before the outcome is sent (S1)"),
    (test_mutants.outcome_before_the_dead_letter, "the dead letter is sent before the outcome (S1)"),
    (test_mutants.every_report_is_good, "what Kafka did not take is sent again"),
    (test_rule_mutants.copy_not_awaited, "a head is closed when Kafka has its copy (S5)"),
    (test_trace_mutants.what_is_refused_is_closed, "a refused accept closes nothing (S2)"),
):
    MODELS.add(breaks, model(Settling))(broken)


@contextmanager
def ground() -> Iterator[tuple[()]]:
    with few_takeovers():
        yield ()


@pytest.mark.parametrize("mutant", MODELS, ids=str)
def test_a_model_notices_a_mutant(mutant: Mutant) -> None:
    turns_red(mutant, ground)
