"""What every ledger does with heartbeats: they are the lease (protocol rule C6)."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from ledger_bench import HOUR_MS, Bench

from yadtq.ledger import Elsewhere, Pulse, Run
from yadtq.ledger.protocol import FORGET_MS


def test_a_beat_tells_everything_about_its_worker(bench: Bench) -> None:
    assert bench.beat("w1", topic="q", partitions=[2, 0, 1], host="a", pid=7) is Pulse.ALIVE
    worker = bench.worker("w1")
    assert (worker.name, worker.status, worker.topic, list(worker.partitions), worker.host, worker.pid) == (
        "w1",
        "ALIVE",
        "q",
        [0, 1, 2],
        "a",
        7,
    )
    assert worker.incarnation == bench.incarnations["w1"]
    assert worker.age_ms < HOUR_MS


def test_workers_come_in_the_order_of_their_names(bench: Bench) -> None:
    bench.start("b", "a", "ä")
    assert [worker.name for worker in bench.ledger.workers()] == ["a", "b", "w1", "w2", "ä"]


def test_a_worker_without_partitions_has_an_empty_list_of_them(bench: Bench) -> None:
    bench.beat("w1", partitions=[])
    assert list(bench.worker("w1").partitions) == []


@pytest.mark.parametrize("name", ['"quoted" \\ {}', "line\nbreak", "snow ☃ 𝔊", "%d%s%1"])
def test_any_name_and_incarnation_can_beat(bench: Bench, name: str) -> None:
    assert bench.beat(name, name, first=True, host=name, topic=name) is Pulse.ALIVE
    assert bench.beat(name, name) is Pulse.ALIVE
    assert (bench.worker(name).incarnation, bench.worker(name).name) == (name, name)
    bench.ledger.leave(name, name)
    assert bench.worker(name).status == "DEAD"


def test_a_beat_makes_the_age_small_again(bench: Bench) -> None:
    bench.pass_ms(30)
    assert bench.worker("w1").age_ms >= 30
    before = bench.worker("w1").last_heartbeat_ms
    bench.beat("w1")
    assert bench.worker("w1").last_heartbeat_ms >= before + 30


def test_a_late_beat_is_told_that_it_was_dead_and_writes_nothing(bench: Bench) -> None:
    bench.lose("w1")
    before = bench.worker("w1").last_heartbeat_ms
    assert bench.beat("w1") is Pulse.DEAD
    assert bench.worker("w1").last_heartbeat_ms == before
    assert bench.worker("w1").status == "DEAD"


def test_a_dead_worker_goes_on_as_a_new_incarnation(bench: Bench) -> None:
    bench.lose("w1")
    dead = bench.incarnations["w1"]
    assert bench.beat("w1", "reborn", replaces=dead) is Pulse.ALIVE
    assert bench.beat("w1", "reborn", replaces=dead) is Pulse.ALIVE  # its answer may be lost
    assert bench.beat("w1", dead) is Pulse.SUPERSEDED
    assert isinstance(bench.claim("w1"), Run) or bench.incarnations["w1"] == dead


def test_a_new_incarnation_takes_over_what_the_dead_one_held(bench: Bench) -> None:
    bench.run("w1")
    bench.lose("w1")
    assert bench.beat("w1", "reborn", replaces=bench.incarnations["w1"]) is Pulse.ALIVE
    assert bench.run("w1").taken_from == "w1"


def test_a_first_beat_supersedes_a_living_process_of_the_same_name(bench: Bench) -> None:
    bench.run("w1")
    old = bench.incarnations["w1"]
    bench.start("w1")
    assert bench.beat("w1", old) is Pulse.SUPERSEDED
    assert bench.run("w2").taken_from == "w1"


def test_a_superseded_process_cannot_come_back_as_a_new_incarnation(bench: Bench) -> None:
    old = bench.incarnations["w1"]
    bench.start("w1")
    assert bench.beat("w1", "reborn", replaces=old) is Pulse.SUPERSEDED


def test_a_beat_after_a_wipe_is_taken(bench: Bench) -> None:
    bench.wipe()
    assert bench.beat("w1") is Pulse.ALIVE


def test_what_a_worker_that_left_held_can_be_taken_at_once(bench: Bench) -> None:
    bench.run("w1")
    assert bench.claim("w2") == Elsewhere("w1")
    bench.ledger.leave("w1", bench.incarnations["w1"])
    assert bench.worker("w1").status == "DEAD"
    assert bench.run("w2").taken_from == "w1"


def test_a_worker_that_left_has_to_begin_anew(bench: Bench) -> None:
    bench.ledger.leave("w1", bench.incarnations["w1"])
    assert bench.beat("w1") is Pulse.DEAD
    bench.start("w1")
    assert bench.worker("w1").status == "ALIVE"


def test_an_old_incarnation_cannot_say_that_the_new_one_left(bench: Bench) -> None:
    old = bench.incarnations["w1"]
    bench.start("w1")
    bench.ledger.leave("w1", old)
    bench.ledger.leave("stranger", old)
    assert bench.worker("w1").status == "ALIVE"


def test_whoever_looks_may_bring_a_delay_of_his_own(bench: Bench) -> None:
    bench.pass_ms(20)
    assert bench.worker("w1", allowed_ms=19).status == "DEAD"
    assert bench.worker("w1", allowed_ms=HOUR_MS).status == "ALIVE"
    assert bench.worker("w1").status == "ALIVE"  # its own lease


def test_only_a_look_that_marks_writes_the_status(bench: Bench) -> None:
    bench.beat("w1", partitions=[])
    bench.pass_ms(20)
    bench.ledger.workers(19)
    assert bench.written_status("w1") == "ALIVE"
    bench.ledger.workers(19, mark=True)
    assert bench.written_status("w1") == "DEAD"
    assert list(bench.worker("w1").partitions) == []
    bench.ledger.workers(mark=True)
    assert bench.written_status("w1") == "ALIVE"


def test_who_left_is_told_from_who_fell_silent(bench: Bench) -> None:
    assert not bench.worker("w1").left
    bench.lose("w2")
    bench.ledger.leave("w1", bench.incarnations["w1"])
    assert [(at.name, at.status, at.left) for at in bench.ledger.workers(mark=True)] == [
        ("w1", "DEAD", True),
        ("w2", "DEAD", False),
    ]
    bench.start("w1")
    assert not bench.worker("w1").left


def test_a_mark_takes_no_life(bench: Bench) -> None:
    bench.pass_ms(20)
    bench.ledger.workers(19, mark=True)
    assert bench.beat("w1") is Pulse.ALIVE
    assert isinstance(bench.claim("w1"), Run)


def test_a_worker_that_left_is_written_as_dead(bench: Bench) -> None:
    bench.ledger.leave("w1", bench.incarnations["w1"])
    assert bench.written_status("w1") == "DEAD"
    bench.ledger.workers(mark=True)
    assert bench.written_status("w1") == "DEAD"


def test_workers_that_were_silent_for_a_day_are_dropped_by_a_mark(bench: Bench) -> None:
    bench.age_worker("w1", FORGET_MS + 1)
    assert [worker.name for worker in bench.ledger.workers()] == ["w1", "w2"]
    bench.start("w2")
    assert [worker.name for worker in bench.ledger.workers(mark=True)] == ["w2"]
    assert [worker.name for worker in bench.ledger.workers()] == ["w2"]


def test_of_many_claims_at_once_one_runs(bench: Bench) -> None:
    names = [f"racer-{at}" for at in range(8)]
    bench.start(*names)
    wishes = {name: bench.wish() for name in names}
    line = threading.Barrier(len(names))

    def race(name: str) -> bool:
        line.wait()
        return isinstance(bench.claim(name, wishes[name]), Run)

    with ThreadPoolExecutor(len(names)) as pool:
        assert sum(pool.map(race, names)) == 1
    assert bench.record().attempts == 1
