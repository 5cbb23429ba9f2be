"""Lanes against a naive model: nothing is lost or taken twice, and of one lane one at a time is out, in its order."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from yadtq.lanes import Lanes

PARTITIONS = ("a", "b", "c")
Work = tuple[str, bytes, int]  # partition, lane (empty for none), serial number


class AgainstAModel(RuleBasedStateMachine):
    """The model keeps, for each partition, what waits in the order of arrival; the times of later ones; what is out."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes: Lanes[str, Work] = Lanes()
        self.now = 0.0
        self.serial = 0
        self.waiting: dict[str, list[Work]] = {}
        self.later: dict[Work, float] = {}
        self.out: set[Work] = set()
        self.left: set[Work] = set()  # of those that are out or later: they hold their lane no more

    def held(self, partition: str) -> set[bytes]:
        return {work[1] for work in [*self.later, *self.out] if work[0] == partition and work not in self.left}

    def startable(self) -> list[Work]:
        """All that may start now."""
        found = [work for work, at in self.later.items() if at <= self.now]
        for partition, works in self.waiting.items():
            held = self.held(partition)
            for work in works:
                if not work[1] or work[1] not in held:
                    found.append(work)
                    held.add(work[1])
        return found

    @rule(key=st.sampled_from(PARTITIONS))
    def add_or_remove(self, key: str) -> None:
        if key in self.waiting:
            gone = {work for work in [*self.later, *self.out] if work[0] == key}
            assert self.lanes.remove(key) == gone
            self.forget(gone)
            del self.waiting[key]
        else:
            self.lanes.add(key)
            self.waiting[key] = []

    def forget(self, works: set[Work]) -> None:
        self.out -= works
        self.left -= works
        self.later = {work: at for work, at in self.later.items() if work not in works}

    @rule(key=st.sampled_from(PARTITIONS), lane=st.sampled_from([b"", b"x", b"y"]))
    def arrive(self, key: str, lane: bytes) -> None:
        self.serial += 1
        work = (key, lane, self.serial)
        self.lanes.arrive(key, work, lane or None)
        if key in self.waiting:
            self.waiting[key].append(work)

    @rule(room=st.integers(0, 6))
    def take(self, room: int) -> None:
        taken = self.lanes.take(room, self.now)
        assert len(taken) == len(set(taken)) <= room
        for work in taken:
            assert work in self.startable(), "out of its turn"
            if work in self.later:
                del self.later[work]
            else:
                self.waiting[work[0]].remove(work)
            self.out.add(work)
        if len(taken) < room:
            assert not self.startable(), "there was room and something could start"

    @precondition(lambda self: self.out)
    @rule(data=st.data(), wait=st.floats(0, 5))
    def again(self, data: st.DataObject, wait: float) -> None:
        work = data.draw(st.sampled_from(sorted(self.out)))
        self.out.discard(work)
        self.later[work] = self.now + wait
        self.lanes.again(work[0], work, self.now + wait)

    @precondition(lambda self: self.out)
    @rule(data=st.data(), comes_back=st.booleans())
    def done(self, data: st.DataObject, comes_back: bool) -> None:
        """It leaves its lane; a seal that is refused brings it back to be claimed again."""
        work = data.draw(st.sampled_from(sorted(self.out)))
        self.lanes.done(work[0], work)
        self.out.discard(work)
        self.left.discard(work)
        if comes_back:
            self.left.add(work)
            self.later[work] = self.now
            self.lanes.again(work[0], work, self.now)

    @precondition(lambda self: self.later)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        work = data.draw(st.sampled_from(sorted(self.later)))
        self.lanes.drop(work[0], work)
        self.forget({work})

    @rule()
    def rest(self) -> None:
        self.lanes.rest()
        self.forget(set(self.later))
        self.waiting = {key: [] for key in self.waiting}

    @rule(by=st.floats(0, 5))
    def turn_the_clock(self, by: float) -> None:
        self.now += by

    @invariant()
    def it_says_when_the_next_is_due(self) -> None:
        at = self.lanes.next_mono()
        assert (at is not None and at <= self.now) == bool(self.startable())
        assert sorted(self.lanes.later()) == sorted(self.later)
        if at is None:
            assert not self.later


TestAgainstAModel = AgainstAModel.TestCase
TestAgainstAModel.settings = settings(max_examples=80, stateful_step_count=40)


def test_partitions_are_served_in_turn() -> None:
    lanes: Lanes[str, str] = Lanes()
    for key in ("a", "b"):
        lanes.add(key)
        for n in range(3):
            lanes.arrive(key, f"{key}{n}")
    assert lanes.take(4, 0.0) == ["a0", "b0", "a1", "b1"]
    lanes.add("c")
    lanes.arrive("c", "c0")
    assert set(lanes.take(3, 0.0)) == {"a2", "b2", "c0"}


def test_one_of_a_lane_at_a_time_and_the_next_goes_when_it_is_done() -> None:
    lanes: Lanes[str, str] = Lanes()
    lanes.add("p")
    for work, lane in (("k1", b"k"), ("k2", b"k"), ("n", None), ("l1", b"l"), ("k3", b"k")):
        lanes.arrive("p", work, lane)
    assert lanes.take(9, 0.0) == ["k1", "n", "l1"]
    lanes.again("p", "k1", 5.0)
    assert lanes.take(9, 4.0) == [], "a retry that waits holds its lane"
    assert lanes.take(9, 5.0) == ["k1"]
    lanes.done("p", "k1")
    assert lanes.take(9, 5.0) == ["k2"]
