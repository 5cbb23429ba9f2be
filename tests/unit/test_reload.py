"""When it is told that all runners of a pool have been replaced."""

from yadtq.runners.process import Stage
from yadtq.runners.reload import Reload
from yadtq.runners.staff import Plan, Renewal, Staff


class PlayedCrew:
    """Is as far as it is told to be."""

    def __init__(self, pid: int) -> None:
        self.pids = [pid]
        self.far = Renewal.COMPLETE
        self.asked = 0

    def replace(self) -> None:
        self.asked += 1
        self.far = Renewal.GOES_ON

    def renewal(self) -> Renewal:
        return self.far


class Bench:
    """Two crews, and what was told of them."""

    def __init__(self) -> None:
        self.one, self.two = PlayedCrew(7), PlayedCrew(8)
        self.told: list[tuple[str, str]] = []
        self.reload = Reload([self.one, self.two], lambda *words: self.told.append(words))  # type: ignore[list-item]

    def looks(self, one: Renewal, two: Renewal) -> int:
        """How much has been told once the crews are so far."""
        self.one.far, self.two.far = one, two
        self.reload.look()
        return len(self.told)


def test_it_is_told_once_when_every_crew_is_complete() -> None:
    bench = Bench()
    assert bench.looks(Renewal.COMPLETE, Renewal.COMPLETE) == 0, "nobody has asked"
    for times in (1, 2):
        bench.reload.begin()
        assert (bench.one.asked, bench.two.asked) == (times, times)
        assert bench.looks(Renewal.COMPLETE, Renewal.GOES_ON) == times - 1
        assert bench.looks(Renewal.COMPLETE, Renewal.COMPLETE) == times
        assert bench.looks(Renewal.COMPLETE, Renewal.COMPLETE) == times
    assert bench.told[0] == ("reloaded", "all runners have the code as it is now: 7, 8")


def test_where_one_crew_has_given_up_it_is_not_told_until_it_is_asked_again() -> None:
    bench = Bench()
    bench.reload.begin()
    assert bench.looks(Renewal.GOES_ON, Renewal.GIVEN_UP) == 0
    assert bench.looks(Renewal.COMPLETE, Renewal.COMPLETE) == 0
    bench.reload.begin()
    assert bench.looks(Renewal.COMPLETE, Renewal.COMPLETE) == 1


class PlayedChild:
    def __init__(self, stage: Stage = Stage.STARTING) -> None:
        self.stage = stage
        self.replaces: PlayedChild | None = None
        self.tasks: list[object] = []


def test_a_crew_is_complete_when_as_many_new_ones_are_ready_as_it_always_has() -> None:
    staff = Staff(Plan(slots=1, least=2, most=2), lambda _: PlayedChild())  # type: ignore[arg-type, return-value]
    staff.children += [PlayedChild(Stage.READY), PlayedChild(Stage.READY)]  # type: ignore[list-item]
    staff.replace_all()
    for seen in (Renewal.GOES_ON, Renewal.COMPLETE):
        (replaces,) = staff.vacancies(0.0)
        staff.children.append(staff.hire(replaces, 0.0))
        staff.ready(staff.children[-1], [])
        assert staff.renewal() is seen
    staff.remove(staff.children[-1])  # it has died
    assert staff.renewal() is Renewal.GOES_ON
    staff.children.append(staff.hire(None, 0.0))
    assert staff.renewal() is Renewal.GOES_ON
    staff.ready(staff.children[-1], [])
    assert staff.renewal() is Renewal.COMPLETE
