"""A task submits tasks: its worker publishes them, under ids that are the same when it runs twice."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from runner_app import app, lines
from runner_bench import LIMIT_BYTES, Bench, leased, staged

from waiting import eventually
from yadtq.attempt import Attempt, Ending
from yadtq.envelope import MAX_ID_CHARS
from yadtq.errors import BrokerUnavailable, Fenced, SubmitError, SubmitUnknown, TooLarge, YadtqError
from yadtq.runners import InlineRunner, Runner
from yadtq.runners.frames import Submitted, decode_to_child, error_of, failure_of, frame_of
from yadtq.runners.pool import PoolRunner
from yadtq.runners.submits import THREADS
from yadtq.task import Call


class Press:
    """Publishes, as the test wishes."""

    def __init__(self) -> None:
        self.published: list[tuple[Attempt, Sequence[Call]]] = []
        self.error: Exception | None = None
        self.open = threading.Event()
        self.open.set()
        self.threads: set[str] = set()

    def __call__(self, attempt: Attempt, calls: Sequence[Call]) -> list[str]:
        self.threads.add(threading.current_thread().name)
        self.open.wait(60)
        if self.error is not None:
            raise self.error
        self.published.append((attempt, calls))
        return [call.options.task_id or "none" for call in calls]

    @property
    def ids(self) -> list[str]:
        return [call.options.task_id or "none" for _, calls in self.published for call in calls]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with staged(tmp_path, monkeypatch) as bench:
        yield bench


@pytest.fixture
def press() -> Press:
    return Press()


def inline(bench: Bench, press: Press) -> Runner:
    return leased(InlineRunner(app.registry, 8, bench.sink, LIMIT_BYTES, publish=press))


def pool(bench: Bench, press: Press) -> Runner:
    return leased(PoolRunner("runner_app:app", 1, 8, bench.sink, LIMIT_BYTES, publish=press))


@pytest.fixture(params=[inline, pool])
def runner(request: pytest.FixtureRequest, bench: Bench, press: Press) -> Iterator[Runner]:
    made: Runner = request.param(bench, press)
    yield made
    press.open.set()
    bench.gate.open()
    assert made.close(30)


def ran(bench: Bench, runner: Runner, attempt: Attempt) -> Any:
    outcome = bench.run(runner, attempt)
    assert outcome.ending is Ending.RETURNED, outcome.error_log
    return json.loads(outcome.result or b"null")


def failed(bench: Bench, runner: Runner, attempt: Attempt) -> str:
    outcome = bench.run(runner, attempt)
    assert outcome.ending is Ending.RAISED
    return outcome.error_log or ""


def again(bench: Bench, attempt: Attempt) -> Attempt:
    """The next attempt of the same task."""
    return replace(bench.attempt("nothing"), task_id=attempt.task_id, task_type=attempt.task_type, args=attempt.args)


@pytest.mark.parametrize("task", ["parent", "parent_async", "parent_of_many"])
def test_what_a_task_submits_is_published_by_its_worker_in_its_name(
    runner: Runner, bench: Bench, press: Press, task: str
) -> None:
    attempt = bench.attempt(task, 4, 5, 5)
    ids = ran(bench, runner, attempt)
    assert ids == press.ids
    assert len(set(press.ids)) == 3, "the same call twice is two tasks"
    assert {published.number for published, _ in press.published} == {attempt.number}
    calls = [call for _, calls in press.published for call in calls]
    assert sorted(call.args for call in calls) == [b"[4]", b"[5]", b"[5]"]
    assert {call.task_type for call in calls} == {"double_async" if task == "parent_async" else "double"}
    assert not any(name.startswith(("yadtq-crew", "yadtq-slot", "yadtq-loop")) for name in press.threads)


@pytest.mark.parametrize("task", ["parent", "parent_async", "parent_of_many"])
def test_a_task_that_runs_twice_submits_the_same_tasks(runner: Runner, bench: Bench, press: Press, task: str) -> None:
    first = bench.attempt(task, 4, 5, 5)
    ids = ran(bench, runner, first)
    assert ran(bench, runner, again(bench, first)) == ids
    other = ran(bench, runner, bench.attempt(task, 4, 5, 5))
    assert not set(press.ids[:3]) & set(press.ids[6:]), "another task's children are its own"
    assert isinstance(other, list)


def test_in_another_order_or_number_the_same_calls_keep_their_ids(runner: Runner, bench: Bench, press: Press) -> None:
    first = bench.attempt("parent", 1, 2)
    ids = ran(bench, runner, first)
    assert isinstance(ids, list)
    later = replace(again(bench, first), args=b"[3, 2, 1]")
    three, two, one = ran(bench, runner, later)
    assert [one, two] == ids
    assert three not in ids


def test_an_id_and_options_of_ones_own_win(runner: Runner, bench: Bench, press: Press) -> None:
    assert ran(bench, runner, bench.attempt("parent_of_chosen", "mine")) == "mine"
    ((_, (call,)),) = press.published
    assert call.options.key == "k"
    assert call.options.queue == "elsewhere"
    assert call.options.max_attempts == 7


def test_ids_stay_within_their_length_however_deep_the_tree(runner: Runner, bench: Bench, press: Press) -> None:
    parent = replace(bench.attempt("parent", 1), task_id="p" * MAX_ID_CHARS)
    sibling = replace(bench.attempt("parent", 1), task_id="p" * (MAX_ID_CHARS - 1) + "q")
    for attempt in (parent, sibling):
        (made,) = ran(bench, runner, attempt)
        assert made.startswith("ppp")
        assert len(made) <= MAX_ID_CHARS
    assert len(set(press.ids)) == 2


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TooLarge(300_000, 262_144), "TooLarge: the task takes 300,000 bytes and the limit is 262,144"),
        (SubmitUnknown("t", "silence", ["t"], ["t"]), "SubmitUnknown: no delivery report for task 't' (silence)"),
        (SubmitError("Kafka refused"), "SubmitError: Kafka refused"),
        (Fenced("t1", 3), "Fenced: attempt 3 of task 't1' does not count any more"),
        (BrokerUnavailable("no Kafka"), "BrokerUnavailable: no Kafka"),
    ],
)
def test_what_goes_wrong_is_raised_in_the_task(
    runner: Runner, bench: Bench, press: Press, error: Exception, said: str
) -> None:
    press.error = error
    for task in ("parent", "parent_async"):
        assert said in failed(bench, runner, bench.attempt(task, 1))
    press.error = None
    assert ran(bench, runner, bench.attempt("parent", 1)) == press.ids


def test_wrong_arguments_of_a_call_are_an_error_of_the_task_that_makes_it(
    runner: Runner, bench: Bench, press: Press
) -> None:
    assert "InvalidArguments: arguments of task 'double' do not fit" in failed(
        bench, runner, bench.attempt("bad_parent")
    )
    assert not press.published


@pytest.mark.parametrize("how", ["status", "result"])
def test_a_task_does_not_wait_for_another_one(runner: Runner, bench: Bench, how: str) -> None:
    said = failed(bench, runner, bench.attempt("curious_parent", how))
    assert "NotInsideTask: a task cannot look at another task" in said


def test_a_blocked_publish_holds_up_nothing_but_who_submits(runner: Runner, bench: Bench, press: Press) -> None:
    press.open.clear()
    parents = bench.attempts(THREADS + 2, "parent", 1)
    runner.start(parents)
    eventually(lambda: {attempt.number for attempt in parents} <= set(bench.started))
    others = bench.attempts(500, "double", 2)
    for other in others:
        runner.start([other])
    bench.all_of(others)
    assert not {attempt.number for attempt in parents} & set(bench.outcomes)
    press.open.set()
    assert {outcome.ending for outcome in bench.all_of(parents)} == {Ending.RETURNED}
    assert len(press.published) == len(parents)


def test_without_a_way_to_publish_a_submit_says_so(bench: Bench) -> None:
    runners: list[Callable[[], Runner]] = [
        lambda: InlineRunner(app.registry, 1, bench.sink, LIMIT_BYTES),
        lambda: PoolRunner("runner_app:app", 1, 1, bench.sink, LIMIT_BYTES),
    ]
    for make in runners:
        runner = leased(make())
        assert "NotInsideTask: tasks cannot submit tasks here" in failed(bench, runner, bench.attempt("parent", 1))
        assert runner.close(30)


def test_a_child_opens_no_connection_whatever_its_code_tries(bench: Bench, press: Press) -> None:
    with bench.pool(runners=1, slots=2, limit_bytes=100_000, publish=press) as pool:
        said = ran(bench, pool, bench.attempt("parent_with_a_thread"))
        assert isinstance(said, str)
        assert said.startswith("NotInsideTask: a process that runs tasks opens no connection")
        assert said.count("NotInsideTask") == 1, "with its context a thread may submit"
        assert len(press.published) == 1
        ran(bench, pool, bench.attempt("parent_async", 1))
        loaded = ran(bench, pool, bench.attempt("loaded"))
    assert not {"confluent_kafka", "redis"} & set(loaded)


def test_what_goes_on_after_its_task_has_ended_publishes_nothing(bench: Bench, press: Press, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    with bench.pool(runners=1, slots=1, publish=press) as pool:
        ran(bench, pool, bench.attempt("parent_that_leaves_something", str(witness)))
        eventually(lambda: lines(witness) == ["Fenced"])
    assert not press.published


def test_an_error_of_ours_keeps_its_facts_on_the_way() -> None:
    for error in (TooLarge(2, 1), SubmitUnknown("t", "why", ["t", "u"], ["u"]), Fenced("t", 2), ValueError("x")):
        sent = frame_of(Submitted(1, [], failure_of(error)))
        read = decode_to_child(bytes(sent[4:]))
        assert isinstance(read, Submitted)
        assert read.failure is not None
        found = error_of(read.failure)
        if isinstance(error, YadtqError):
            assert (type(found), str(found), vars(found)) == (type(error), str(error), vars(error))
        else:
            assert str(found) == "ValueError: x"
