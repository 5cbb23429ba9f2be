"""Children start, are replaced and end: with their worker at the latest, whatever ends it."""

import contextlib
import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest
from runner_app import lines
from runner_bench import LIMIT_BYTES, Bench, alive, leased, staged

from waiting import eventually
from yadtq.attempt import Attempt, Ending
from yadtq.catalogue import Catalogue, Rules
from yadtq.errors import SettingsError
from yadtq.runners import groups, minder
from yadtq.runners.pool import PoolRunner

HERE = Path(__file__).parent


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with staged(tmp_path, monkeypatch) as bench:
        yield bench


@pytest.mark.parametrize("task", ["with_family", "hold_the_interpreter"])
def test_a_killed_worker_leaves_nothing_behind_for_longer_than_a_second(
    bench: Bench, tmp_path: Path, task: str
) -> None:
    witness = tmp_path / "witness"
    arguments = [str(witness)] + ([bench.gate.path] if task == "with_family" else [])
    worker = subprocess.Popen([sys.executable, str(HERE / "pool_owner.py"), task, *arguments])
    with contextlib.ExitStack() as stack:
        stack.callback(worker.wait)
        stack.callback(worker.kill)
        started = [int(pid) for pid in eventually(lambda: lines(witness), 60)[0].split()]
        family = {process.pid for process in psutil.Process(worker.pid).children(recursive=True)}
        assert set(started) <= family
        assert len(family) >= 3  # two runners and the minder
        worker.kill()
        eventually(lambda: not any(alive(pid) for pid in family), 1)


def test_a_child_loads_no_client_and_no_framework(bench: Bench) -> None:
    with bench.pool(runners=1, slots=1, limit_bytes=100_000) as pool:
        loaded = json.loads(bench.run(pool, bench.attempt("loaded")).result or b"[]")
    assert {"msgspec", "runner_app"} <= set(loaded)
    assert not {"confluent_kafka", "redis", "fastapi", "pydantic", "multiprocessing"} & set(loaded)


def test_programs_that_user_code_starts_can_be_ended_as_usual(bench: Bench) -> None:
    with bench.pool(runners=1, slots=1) as pool:
        os.kill(pool.pids[0], signal.SIGTERM)
        os.kill(pool.pids[0], signal.SIGINT)
        assert json.loads(bench.run(pool, bench.attempt("signals")).result or b"[]") == ["", "-15"]
        assert not [kind for kind, _ in bench.events if kind == "runner_died"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "import nothing_of_this_name",
            "module 'late' cannot be imported: ModuleNotFoundError: No module named 'nothing_of_this_name'\n"
            "  late.py:1: import nothing_of_this_name",
        ),
        (
            "import sys\nsys.exit(3)",
            "module 'late' cannot be imported: it ends the process, by SystemExit(3)\n  late.py:2: sys.exit(3)",
        ),
        ("x = 1", "late has no yadtq.App named 'app'; write module:app"),
        ("import os\nos._exit(9)", "it ended by itself with exit code 9 before it was ready"),
    ],
)
def test_an_app_that_cannot_be_imported_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("late.py").write_text(source)
    with pytest.raises(SettingsError) as caught:
        PoolRunner("late:app", 2, 1, lambda _: None, LIMIT_BYTES)
    assert str(caught.value) == f"the runners cannot import late:app: {said}"


def minders(pid: int) -> list[psutil.Process]:
    """The minders of a worker that run."""
    return [child for child in psutil.Process(pid).children() if is_minder(child)]


def is_minder(process: psutil.Process) -> bool:
    try:
        return minder.__file__ in process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


def test_a_killed_worker_leaves_nothing_behind_though_its_minder_was_killed_before_it(
    bench: Bench, tmp_path: Path
) -> None:
    witness = tmp_path / "witness"
    command = [sys.executable, str(HERE / "pool_owner.py"), "with_family", str(witness), bench.gate.path]
    said = tmp_path / "said"
    with said.open("w") as output, subprocess.Popen(command, stdout=output) as worker:
        try:
            started = {int(pid) for pid in eventually(lambda: lines(witness), 60)[0].split()}
            (first,) = minders(worker.pid)
            first.kill()
            eventually(lambda: "minder_lost" in lines(said))
            family = {process.pid for process in psutil.Process(worker.pid).children(recursive=True)}
            assert started <= family
        finally:
            worker.kill()
        eventually(lambda: not any(alive(pid) for pid in family), 1)


