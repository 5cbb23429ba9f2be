"""What every ledger announces: each task as it becomes final, to everybody who listens."""

import threading
from collections.abc import Sequence

import pytest
from ledger_bench import Bench, RedisBench

from waiting import eventually
from yadtq.ledger import Batch, Seal
from yadtq.states import State


class Listener:
    """Somebody who listens, and what it was told."""

    def __init__(self, bench: Bench) -> None:
        self.told: list[str] = []
        self.batches: list[Sequence[str]] = []
        self.heard: list[bool] = []
        self._lock = threading.Lock()
        self.ear = bench.ledger.listen(self._ids, self.heard.append)

    def _ids(self, task_ids: Sequence[str]) -> None:
        with self._lock:
            self.batches.append(task_ids)
            self.told += task_ids

    def hears(self, times: int = 1) -> "Listener":
        eventually(lambda: self.heard.count(True) >= times)
        return self


def end(bench: Bench, task_id: str) -> None:
    run = bench.run("w1", bench.wish(task_id))
    bench.accept(run, State.SUCCESS, task_id)
    assert bench.seal(run, task_id)


def test_the_seal_is_announced_and_the_record_is_final_by_then(bench: Bench) -> None:
    finals: list[bool] = []
    listener = Listener(bench).hears()
    watcher = bench.ledger.listen(lambda ids: finals.extend(bench.record(at).final for at in ids), lambda _: None)
    run = bench.run("w1")
    bench.accept(run)
    assert listener.told == []
    bench.seal(run)
    eventually(lambda: listener.told == ["t"])
    assert False not in finals
    watcher.close()
    listener.ear.close()


def test_seals_of_one_batch_are_announced_together(bench: Bench) -> None:
    listener = Listener(bench).hears()
    runs = {task_id: bench.run("w1", bench.wish(task_id)) for task_id in ("a", "b", "c")}
    for task_id, run in runs.items():
        bench.accept(run, State.SUCCESS, task_id)
    seals = [Seal(task_id, run.fence) for task_id, run in runs.items()]
    bench.ledger.exchange("q", "w1", bench.incarnations["w1"], Batch(seals=seals))
    eventually(lambda: [list(batch) for batch in listener.batches] == [["a", "b", "c"]])
    listener.ear.close()


def test_a_refused_seal_and_a_retry_are_not_announced(bench: Bench) -> None:
    listener = Listener(bench).hears()
    run = bench.run("w1")
    assert not bench.seal(run)
    bench.accept(run, State.SCHEDULED, wait_ms=1_000)
    bench.seal(run)
    end(bench, "last")
    eventually(lambda: "last" in listener.told)
    assert listener.told == ["last"]
    listener.ear.close()


def test_everybody_is_told_and_a_closed_ear_is_not(bench: Bench) -> None:
    one, other = Listener(bench).hears(), Listener(bench).hears()
    other.ear.close()
    end(bench, "t")
    eventually(lambda: one.told == ["t"])
    assert other.told == []
    one.ear.close()


@pytest.mark.real
def test_a_connection_that_breaks_is_said_and_comes_back(real: RedisBench) -> None:
    listener = Listener(real).hears()
    real.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")  # type: ignore[no-untyped-call]
    eventually(lambda: listener.heard == [True, False, True])
    end(real, "t")
    eventually(lambda: listener.told == ["t"])
    listener.ear.close()
