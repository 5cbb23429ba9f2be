"""The ledgers against the table of legal moves, and against each other in any order of moves."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from ledger_bench import HOUR_MS, TTL_S, Bench, MemoryBench, RedisBench, redis_bench

from opening import open_ledger
from yadtq.codec import OutcomeRecord
from yadtq.ledger import (
    Accept,
    Answer,
    Batch,
    Claim,
    Elsewhere,
    Errand,
    Held,
    NewTask,
    Over,
    Refusal,
    Release,
    Resend,
    Run,
    Seal,
    Stale,
    TaskRecord,
)
from yadtq.states import TRANSITIONS, State

FIRST: dict[State, Callable[[Bench], str]] = {}  # brings a task into a state, returns its fence


def first(state: State) -> Callable[[Callable[[Bench], str]], Callable[[Bench], str]]:
    def add(function: Callable[[Bench], str]) -> Callable[[Bench], str]:
        FIRST[state] = function
        return function

    return add


@first(State.QUEUED)
def _queued(bench: Bench) -> str:
    run = bench.run("w1")
    bench.release(run)
    return run.fence


@first(State.SCHEDULED)
def _scheduled(bench: Bench) -> str:
    run = bench.run("w1")
    bench.accept(run, State.SCHEDULED, wait_ms=5)
    return run.fence


@first(State.PROCESSING)
def _processing(bench: Bench) -> str:
    return bench.run("w1").fence


@first(State.SUCCESS)
def _success(bench: Bench) -> str:
    run = bench.run("w1")
    bench.accept(run)
    return run.fence


@first(State.FAILED)
def _failed(bench: Bench) -> str:
    run = bench.run("w1")
    bench.accept(run, State.FAILED)
    return run.fence


def every_move(bench: Bench, fence: str) -> list[Callable[[], object]]:
    """Every move there is, as seen from a task whose present fence is this one."""

    def exchange(**moves: Any) -> Callable[[], object]:
        return lambda: bench.exchange("w2", **moves)

    def take_over() -> None:
        bench.lose("w1")
        bench.claim("w2")

    def fire() -> None:  # its retry is in Kafka, and its tombstone too
        bench.exchange("w2", seals=[Seal("t", fence)])
        bench.ledger.due.put("q", 0, 0, 1, [], ["0:t", "1:t"])

    return [
        lambda: bench.ledger.queued([NewTask("t", "add", "q", 1, 7, 5)]),
        exchange(claims=[bench.wish(generation=1)]),
        exchange(claims=[bench.wish(refusal="unknown", generation=1)]),
        exchange(claims=[bench.wish(tries=9, generation=1)]),
        exchange(releases=[Release("t", fence)]),
        exchange(seals=[Seal("t", fence)]),
        *(exchange(accepts=[Accept("t", fence, state, failed=False)]) for state in State if state != State.PROCESSING),
        take_over,
        fire,
    ]


def test_all_moves_together_make_exactly_the_legal_transitions(empty_ledger: Bench) -> None:
    seen: dict[State, set[State]] = {state: set() for state in State}
    for state, bring in FIRST.items():
        for number in range(len(every_move(empty_ledger, ""))):
            empty_ledger.wipe()
            open_ledger(empty_ledger.ledger, "q")
            empty_ledger.start("w1", "w2")
            fence = bring(empty_ledger)
            before = empty_ledger.record()
            every_move(empty_ledger, fence)[number]()
            after = empty_ledger.record()
            assert before.status is state
            if (after.status, after.fence) != (before.status, before.fence):
                seen[state].add(after.status)
    assert seen == TRANSITIONS


TASKS = st.sampled_from(["a", "b", "c"])
WORKERS = st.sampled_from(["w1", "w2"])
STATES = st.sampled_from([State.SUCCESS, State.FAILED, State.QUEUED, State.SCHEDULED])
Seen = tuple[object, ...]


class Twins(RuleBasedStateMachine):
    """Both ledgers get the same moves and must say the same. Times and epochs are their own and are left out."""

    real: RedisBench  # set by the test

    def __init__(self) -> None:
        super().__init__()
        self.memory = MemoryBench()
        self.benches: tuple[Bench, Bench] = (self.memory, self.real)
        self.epochs: dict[Bench, list[str]] = {bench: [] for bench in self.benches}
        self.fences: list[tuple[str, dict[Bench, str]]] = []  # every fence there ever was, with its task
        self.wishes: list[Claim] = []

    @initialize()
    def begin(self) -> None:
        self.wipe(opened=True)

    @rule(opened=st.booleans())
    def wipe(self, opened: bool) -> None:
        for bench in self.benches:
            bench.wipe()
            bench.incarnations.clear()
            if opened:
                open_ledger(bench.ledger, "q")
            for name in ("w1", "w2"):
                bench.beat(name, f"{name}-0", first=True)

    def both(self, move: Callable[[Bench], object], *, legal: bool = True) -> object:
        """Make a move on both; the answers and all records must be equal. legal: a step of a task's life, as all are
        but those that read in what Kafka knows."""
        before = self.memory.ledger.records(["a", "b", "c"])
        answers = [move(bench) for bench in self.benches]
        assert answers[0] == answers[1]
        views = [self.view(bench) for bench in self.benches]
        assert views[0] == views[1]
        for old, new in zip(before, self.memory.ledger.records(["a", "b", "c"]), strict=True):
            if legal:
                assert_legal(old, new)
        return answers[0]

    def view(self, bench: Bench) -> Seen:
        records = [self.plain(bench, record) for record in bench.ledger.records(["a", "b", "c"])]
        workers = [(worker.name, worker.status, worker.incarnation) for worker in bench.ledger.workers()]
        return (records, workers, [bench.ttl_s(name) is None for name in ("a", "b", "c")], bench.ledger.runs())

    def plain(self, bench: Bench, record: TaskRecord | None) -> Seen | None:
        if record is None:
            return None
        known = (record.task_id, record.status, record.sealed, record.task_type, record.attempts, record.worker)
        times = (record.queued_at_ms, record.started_at_ms is None, record.finished_at_ms is None)
        where = (record.result, record.error_log, record.topic, record.partition, record.offset)
        counts = (record.generation, record.failures, record.deaths, record.not_before_ms > 0)
        return (*known, *times, *where, *counts, self.plain_fence(bench, record.fence))

    def plain_fence(self, bench: Bench, fence: str) -> tuple[int, str]:
        epoch, _, counter = fence.partition(".")
        epochs = self.epochs[bench]
        if epoch not in epochs:
            epochs.append(epoch)
        return (epochs.index(epoch), counter)

    def plain_answer(self, bench: Bench, answer: Answer) -> object:
        if isinstance(answer, Run):
            numbers = (answer.attempt, answer.failures, answer.deaths)
            return (self.plain_fence(bench, answer.fence), *numbers, answer.taken_from)
        if isinstance(answer, Over | Resend):
            return self.plain(bench, answer.record)
        return answer

    @rule()
    def open(self) -> None:
        self.both(lambda bench: open_ledger(bench.ledger, "q"))

    @rule(task=TASKS, worker=WORKERS, counter=st.integers(1, 3), generation=st.integers(0, 2))
    def register(self, task: str, worker: str, counter: int, generation: int) -> None:
        fence = f"1.{counter}"
        attempt = Held(task, fence, "mul", 3, 4, 5, 2, 1, 0, generation, 6)

        def move(bench: Bench) -> bool:
            return bench.ledger.register("q", worker, bench.incarnations.get(worker, "-"), [attempt]) is None

        if not self.both(move, legal=False):
            self.fences.append((task, dict.fromkeys(self.benches, fence)))

    @rule(
        task=TASKS,
        state=st.sampled_from([State.SUCCESS, State.FAILED, State.SCHEDULED]),
        fence=st.sampled_from(["1.1", "1.2", "1.3", "2.1", "?"]),
        finished_at_ms=st.sampled_from([8, 2**50]),
    )
    def restore(self, task: str, state: State, fence: str, finished_at_ms: int) -> None:
        at = 9 if state is State.SCHEDULED else 0
        outcome = OutcomeRecord(
            task_id=task,
            task_type="add",
            state=state,
            attempts=2,
            fence=fence,
            finished_at_ms=None if at else finished_at_ms,
            generation=int(at > 0),
            not_before_ms=at,
            failures=1,
        )

        def move(bench: Bench) -> object:
            errand = bench.ledger.take("q", "r", 0)
            written = bench.ledger.restore("q", "r", [outcome], absent_only=errand is Errand.READ)
            bench.ledger.drop("q", "r")
            return errand, written

        self.both(move, legal=False)
        self.fences.append((task, dict.fromkeys(self.benches, fence)))

    @rule()
    def lose_writes(self) -> None:
        self.memory.ledger.forget_writes("q")
        self.real.client.delete(self.real.layout.writes("q"))

    @rule(task=TASKS)
    def queue(self, task: str) -> None:
        self.both(lambda bench: bench.ledger.queued([NewTask(task, "add", "q", 0, 1, 2)]))

    @rule(
        task=TASKS,
        worker=WORKERS,
        tries=st.integers(0, 3),
        most=st.integers(1, 3),
        refusal=st.sampled_from(["", "", "", "no"]),
        generation=st.integers(0, 2),
        in_doubt=st.booleans(),
    )
    def claim(
        self, task: str, worker: str, tries: int, most: int, refusal: str, generation: int, in_doubt: bool
    ) -> None:
        token = f"token-{len(self.wishes)}"
        self.wishes.append(Claim(task, token, "mul", 3, 4, 5, tries, most, refusal, generation, in_doubt))
        self.send_claim(worker, self.wishes[-1])

    @rule(data=st.data(), worker=WORKERS)
    def claim_again(self, data: st.DataObject, worker: str) -> None:
        if self.wishes:
            self.send_claim(worker, data.draw(st.sampled_from(self.wishes)))

    def send_claim(self, worker: str, wish: Claim) -> None:
        fences: dict[Bench, str] = {}

        def move(bench: Bench) -> object:
            (answer,) = bench.exchange(worker, claims=[wish]).claims
            if isinstance(answer, Run | Over):
                fences[bench] = answer.fence if isinstance(answer, Run) else answer.record.fence
            assert not isinstance(answer, Elsewhere) or bench.worker(answer.worker).status == "ALIVE"
            return self.plain_answer(bench, answer)

        answer = self.both(move)
        if fences:
            self.fences.append((wish.task_id, fences))
        assert fences or isinstance(answer, Elsewhere | Refusal | Stale | tuple)

    @rule(
        data=st.data(),
        state=STATES,
        failed=st.booleans(),
        died=st.booleans(),
        result=st.sampled_from([None, b"", b"3"]),
        again=TASKS,
    )
    def accept(
        self, data: st.DataObject, state: State, failed: bool, died: bool, result: bytes | None, again: str
    ) -> None:
        if self.fences:
            task, fences = data.draw(st.sampled_from(self.fences))
            log = None if again == "a" else again

            def move(bench: Bench) -> list[bool]:
                accept = Accept(task, fences[bench], state, 5, failed, died, result, log)
                return [at is None for at in bench.exchange("w1", accepts=[accept]).accepts]

            self.both(move)

    @rule(data=st.data())
    def seal(self, data: st.DataObject) -> None:
        if self.fences:
            task, fences = data.draw(st.sampled_from(self.fences))
            self.both(lambda bench: bench.exchange("w1", seals=[Seal(task, fences[bench])]).seals)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.fences:
            task, fences = data.draw(st.sampled_from(self.fences))
            self.both(
                lambda bench: list(
                    bench.ledger.exchange("q", "-", "-", Batch(releases=[Release(task, fences[bench])])).accepts
                )
            )

    @rule(task=TASKS, generation=st.integers(0, 2))
    def tombstone(self, task: str, generation: int) -> None:
        def move(bench: Bench) -> int:
            (place,) = bench.ledger.due.places("q", [0])
            return bench.ledger.due.put("q", 0, place.upto, place.upto + 1, [], [f"{generation}:{task}"]).upto

        self.both(move)

    @rule(worker=WORKERS)
    def lose(self, worker: str) -> None:
        if self.memory.worker(worker).status == "ALIVE":
            self.both(lambda bench: bench.lose(worker))

    @rule(worker=WORKERS, number=st.integers(0, 3), first=st.booleans(), replaces=st.integers(-1, 3))
    def beat(self, worker: str, number: int, first: bool, replaces: int) -> None:
        old = "" if replaces < 0 else f"{worker}-{replaces}"
        self.both(lambda bench: bench.beat(worker, f"{worker}-{number}", HOUR_MS, first=first, replaces=old, topic="q"))

    @rule(worker=WORKERS, number=st.integers(0, 3))
    def leave(self, worker: str, number: int) -> None:
        self.both(lambda bench: bench.ledger.leave(worker, f"{worker}-{number}"))

    @rule(producer=st.sampled_from(["p", "q"]), ended=st.booleans(), left=st.booleans())
    def run_beat(self, producer: str, ended: bool, left: bool) -> None:
        self.both(lambda bench: bench.ledger.run_beat("q", producer, ended=ended, left=left))

    @rule(number=st.integers(0, 3))
    def run_close(self, number: int) -> None:
        self.both(lambda bench: bench.ledger.run_close("q", number))


def assert_legal(old: TaskRecord | None, new: TaskRecord | None) -> None:
    if old is None or new is None:
        assert old is None
        return
    assert old.status is new.status or new.status in TRANSITIONS[old.status]
    assert not old.sealed or new == old
    assert new.attempts >= old.attempts or (old.status, new.status) == (State.PROCESSING, State.QUEUED)
    assert int(new.fence.partition(".")[2] or 0) >= int(old.fence.partition(".")[2] or 0)


@pytest.mark.real
def test_the_memory_ledger_answers_like_redis_in_any_order_of_moves(redis_url: str, prefix: str) -> None:
    with redis_bench(redis_url, prefix) as bench:

        class Machine(Twins):
            real = bench

        run_state_machine_as_test(Machine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None))


def test_a_sealed_record_is_gone_after_its_time() -> None:
    bench = MemoryBench()
    open_ledger(bench.ledger, "q")
    bench.start("w1")
    run = bench.run("w1")
    bench.accept(run)
    bench.pass_ms(10 * TTL_S * 1000)
    bench.seal(run)
    bench.pass_ms(TTL_S * 1000 - 1)
    assert bench.record().final
    bench.pass_ms(1)
    assert bench.ledger.records(["t"]) == [None]