def test_a_minder_that_was_killed_is_told_and_has_one_successor_each_time(bench: Bench) -> None:
    others = minders(os.getpid())
    with bench.pool(runners=1, slots=1) as pool:
        for times in (1, 2):
            (minder_now,) = (process for process in minders(os.getpid()) if process not in others)
            minder_now.kill()
            eventually(partial(bench.has_said, "minder_lost", times))
            assert "the minder was ended by signal 9; process" in bench.said("minder_lost")[-1]
            assert not minder_now.is_running(), "it is buried"
        assert bench.run(pool, bench.attempt("double", 2)).result == b"4"
    eventually(lambda: minders(os.getpid()) == others)
    assert len(bench.said("minder_lost")) == 2, "one that is let go is not told"


def test_where_no_minder_can_be_started_that_is_told_and_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = minders(os.getpid())
    with bench.pool(runners=1, slots=1) as pool, monkeypatch.context() as patch:
        (first,) = (process for process in minders(os.getpid()) if process not in others)
        patch.setattr(groups, "_start", Mock(side_effect=OSError(errno.EAGAIN, "no room")))
        first.kill()
        said = eventually(lambda: bench.said("minder_lost"))
        assert "no other could be started: [Errno 11] no room" in said[0]
        os.kill(pool.pids[0], signal.SIGKILL)  # meanwhile runners come and go as ever
        assert bench.run(pool, bench.attempt("double", 2)).result == b"4"
        patch.undo()
        eventually(lambda: "has taken its place" in bench.said("minder_lost")[-1])


def test_a_pool_without_runners_or_slots_is_refused() -> None:
    with pytest.raises(SettingsError):
        PoolRunner("runner_app:app", 0, 1, lambda _: None, LIMIT_BYTES)


class Load:
    """Keeps a pool as busy as it likes with tasks that say that they ran."""

    def __init__(self, bench: Bench, pool: PoolRunner, witness: Path) -> None:
        self.bench, self.pool, self.witness = bench, pool, str(witness)
        self.attempts: list[Attempt] = []

    def more(self) -> None:
        for _ in range(self.pool.room()):
            self.attempts.append(attempt := self.bench.attempt("witnessed", self.witness, len(self.attempts)))
            self.pool.start([attempt])

    def while_not(self, done: object) -> None:
        def turn() -> bool:
            self.more()
            return bool(callable(done) and done())

        eventually(turn, 60)

    def ran_exactly_once(self) -> None:
        outcomes = self.bench.all_of(self.attempts)
        assert {outcome.ending for outcome in outcomes} == {Ending.RETURNED}
        seen = Counter(lines(Path(self.witness)))
        assert seen == Counter(f"{word} {n}" for word in ("start", "end") for n in range(len(self.attempts)))
        assert not self.bench.recalled


def test_runners_are_replaced_under_load_without_a_duplicate_or_a_loss(bench: Bench, tmp_path: Path) -> None:
    with bench.pool(runners=2, slots=4) as pool:
        load, before = Load(bench, pool, tmp_path / "witness"), set(pool.pids)
        load.while_not(lambda: len(bench.outcomes) > 500)
        pool.replace()
        load.while_not(lambda: len(pool.pids) == 2 and not before & set(pool.pids))
        load.ran_exactly_once()
        eventually(lambda: not any(alive(pid) for pid in before))
        became = {"runner_started": 4, "runner_ended": 2, "reloaded": 1}
        eventually(lambda: Counter(kind for kind, _ in bench.events) == became)
        assert bench.said("reloaded") == [f"all runners have the code as it is now: {pool.pids[0]}, {pool.pids[1]}"]


def test_it_is_told_that_all_runners_are_replaced_when_those_of_tasks_that_run_alone_are_too(bench: Bench) -> None:
    with bench.pool(runners=1, slots=1) as pool:
        assert bench.run(pool, bench.alone("nothing")).ending is Ending.RETURNED
        old = {*pool.pids, *pool.solo_pids}
        assert len(old) == 2
        pool.replace()
        eventually(lambda: bench.said("reloaded"), 30)
        assert not old & {*pool.pids, *pool.solo_pids}


