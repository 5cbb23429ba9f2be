"""What only the ledger in Redis has to get right."""

import json
import select
import threading
from collections.abc import Iterator

import pytest
from ledger_bench import RedisBench, redis_bench

from opening import open_ledger
from yadtq.errors import LedgerFull, LedgerUnavailable
from yadtq.layout import RUN_TTL_S, Layout
from yadtq.ledger import NewTask, Pulse, Run, connect
from yadtq.ledger.redis import RedisLedger
from yadtq.settings import load
from yadtq.states import State

pytestmark = pytest.mark.real


@pytest.fixture
def full(real: RedisBench) -> Iterator[RedisBench]:
    """A Redis that has no room for anything."""
    real.client.config_set("maxmemory", 1)
    try:
        yield real
    finally:
        real.client.config_set("maxmemory", 0)


def test_partitions_lie_in_redis_as_a_list_also_when_there_are_none(real: RedisBench) -> None:
    real.beat("w1", partitions=[])
    real.pass_ms(5)
    real.ledger.workers(1, mark=True)
    assert (real.written("w1")["partitions"], real.written("w1")["status"]) == ([], "DEAD")
    real.ledger.leave("w1", real.incarnations["w1"])
    assert (real.written("w1")["partitions"], real.written("w1")["left"]) == ([], True)


def test_a_heartbeat_lies_in_redis_as_plain_json_under_the_workers_name(real: RedisBench) -> None:
    real.beat("w1", topic="q", partitions=[3, 1], host="a", pid=7, order="key")
    written = real.written("w1")
    assert abs(written.pop("last_heartbeat_ms") - real.now_ms()) < 60_000
    assert written == {
        "status": "ALIVE",
        "left": False,
        "incarnation": real.incarnations["w1"],
        "lease_ms": 3_600_000,
        "topic": "q",
        "partitions": [1, 3],
        "host": "a",
        "pid": 7,
        "order": "key",
    }


def test_every_key_stands_under_the_prefix(real: RedisBench) -> None:
    real.run("w1")
    real.ledger.run_beat("q", "p1")
    prefix = real.layout.prefix
    keys = {key.decode() for key in real.client.scan_iter(f"{prefix}*")}
    names = ("yadtq:task:t", "all_heartbeats", "yadtq:epoch:q", "yadtq:read:q", "yadtq:writes:q", "yadtq:runs")
    assert keys == {f"{prefix}{name}" for name in names}


def test_runs_expire(real: RedisBench) -> None:
    real.ledger.run_beat("q", "p1")
    assert RUN_TTL_S - 60 < real.client.ttl(real.layout.runs) <= RUN_TTL_S


def test_a_full_redis_still_takes_heartbeats(full: RedisBench) -> None:
    assert full.beat("w1") is Pulse.ALIVE
    full.ledger.leave("w1", full.incarnations["w1"])
    assert full.beat("w1") is Pulse.DEAD


def test_a_full_redis_refuses_claims_as_unavailable(full: RedisBench) -> None:
    with pytest.raises(LedgerFull, match="is full and refuses what is new"):
        full.claim("w1")
    with pytest.raises(LedgerFull):  # who has nothing to ask hears of it too, and of its end
        full.exchange("w1")
    assert full.ledger.records(["t"]) == [None]


def test_a_full_redis_still_shows_its_workers(full: RedisBench) -> None:
    assert [worker.name for worker in full.ledger.workers()] == ["w1"]


def test_a_full_redis_still_seals_so_that_records_can_expire(real: RedisBench) -> None:
    run = real.run("w1")
    real.accept(run)
    real.client.config_set("maxmemory", 1)
    try:
        assert real.seal(run)
    finally:
        real.client.config_set("maxmemory", 0)
    assert real.ttl_s() is not None


def test_a_server_that_forgot_the_scripts_gets_them_again(real: RedisBench) -> None:
    run = real.run("w1", real.wish("a"))
    real.client.script_flush()
    assert real.accept(run, task_id="a", result=b"3")
    real.client.script_flush()
    assert real.beat("w1") is Pulse.ALIVE
    assert isinstance(real.claim("w1", real.wish("b")), Run)


