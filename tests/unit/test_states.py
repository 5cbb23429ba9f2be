"""The table of legal moves."""

from yadtq.states import FINAL, TRANSITIONS, State


def test_every_state_has_its_row() -> None:
    assert set(TRANSITIONS) == set(State)


def test_a_final_state_has_no_way_out_and_every_other_has_one() -> None:
    assert {state for state in State if not TRANSITIONS[state]} == FINAL == {State.SUCCESS, State.FAILED}


def test_every_state_but_the_first_can_be_reached() -> None:
    assert set().union(*TRANSITIONS.values()) == set(State)


def test_a_task_never_succeeds_without_having_run() -> None:
    assert [state for state in State if State.SUCCESS in TRANSITIONS[state]] == [State.PROCESSING]


def test_a_state_reads_as_its_name() -> None:
    assert [str(state) for state in State] == ["SCHEDULED", "QUEUED", "PROCESSING", "SUCCESS", "FAILED"]
