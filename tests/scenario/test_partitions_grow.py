"""A queue gets more partitions while workers run and tasks come: the new ones are served, and nothing is lost."""

import sys

import pytest
from drama import GROUP, QUEUE, Stage

from yadtq.states import State

pytestmark = pytest.mark.real


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_new_partitions_are_served_while_the_workers_run(
    stage: Stage, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yadtq.publisher.PARTITIONS_FRESH_S", 0.0)  # who submits sees them at once
    workers = [stage.worker(name, "--partitions", "4", "--protocol", protocol) for name in ("first", "second")]
    stage.until(lambda: all(len(stage.partitions_of(worker.name)) == 2 for worker in workers))
    before = [f"before{n}" for n in range(8)]
    with stage.observed():
        stage.submit(*((name, "add", 1, 2) for name in before))
        command = [sys.executable, "-m", "yadtq", "queue", "grow", QUEUE, "8", "--group", GROUP]
        grow = stage.enter("grow", command)
        grow.says(f"{QUEUE} has 8 partitions now, 4 before")
        grow.leaves(0)
        after = [f"after{n}" for n in range(16)]
        stage.submit(*((name, "add", 3, 4) for name in after))
        assert set(stage.until_final(before + after).values()) == {State.SUCCESS}
        stage.until(lambda: all(len(stage.partitions_of(worker.name)) == 4 for worker in workers))
        stage.until_committed({**dict.fromkeys(range(4), 4), **dict.fromkeys(range(4, 8), 2)})
    assert all(worker.alive for worker in workers)
    assert stage.app.broker.partitions()[stage.topics.outcomes] == 4
    account = stage.account().check(duplicated=set())
    assert len(account.published) == 24