def test_a_replaced_runner_finishes_what_it_has_started(bench: Bench) -> None:
    with bench.pool(runners=1, slots=1) as pool:
        held, old = bench.attempt("wait", bench.gate.path), pool.pids[0]
        pool.start([held])
        eventually(lambda: held.number in bench.started)
        pool.replace()
        eventually(lambda: pool.pids and pool.pids != [old])
        assert bench.run(pool, bench.attempt("whereabouts")).result != b"%d" % old
        bench.gate.open()
        assert bench.outcome(held).result == b"%d" % old
        eventually(lambda: not alive(old))


def test_new_code_that_cannot_be_imported_leaves_the_old_runners_at_work(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = Path("code_of_ours.py")
    code.write_text("import yadtq\napp = yadtq.App('q')\n@app.task\ndef which() -> int:\n    return 1\n")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # versions of the same second would share their byte code
    pool = leased(PoolRunner("code_of_ours:app", 1, 1, bench.sink, LIMIT_BYTES, on_event=bench.note))
    try:
        good = code.read_text()
        code.write_text("oops(")
        pool.replace()
        failed = eventually(lambda: [text for kind, text in bench.events if kind == "runner_failed"], 30)
        said = (
            r"runner \d+ could not start; those that are there go on with the code that they have: "
            r"module 'code_of_ours' cannot be imported: SyntaxError: .* \(code_of_ours.py, line 1\)\n"
            r"  code_of_ours.py:1: oops\("
        )
        assert re.fullmatch(said, failed[0])
        assert bench.run(pool, bench.attempt("which")).result == b"1"
        code.write_text(good.replace("return 1", "return 2"))
        os.kill(pool.pids[0], signal.SIGKILL)
        eventually(lambda: bench.run(pool, bench.attempt("which")).result == b"2", 30)
        assert not bench.said("reloaded"), "that one was given up"
        code.write_text(good.replace("return 1", "return 3"))
        pool.replace()
        eventually(lambda: bench.run(pool, bench.attempt("which")).result == b"3", 30)
        eventually(lambda: bench.has_said("reloaded", 1))
    finally:
        pool.kill()


def test_the_worker_goes_by_new_code_when_all_of_its_runners_have_it(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, told, ready_before = Path("code_of_ours.py"), list[Sequence[Rules]](), list[int]()

    def hear(tasks: Sequence[Rules]) -> None:
        ready_before.append(len(bench.said("runner_started")))
        told.append(tasks)

    good = "import yadtq\napp = yadtq.App('q')\n@app.task\ndef one() -> int:\n    return 1\n"
    code.write_text(good)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    pool = leased(PoolRunner("code_of_ours:app", 2, 1, bench.sink, LIMIT_BYTES, on_event=bench.note, on_tasks=hear))
    try:
        eventually(lambda: len(told) == 2)  # the second runner too has read what is about to be changed
        assert [rules.name for rules in told[-1]] == ["one"]
        policy = "yadtq.RetryPolicy(base_s=2, cap_s=9, give_up_on=(KeyError,))"
        code.write_text(f"{good}@app.task(time_limit_s=7, retry={policy})\ndef two() -> int:\n    return 2\n")
        pool.replace()
        eventually(lambda: len(told) > 2, 30)
        assert ready_before == [0, 1, 3], "not before the last of them was ready"
        catalogue = Catalogue(told[-1])
        assert catalogue.names == ["one", "two"]
        two = catalogue.get("two")
        assert two is not None
        assert (two.limits.time_limit_s, two.retry.base_s, two.retry.cap_s) == (7, 2, 9)
        assert catalogue.is_solo("two")
        assert not catalogue.is_solo("one")
        assert bench.run(pool, bench.attempt("two")).result == b"2"
    finally:
        pool.kill()


def test_a_pool_whose_code_is_broken_has_no_room_says_why_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bench: Bench
) -> None:
    monkeypatch.chdir(tmp_path)
    code = Path("code_of_ours.py")
    good = "import yadtq\napp = yadtq.App('q')\n@app.task\ndef one() -> int:\n    return 1\n"
    code.write_text(good)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    pool = leased(PoolRunner("code_of_ours:app", 1, 1, bench.sink, LIMIT_BYTES, on_event=bench.note))
    try:
        code.write_text("oops(")
        os.kill(pool.pids[0], signal.SIGKILL)
        eventually(lambda: Counter(kind for kind, _ in bench.events)["runner_failed"] >= 3, 30)
        assert pool.room() == 0
        early = bench.attempt("one")
        pool.start([early])
        code.write_text(good)
        assert bench.outcome(early).result == b"1"
        eventually(lambda: pool.room() == 1)  # more for a moment, where the task was neither quick nor slow
    finally:
        pool.kill()


def test_a_runner_is_replaced_after_its_number_of_tasks(bench: Bench, tmp_path: Path) -> None:
    with bench.pool(runners=1, slots=2, max_tasks=50) as pool:
        load, first = Load(bench, pool, tmp_path / "witness"), pool.pids
        load.while_not(lambda: Counter(kind for kind, _ in bench.events)["runner_ended"] >= 2)
        assert pool.pids != first
        load.ran_exactly_once()
        assert "tasks, with a cap of 50: it is replaced" in bench.said("runner_replaced")[0]


def test_a_runner_that_holds_too_much_memory_is_replaced(bench: Bench, tmp_path: Path) -> None:
    with bench.pool(runners=2, slots=1, max_memory_mb=300) as pool:
        first = pool.pids
        assert bench.run(pool, bench.attempt("swell", 10)).ending is Ending.RETURNED
        assert bench.run(pool, bench.attempt("swell", 400)).ending is Ending.RETURNED
        load = Load(bench, pool, tmp_path / "witness")
        load.while_not(lambda: len(pool.pids) == 2 and pool.pids != first)
        load.while_not(lambda: sum(alive(pid) for pid in first) == 1)
        load.ran_exactly_once()
        assert "MiB, with a cap of 300: it is replaced" in bench.said("runner_replaced")[0]
        assert not bench.said("runner_died")


def test_what_does_not_end_in_a_runner_over_its_memory_is_killed_with_the_reason(bench: Bench, tmp_path: Path) -> None:
    with bench.pool(runners=1, slots=2, max_memory_mb=300) as pool:
        first = pool.pids
        held = bench.attempt("wait", bench.gate.path)
        pool.start([held])
        assert bench.run(pool, bench.attempt("swell", 400)).ending is Ending.RETURNED
        died = bench.outcome(held)  # 4.6 s on a machine with nothing else to do
        assert died.ending is Ending.DIED
        assert "MiB, with a cap of 300, did not end within 3.5 s and was killed, " in (died.error_log or "")
        assert not alive(first[0])
        assert bench.run(pool, bench.attempt("double", 2)).result == b"4"


def test_a_runner_over_its_memory_does_not_wait_for_a_successor_that_cannot_start(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = Path("code_of_ours.py")
    code.write_text("from runner_app import app")
    pool = leased(PoolRunner("code_of_ours:app", 1, 2, bench.sink, LIMIT_BYTES, on_event=bench.note, max_memory_mb=300))
    try:
        first = pool.pids
        code.write_text("oops(" + " " * 100)
        assert bench.run(pool, bench.attempt("swell", 400)).ending is Ending.RETURNED
        eventually(lambda: not alive(first[0]))
        assert bench.said("runner_failed")
        late = bench.attempt("double", 2)
        pool.start([late])
        code.write_text("from runner_app import app")
        assert bench.outcome(late).result == b"4"
    finally:
        pool.kill()


def test_a_cap_that_the_app_alone_is_over_is_refused(bench: Bench) -> None:
    with pytest.raises(SettingsError, match=r"before its first task; the cap of 5 must be above that"):
        PoolRunner("runner_app:app", 1, 1, lambda _: None, LIMIT_BYTES, max_memory_mb=5)


def test_after_a_close_every_child_is_gone(bench: Bench) -> None:
    with bench.pool(runners=2, slots=1) as pool:
        pids = pool.pids
        assert pool.close(5)
        assert not any(alive(pid) for pid in pids)
        assert pool.room() == 0
        late = bench.attempt("nothing")
        pool.start([late])
        assert bench.recalled == [late.number]


def test_a_killed_pool_ends_what_runs(bench: Bench) -> None:
    with bench.pool(runners=1, slots=1) as pool:
        held = bench.attempt("wait", bench.gate.path)
        pool.start([held])
        eventually(lambda: held.number in bench.started)
        pids = pool.pids
        pool.kill()
        assert not alive(pids[0])
        assert bench.outcome(held).ending is Ending.DIED
