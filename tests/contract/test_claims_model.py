"""Claims against a naive model: who is given a task, and whose word about it counts, told from what happened so far.

The contract suite compares the ledger in memory, on which this is played, with the one in Redis move by move.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ledger_bench import MemoryBench

from opening import open_ledger
from yadtq.ledger import Accept, Claim, Elsewhere, Over, Refusal, Release, Resend, Run, Seal, Stale
from yadtq.states import FINAL, State

MOST_FAILURES = 2
MOST_TAKEOVERS = 1
TTL_MS = 600_000
TASKS = st.sampled_from(["a", "a", "a", "b"])
WORKERS = st.sampled_from(["w1", "w2", "w3"])


@contextmanager
def few_takeovers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("yadtq.ledger.memory_task.MAX_TAKEOVERS", MOST_TAKEOVERS)
        yield


@pytest.fixture(autouse=True, scope="module")
def _few_takeovers() -> Iterator[None]:
    with few_takeovers():
        yield


@dataclass(frozen=True)
class Given:
    """A claim that was answered RUN."""

    task: str
    wish: Claim
    worker: str
    incarnation: str
    run: Run


@dataclass
class Known:
    """A task, as somebody knows it who has followed everything."""

    state: State = State.QUEUED
    generation: int = 0
    attempts: int = 0
    failures: int = 0
    takeovers: int = 0
    holder: Given | None = None  # while it is PROCESSING
    settled: str = ""  # the fence of the verdict that was accepted last, until somebody claims again
    unsealed: bool = False  # that verdict, an end or a planned run, may not be in Kafka
    ended_mono: int | None = None  # when the end was sealed: a day later it is forgotten
    fences: list[str] = field(default_factory=list)


class Claims(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.bench = MemoryBench()
        self.alive: dict[str, str] = {}  # by worker: its incarnation
        self.known: dict[str, Known] = {}
        self.asked: list[tuple[str, Claim]] = []  # every claim there was, with its worker
        self.given: list[Given] = []
        self.numbers = 0

    @initialize()
    def begin(self) -> None:
        open_ledger(self.bench.ledger, "q")
        self.read_until_ms = self.bench.now_ms() + TTL_MS // 2
        for worker in ("w1", "w2", "w3"):
            self.is_born(worker)

    # -- workers -------------------------------------------------------------------------------------------------------

    @rule(worker=WORKERS)
    def is_born(self, worker: str) -> None:
        """It comes, or comes again under its name: what it held before is not its own any more."""
        self.bench.start(worker)
        self.alive[worker] = self.bench.incarnations[worker]

    @precondition(lambda self: len(self.alive) > 1)
    @rule(worker=WORKERS)
    def dies(self, worker: str) -> None:
        if self.alive.pop(worker, None):
            self.bench.lose(worker)

    # -- claims --------------------------------------------------------------------------------------------------------

    @rule(task=TASKS, who=st.integers(0, 6), generation=st.sampled_from([0, 0, 0, 0, 1, 1, 2]), old=st.booleans())
    def claim(self, task: str, who: int, generation: int, old: bool) -> None:
        living = sorted(self.alive)
        worker = ["w1", "w2", "w3"][who % 3] if who > 5 else living[who % len(living)]  # the dead ask seldom
        self.numbers += 1
        queued_at_ms = 1 if old else self.bench.now_ms()
        wish = Claim(task, f"token-{self.numbers}", "add", 0, 0, queued_at_ms, 0, MOST_FAILURES, "", generation)
        self.asked.append((worker, wish))
        self.ask(worker, wish)

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def claim_again(self, data: st.DataObject) -> None:
        """The answer was lost, or so the asker thinks."""
        self.ask(*data.draw(st.sampled_from(self.asked)))

    def ask(self, worker: str, wish: Claim) -> None:
        answer = self.bench.claim(worker, wish)
        if worker not in self.alive:
            assert answer is Refusal.DEAD
            return
        known = self.known.get(wish.task_id)
        if known is None:
            now = self.bench.now_ms()
            if now - wish.queued_at_ms > TTL_MS and now >= self.read_until_ms:
                assert answer is Refusal.UNREAD
                return
            known = self.known[wish.task_id] = Known()
        if known.state in FINAL:
            assert isinstance(answer, Over)
            assert (answer.record.status, answer.record.sealed) == (known.state, not known.unsealed)
        elif wish.generation < known.generation:
            again = known.unsealed and wish.generation == known.generation - 1
            assert isinstance(answer, Resend if again else Stale)
        else:
            self.asked_for_a_run(known, worker, wish, answer)

    def asked_for_a_run(self, known: Known, worker: str, wish: Claim, answer: object) -> None:
        holder, lost = known.holder, ""
        if holder is not None:
            mine = (holder.worker, holder.incarnation, holder.wish.token) == (worker, self.alive[worker], wish.token)
            if mine:
                assert isinstance(answer, Run)
                assert (answer.fence, answer.attempt) == (holder.run.fence, holder.run.attempt)
                return
            if self.alive.get(holder.worker) == holder.incarnation:
                assert answer == Elsewhere(holder.worker)
                return
            lost = holder.worker
        known.takeovers += bool(lost)
        known.generation, known.settled, known.unsealed, known.holder = wish.generation, "", False, None
        if known.failures >= MOST_FAILURES or known.takeovers > MOST_TAKEOVERS:
            assert isinstance(answer, Over)
            assert (answer.record.status, answer.record.sealed) == (State.FAILED, False)
            known.state, known.unsealed, known.settled = State.FAILED, True, answer.record.fence
            self.is_new(known, answer.record.fence)
            return
        known.attempts += 1
        assert isinstance(answer, Run)
        assert (answer.attempt, answer.failures, answer.taken_from) == (known.attempts, known.failures, lost)
        known.state, known.holder = State.PROCESSING, Given(wish.task_id, wish, worker, self.alive[worker], answer)
        self.given.append(known.holder)
        self.is_new(known, answer.fence)

    def is_new(self, known: Known, fence: str) -> None:
        numbers = [tuple(map(int, each.split("."))) for each in [*known.fences, fence]]
        assert numbers == sorted(set(numbers)), "a fence is higher than all before"
        known.fences.append(fence)

    # -- the word of those who were given something --------------------------------------------------------------------

    @precondition(lambda self: self.given)
    @rule(
        data=st.data(),
        state=st.sampled_from([State.QUEUED, State.SCHEDULED, State.QUEUED, State.SUCCESS, State.FAILED]),
        last=st.booleans(),
    )
    def accept(self, data: st.DataObject, state: State, last: bool) -> None:
        given = self.given[-1] if last else data.draw(st.sampled_from(self.given))
        failed = state is not State.SUCCESS
        (answer,) = self.bench.exchange(
            given.worker, accepts=[Accept(given.task, given.run.fence, state, 5, failed=failed)]
        ).accepts
        known = self.known.get(given.task)
        if known is not None and known.holder is given:
            assert answer is not None
            known.state, known.holder, known.settled = state, None, given.run.fence
            known.failures += failed
            known.unsealed = state is not State.QUEUED
            known.generation += state is State.SCHEDULED
        else:  # the same word again, as long as Kafka may not have it; anything else is refused
            repeated = known is not None and known.settled == given.run.fence
            counts = repeated and known is not None and (known.unsealed or known.state is State.QUEUED)
            assert (answer is not None) == counts

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def seal(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(sorted(self.known)))
        known = self.known[task]
        fence = data.draw(st.sampled_from(known.fences or ["0.0"]))
        (answer,) = self.bench.exchange("w1", seals=[Seal(task, fence)]).seals
        counts = known.settled == fence and known.state in (*FINAL, State.SCHEDULED)
        assert answer == counts
        if counts:
            known.unsealed = False
            known.ended_mono = self.bench.now_ms() if known.state in FINAL else None

    @precondition(lambda self: self.given)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        given = data.draw(st.sampled_from(self.given))
        self.bench.exchange(given.worker, releases=[Release(given.task, given.run.fence)])
        known = self.known.get(given.task)
        if known is not None and known.holder is given:
            known.state, known.holder = State.QUEUED, None
            known.attempts -= 1

    @rule(by_ms=st.sampled_from([1, TTL_MS // 2, TTL_MS]))
    def time_passes(self, by_ms: int) -> None:
        """Leases hold; what was sealed long ago is forgotten."""
        self.bench.pass_ms(by_ms)
        for worker in self.alive:
            self.bench.beat(worker)
        now = self.bench.now_ms()
        for task, known in list(self.known.items()):
            if known.ended_mono is not None and now - known.ended_mono >= TTL_MS:
                del self.known[task]
                self.given = [given for given in self.given if given.task != task]

    @invariant()
    def the_ledger_says_the_same(self) -> None:
        for task in ("a", "b"):
            (record,) = self.bench.ledger.records([task])
            known = self.known.get(task)
            assert (record is None) == (known is None)
            if record is not None and known is not None:
                assert (record.status, record.attempts, record.failures, record.generation, record.final) == (
                    known.state,
                    known.attempts,
                    known.failures,
                    known.generation,
                    known.state in FINAL and not known.unsealed,
                )


TestClaims = Claims.TestCase
TestClaims.settings = settings(max_examples=100, stateful_step_count=40)
