"""What went wrong in others' use of the clients of Kafka and Redis, played on each port: each test names the bug."""

import time

import pytest
from broker_bench import BrokerBench
from ledger_bench import RedisBench

import yadtq.ledger.redis
from waiting import eventually
from yadtq.ledger import Run, Seal
from yadtq.offsets import Position


@pytest.mark.parametrize("wait", [True, False])
def test_kombu_the_end_of_one_message_commits_none_of_the_others_that_were_read(
    group_broker: BrokerBench, wait: bool
) -> None:
    """Its Kafka transport acknowledges with a bare `commit()`: of every partition all that was read, run or not."""
    broker = group_broker
    broker.create(2)
    for partition in (0, 1):
        broker.send(b"a", b"b", b"c", partition=partition)
    member = broker.join()
    member.read(6)
    member.consumer.commit({broker.at(0): Position(1, "")}, wait=wait)
    eventually(lambda: member.poll() is not None and member.answers, 30)
    assert broker.committed() == {broker.at(0): Position(1, "")}
    member.close()
    assert broker.committed() == {broker.at(0): Position(1, "")}, "something was committed by leaving"
    heir = broker.join()
    heir.read(5)
    assert (heir.values(0), heir.values(1)) == ([b"b", b"c"], [b"a", b"b", b"c"])


@pytest.mark.real
@pytest.mark.slow
def test_redis_py_4098_a_queue_that_is_idle_for_longer_than_an_answer_may_take_hears_and_works_on(
    real: RedisBench,
) -> None:
    """Since version 8 a read gives up after 5 s by default: who listened on an idle channel, or waited, was cut off."""
    told: list[str] = []
    heard: list[bool] = []
    ear = real.ledger.listen(told.extend, heard.append)
    eventually(lambda: heard == [True])
    idle_s = yadtq.ledger.redis.ANSWER_S + 1.0
    idle_until = time.monotonic() + idle_s
    eventually(lambda: time.monotonic() > idle_until, idle_s + 60)
    assert heard == [True]
    run = real.claim("w1")
    assert isinstance(run, Run)
    assert real.accept(run)
    assert real.exchange("w1", seals=[Seal("t", run.fence)]).seals == [True]
    eventually(lambda: told == ["t"])
    assert heard == [True]
    ear.close()