def test_a_connection_that_was_cut_while_it_rested_costs_no_error(
    real: RedisBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yadtq.ledger.redis_line.REST_S", 0.0)
    real.ledger.runs()
    kept = real.ledger._line._connection._sock  # type: ignore[attr-defined]
    real.client.client_kill_filter(_type="normal", skipme=True)
    assert select.select([kept], [], [], 10)[0], "the server did not close it: void"
    real.ledger.runs()


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_one(
    real: RedisBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real.ledger.queued([NewTask("a", "t", "q", 0, 0, 1)])
    line = real.ledger._line  # type: ignore[attr-defined]

    def interrupted() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(line._connection, "read_response", interrupted)
        with pytest.raises(KeyboardInterrupt):
            real.ledger.run_beat("q", "p1")
    assert real.beat("w1") is Pulse.ALIVE


def test_many_threads_ask_at_once_and_each_gets_its_own_answer(real: RedisBench) -> None:
    wrong: list[object] = []

    def some(worker: int) -> None:
        for n in range(50):
            number = real.ledger.run_beat(f"q{worker}.{n}", "p1").number
            topics = real.ledger.runs()
            if f"q{worker}.{n}" not in topics or number != 1:
                wrong.append((worker, n, number))
            real.ledger.queued([NewTask(f"{worker}.{n}", "t", "q", 0, 0, 1)])

    threads = [threading.Thread(target=some, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert None not in real.ledger.records([f"{worker}.{n}" for worker in range(8) for n in range(50)])


def test_more_records_than_a_script_takes_are_all_written(real: RedisBench) -> None:
    tasks = [NewTask(f"m{n}", "t", "q", 0, n, 1) for n in range(4_321)]
    real.ledger.queued(tasks)
    records = real.ledger.records([task.task_id for task in tasks])
    assert [record and record.offset for record in records] == list(range(4_321))
    real.ledger.queued([])


def test_two_clients_agree(real: RedisBench) -> None:
    other = RedisLedger(real.proxy.url, "shown", real.layout, 60)
    open_ledger(other, "q")
    run = real.run("w1")
    (record,) = other.records(["t"])
    assert record is not None
    assert record.fence == run.fence
    other.close()


def test_a_server_that_is_not_there_is_unavailable_and_named_without_secrets() -> None:
    ledger = RedisLedger("redis://:secret@127.0.0.1:1/0", "redis://:***@127.0.0.1:1/0", Layout(), 60)
    for move in (lambda: open_ledger(ledger, "q"), ledger.runs, ledger.workers, lambda: ledger.records(["t"])):
        with pytest.raises(LedgerUnavailable, match=r"redis://:\*\*\*@127.0.0.1:1/0") as caught:
            move()
        assert "secret" not in str(caught.value)


def test_settings_lead_to_a_ledger(redis_url: str, prefix: str) -> None:
    address = redis_url.removeprefix("redis://").removesuffix("/0")
    ledger = connect(load(redis=address, environ={"YADTQ_PREFIX": prefix}))
    assert ledger.workers() == []
    ledger.close()


def test_a_record_with_a_state_of_its_own_value_lies_in_redis_as_text(real: RedisBench) -> None:
    run = real.run("w1")
    real.accept(run, State.FAILED, error_log="a\n\tb")
    found = real.client.hgetall(real.layout.task("t"))
    assert (found[b"status"], found[b"error_log"], found[b"failures"]) == (b"FAILED", b"a\n\tb", b"1")


def test_another_prefix_sees_nothing(real: RedisBench, redis_url: str) -> None:
    real.run("w1")
    with redis_bench(redis_url, f"other-{real.layout.prefix}") as other:
        assert other.ledger.records(["t"]) == [None]
        assert other.ledger.workers() == []
    assert json.loads(real.client.hget(real.layout.heartbeats, "w1") or b"{}")
