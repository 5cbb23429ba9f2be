"""A worker is cut off from Kafka, and not from Redis: another takes its partitions, and nothing runs twice."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from drama import Stage
from proxy import Proxy, between

from yadtq.dev import kafka_node, port
from yadtq.dev.services import Services
from yadtq.states import State

pytestmark = pytest.mark.real
RUNNING = ["running0", "running1"]  # one in each partition
MEANWHILE = [f"meanwhile{n}" for n in range(8)]
LATER = [f"later{n}" for n in range(8)]
TAKEN_OVER_S = 15.0
SAID_S = 15.0  # 8 where the machine has nothing else to do


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A way to Kafka. A client goes to the address that Kafka tells it, so Kafka has a listener that tells this one."""
    number = port.choose([], taken=[])
    with between(f"127.0.0.1:{number}") as proxy:
        lines = kafka_node.PROPERTIES
        for setting, more in (
            ("listeners=", f"FAR://127.0.0.1:{number}"),
            ("advertised.listeners=", f"FAR://{proxy.address}"),
            ("listener.security.protocol.map=", "FAR:PLAINTEXT"),
        ):
            lines = lines.replace(f"\n{setting}", f"\n{setting}{more},")
        monkeypatch.setattr(kafka_node, "PROPERTIES", lines)
        yield proxy


@pytest.fixture
def stage(proxy: Proxy, prefix: str, tmp_path: Path) -> Iterator[Stage]:
    """A queue on a Kafka that was started with the other listener."""
    with (
        Services.started(tmp_path / "services") as services,
        Stage(services.kafka, services.redis, prefix, tmp_path) as stage,
    ):
        yield stage


def test_its_partitions_move_and_nothing_runs_twice(proxy: Proxy, stage: Stage) -> None:
    stage.create(partitions=2)
    cut_off = stage.worker("cut-off", "--runners", "1", "--kafka", proxy.address)
    other = stage.worker("other", "--runners", "1")
    stage.until_each_has(1, "cut-off", "other")
    with stage.observed():
        stage.submit(*((name, "nap", 2.0) for name in RUNNING))
        firsts = {name: stage.until_running(name) for name in RUNNING}
        moved = stage.partitions_of("cut-off")[0]
        proxy.cut()
        cut_s = time.time()
        stage.submit(*((name, "nap", 0.1) for name in MEANWHILE))
        cut_off.says("unavailable Kafka does not answer: nothing has come from it for")
        assert time.time() - cut_s < SAID_S
        assert set(stage.until_final([*RUNNING, *MEANWHILE]).values()) == {State.SUCCESS}
        other.says(f"assigned partition {moved}")
        assert time.time() - cut_s < TAKEN_OVER_S
        cut_off.says(f"lost partition {moved}")
        stage.until(lambda: stage.partitions_of("cut-off") == ())  # by its next beat
        proxy.heal()
        stage.until(lambda: len(stage.partitions_of("cut-off")) == 1, TAKEN_OVER_S)
        stage.submit(*((name, "nap", 0.1) for name in LATER))
        assert set(stage.until_final(LATER).values()) == {State.SUCCESS}
        stage.until_drained()
    for worker in (cut_off, other):
        worker.interrupt()
        worker.leaves(0)
    account = stage.account().check(duplicated=set())
    assert {run.pid for run in account.runs if run.task_id in RUNNING} == {run.pid for run in firsts.values()}
    assert {account.outcomes[name][0].worker for name in LATER} == {"cut-off", "other"}
    assert not cut_off.said("reborn"), "its beats go to Redis, and Redis was there"
