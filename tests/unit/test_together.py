"""Work of many threads at the same time becomes few groups, and everybody's is done or has failed when it returns."""

import threading
from collections.abc import Callable

import pytest

from waiting import eventually
from yadtq.together import Together


class Errand:
    """Something to do, with a name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ended = threading.Event()

    def wait(self) -> None:
        assert self.ended.wait(30)

    def over(self) -> None:
        self.ended.set()


class Office:
    """Holds the first group until it is let go; the others gather."""

    def __init__(self) -> None:
        self.turns: list[list[str]] = []
        self.rests: list[list[str]] = []
        self.entered, self.go = threading.Event(), threading.Event()
        self.in_turn: Callable[[list[str]], object] = lambda names: None
        self.in_rest: Callable[[list[str]], object] = lambda names: None
        self.together = Together(self._turn, self._rest)

    def _turn(self, group: list[Errand]) -> list[Errand]:
        self.entered.set()
        assert self.go.wait(30)
        names = sorted(errand.name for errand in group)
        self.in_turn(names)
        self.turns.append(names)
        return group

    def _rest(self, group: list[Errand]) -> None:
        names = sorted(errand.name for errand in group)
        self.in_rest(names)
        self.rests.append(names)
        for errand in group:
            errand.over()

    def do(self, *names: str) -> list[threading.Thread]:
        threads = [threading.Thread(target=self.together.do, args=(Errand(name),)) for name in names]
        for thread in threads:
            thread.start()
        return threads


NAMES = sorted(f"t{n}" for n in range(16))


def test_what_comes_while_a_group_is_on_the_road_goes_as_one() -> None:
    office = Office()
    threads = office.do("first")
    assert office.entered.wait(30)
    threads += office.do(*NAMES)
    eventually(lambda: len(office.together._gathering or []) == 16)
    office.go.set()
    for thread in threads:
        thread.join(30)
    office.together.do(Errand("later"))
    assert office.turns == office.rests == [["first"], NAMES, ["later"]]


def test_while_one_group_does_the_rest_the_next_one_has_its_turn() -> None:
    office, resting, rest_on = Office(), threading.Event(), threading.Event()
    office.go.set()

    def rests(_: object) -> None:
        resting.set()
        rest_on.wait(30)

    office.in_rest = rests
    (first,) = office.do("first")
    assert resting.wait(30)
    (second,) = office.do("second")
    eventually(lambda: len(office.turns) == 2)
    assert office.rests == []
    rest_on.set()
    first.join(30)
    second.join(30)
    assert sorted(office.rests) == [["first"], ["second"]]


@pytest.mark.parametrize("where", ["in_turn", "in_rest"])
def test_work_that_fails_fails_where_it_was_done_and_holds_up_nobody(where: str) -> None:
    office = Office()
    leader, errand = Errand("leader"), Errand("follower")
    failures: list[BaseException] = []

    def fail(names: list[str]) -> None:
        if "leader" in names:
            raise KeyboardInterrupt

    def lead() -> None:
        try:
            office.together.do(leader)
        except KeyboardInterrupt as error:
            failures.append(error)

    held = office.do("held")
    assert office.entered.wait(30)
    leading = threading.Thread(target=lead)
    leading.start()
    eventually(lambda: office.together._gathering is not None)
    following = threading.Thread(target=office.together.do, args=(errand,))
    following.start()
    eventually(lambda: len(office.together._gathering or []) == 2)
    setattr(office, where, fail)
    office.go.set()
    for thread in [*held, leading, following]:
        thread.join(30)
    assert len(failures) == 1
    assert leader.ended.is_set()
    assert errand.ended.is_set()
    office.together.do(Errand("next"))
    assert office.rests[-1] == ["next"]


def test_who_starts_an_errand_waits_for_nothing_and_it_gathers_with_the_others() -> None:
    office = Office()
    first, second = Errand("a"), Errand("b")
    office.together.start(first)
    assert office.entered.wait(30)
    office.together.start(second)
    (third,) = office.do("c")
    eventually(lambda: len(office.together._gathering or []) == 2)
    assert not first.ended.is_set()
    office.go.set()
    third.join(30)
    assert first.ended.wait(30)
    assert second.ended.wait(30)
    assert office.turns == [["a"], ["b", "c"]]


def test_many_threads_that_come_again_and_again_each_get_their_own_work_done() -> None:
    done: list[str] = []

    def rest(group: list[Errand]) -> None:
        for errand in group:
            done.append(errand.name)
            errand.over()

    together: Together[Errand, list[Errand]] = Together(lambda group: group, rest)

    def some(name: str) -> None:
        for n in range(50):
            errand = Errand(f"{name}.{n}")
            together.do(errand)
            assert errand.name in done

    threads = [threading.Thread(target=some, args=(name,)) for name in NAMES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(done) == sorted(f"{name}.{n}" for name in NAMES for n in range(50))
