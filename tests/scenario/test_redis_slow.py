"""Redis takes up to two seconds to answer: all goes on, slower; nothing runs twice and no worker is taken for DEAD."""

import os
import random
import signal

import pytest
from drama import Stage
from proxy import between

from yadtq.states import State

pytestmark = pytest.mark.real
NAMES = [f"t{n}" for n in range(60)]
SLOW_S = (0.2, 2.0)


def test_a_slow_redis_slows_down_and_breaks_nothing(stage: Stage, redis_url: str) -> None:
    rng = random.Random(int(os.environ.get("YADTQ_SEED") or 1))
    delays: list[float] = []

    def delay_s() -> float:
        delays.append(rng.uniform(*SLOW_S))
        return delays[-1]

    stage.create(partitions=4)
    with between(redis_url, delay_s) as proxy:
        workers = [
            stage.worker(name, "--runners", "1", "--allowed", "10", "--redis", proxy.address) for name in ("one", "two")
        ]
        for worker in workers:
            worker.says("assigned partition")
        before = len(delays)
        with stage.observed():
            stage.submit(*((name, "nap", 0.05) for name in NAMES))
            assert set(stage.until_final(NAMES).values()) == {State.SUCCESS}
            stage.until_drained()
        assert len(delays) - before >= 20, "Redis was hardly asked: void"
        for worker in workers:
            worker.signal(signal.SIGTERM)
            worker.leaves(0)
    account = stage.account().check(duplicated=set())
    assert {outcomes[0].worker for outcomes in account.outcomes.values()} == {"one", "two"}
    for worker in workers:
        assert worker.said("reborn|taken_over|refused|not_left|unavailable") == []
