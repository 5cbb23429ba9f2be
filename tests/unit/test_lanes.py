"""Lanes against a naive model: nothing is lost, nothing is taken twice, and no lane is wider than it may be."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from yadtq.lanes import Lanes

WIDTH = 2
KEYS = ("a", "b", "c")


class AgainstAModel(RuleBasedStateMachine):
    """The model keeps a list of waiting works, the times of later ones, and the set of works that are out."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes: Lanes[str, tuple[str, int]] = Lanes(WIDTH)
        self.now = 0.0
        self.serial = 0
        self.waiting: dict[str, list[tuple[str, int]]] = {}
        self.later: dict[tuple[str, int], float] = {}
        self.out: set[tuple[str, int]] = set()

    def busy(self, key: str) -> int:
        return sum(work[0] == key for work in [*self.later, *self.out])

    @rule(key=st.sampled_from(KEYS))
    def add_or_remove(self, key: str) -> None:
        if key in self.waiting:
            gone = {work for work in [*self.later, *self.out] if work[0] == key}
            assert self.lanes.remove(key) == gone
            self.out -= gone
            self.later = {work: at for work, at in self.later.items() if work not in gone}
            del self.waiting[key]
        else:
            self.lanes.add(key)
            self.waiting[key] = []

    @rule(key=st.sampled_from(KEYS))
    def arrive(self, key: str) -> None:
        self.serial += 1
        self.lanes.arrive(key, (key, self.serial))
        if key in self.waiting:
            self.waiting[key].append((key, self.serial))

    @rule(room=st.integers(0, 6))
    def take(self, room: int) -> None:
        taken = self.lanes.take(room, self.now)
        assert len(taken) == len(set(taken)) <= room
        for work in taken:
            if work in self.later:
                assert self.later.pop(work) <= self.now
            else:
                assert self.waiting[work[0]].pop(0) == work, "out of its turn"
                assert self.busy(work[0]) < WIDTH, "wider than it may be"
            self.out.add(work)
        if len(taken) < room:
            assert not self.startable(), "there was room and something could start"

    def startable(self) -> bool:
        due = any(at <= self.now for at in self.later.values())
        return due or any(works and self.busy(key) < WIDTH for key, works in self.waiting.items())

    @precondition(lambda self: self.out)
    @rule(data=st.data(), wait=st.floats(0, 5))
    def again(self, data: st.DataObject, wait: float) -> None:
        work = data.draw(st.sampled_from(sorted(self.out)))
        self.out.discard(work)
        self.later[work] = self.now + wait
        self.lanes.again(work[0], work, self.now + wait)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        work = data.draw(st.sampled_from(sorted(self.out)))
        self.out.discard(work)
        self.lanes.done(work[0], work)

    @rule()
    def rest(self) -> None:
        self.lanes.rest()
        self.later.clear()
        self.waiting = {key: [] for key in self.waiting}

    @rule(by=st.floats(0, 5))
    def turn_the_clock(self, by: float) -> None:
        self.now += by

    @invariant()
    def it_says_when_the_next_is_due(self) -> None:
        at = self.lanes.next_mono()
        assert (at is not None and at <= self.now) == self.startable()
        if at is None:
            assert not self.later


TestAgainstAModel = AgainstAModel.TestCase
TestAgainstAModel.settings = settings(max_examples=60, stateful_step_count=40)


def test_lanes_are_served_in_turn() -> None:
    lanes: Lanes[str, str] = Lanes(10)
    for key in ("a", "b"):
        lanes.add(key)
        for n in range(3):
            lanes.arrive(key, f"{key}{n}")
    assert lanes.take(4, 0.0) == ["a0", "b0", "a1", "b1"]
    lanes.add("c")
    lanes.arrive("c", "c0")
    assert set(lanes.take(3, 0.0)) == {"a2", "b2", "c0"}
