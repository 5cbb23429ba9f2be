"""With either protocol of Kafka groups a joiner gets its share, a killed worker's partitions move, nothing is lost."""

import pytest
from drama import Stage

from yadtq.states import State

pytestmark = pytest.mark.real
QUICK = [f"quick{n}" for n in range(8)]
VICTIMS = [f"victim{n}" for n in range(4)]
LATER = [f"later{n}" for n in range(8)]


@pytest.mark.parametrize(("protocol", "bound_s"), [("classic", 3), ("consumer", 6)])
def test_shares_and_take_overs(stage: Stage, protocol: str, bound_s: int) -> None:
    first = stage.worker("first", "--partitions", "4", "--protocol", protocol)
    first.says(rf"recovery_bound .*protocol {protocol}: a killed worker's partitions move after {bound_s} s$")
    stage.until(lambda: list(stage.partitions_of("first")) == [0, 1, 2, 3])
    stage.submit(*((name, "add", 1, 2) for name in QUICK))
    assert set(stage.until_final(QUICK).values()) == {State.SUCCESS}
    second = stage.worker("second", "--protocol", protocol)
    stage.until(lambda: len(stage.partitions_of("first")) == len(stage.partitions_of("second")) == 2)
    assert {*stage.partitions_of("first"), *stage.partitions_of("second")} == {0, 1, 2, 3}

    stage.submit(*((name, "nap", 2) for name in VICTIMS))
    with stage.observed():
        running = {name: stage.until_running(name).pid for name in VICTIMS}
        died = {name for name, pid in running.items() if pid == first.pid}
        assert len(died) == 2
        first.kill()
        stage.submit(*((name, "add", 3, 4) for name in LATER))  # not before: one could be running when it is killed
        stage.until(lambda: list(stage.partitions_of("second")) == [0, 1, 2, 3])
        assert set(stage.until_final([*VICTIMS, *LATER]).values()) == {State.SUCCESS}
        stage.until_committed(dict.fromkeys(range(4), 5))
    account = stage.account().check(duplicated=died)
    assert {account.of_task(name)[-1].pid for name in died} == {second.pid}


def test_a_session_that_kafka_would_not_take_is_said_at_once(stage: Stage) -> None:
    worker = stage.worker("hasty", "--partitions", "1", "--allowed", "0.5")
    worker.says(r"takes sessions of 1 to 1800 s, not 0.5 s; choose another --allowed")
    worker.leaves(1)
