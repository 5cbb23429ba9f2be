"""How many children a crew starts at a time."""

from typing import cast

import pytest

import yadtq.runners.staff
from yadtq.runners.process import RunnerProcess, Stage
from yadtq.runners.staff import Plan, Staff


class Child:
    def __init__(self) -> None:
        self.stage = Stage.STARTING
        self.replaces = None


def crew(monkeypatch: pytest.MonkeyPatch, wanted: int) -> Staff:
    monkeypatch.setattr(yadtq.runners.staff, "CORES", 2)
    staff = Staff(Plan(1, least=0, most=wanted), lambda now: cast(RunnerProcess, Child()))
    staff.wanted = wanted
    return staff


def start(staff: Staff) -> int:
    """Start all that is due; say how many that were."""
    due = staff.vacancies(0.0)
    staff.children.extend(staff.hire(replaces, 0.0) for replaces in due)
    return len(due)


def test_the_more_are_ready_the_more_start_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    staff, started = crew(monkeypatch, 21), []
    while len(staff.children) < 21:
        started.append(start(staff))
        assert start(staff) == 0, "before any of these is ready"
        for child in staff.children:
            child.stage = Stage.READY
    assert started == [2, 2, 4, 8, 5]


def test_those_that_are_always_there_start_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yadtq.runners.staff, "CORES", 2)
    staff = Staff(Plan(16, least=5, most=5), lambda now: cast(RunnerProcess, Child()))
    assert start(staff) == 5


def test_one_that_gets_ready_lets_the_next_one_start_and_one_that_dies_too(monkeypatch: pytest.MonkeyPatch) -> None:
    staff = crew(monkeypatch, 8)
    assert start(staff) == 2
    staff.children[0].stage = Stage.READY
    assert start(staff) == 1
    staff.remove(staff.children[1])
    assert start(staff) == 1
    for child in staff.children:
        child.stage = Stage.READY
    assert start(staff) == 3
    for child in [child for child in staff.children if child.stage is Stage.READY]:
        staff.remove(child)
    assert start(staff) == 0, "three are on their way, which is more than there are cores"
