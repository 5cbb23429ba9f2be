"""What a worker answers when it is asked how it is: yes only while it really consumes, else why not."""

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from stage import GROUP, Player, Stage

from yadtq.errors import SettingsError
from yadtq.health import STILL_S, Health, Parts
from yadtq.offsets import Position, write_bitmap
from yadtq.service import Service
from yadtq.settings import WorkerSettings
from yadtq.telemetry import EVENTS, Event, Telemetry


class Loop(Service):
    """A loop that has begun; it moves when the test says so."""

    alive = True


class Patient:
    """A worker on the memory ports and its health endpoint, which looks only when it is told to."""

    def __init__(self, partitions: int = 2) -> None:
        self.stage = Stage(partitions)
        self.telemetry = Telemetry()
        self.leaving = False
        self.player: Player = self.stage.player()
        self.loops = tuple(Loop(f"yadtq-{name}") for name in ("intake", "engine", "heartbeat"))
        self.health = Health(
            self.stage.broker,
            self.stage.ledger,
            "q",
            GROUP,
            WorkerSettings("w1", health="127.0.0.1:0"),
            self.telemetry,
            self.stage.clock,
            leaving=lambda: self.leaving,
        )

    def begin(self) -> "Patient":
        self.player.turn()
        self.health.watch(Parts(self.player.identity, self.player.intake, self.loops))
        self.health.look()
        return self

    def move(self, by_ms: int = 0) -> None:
        self.stage.clock.turn(by_ms)
        for loop in self.loops:
            loop.turns += 1
        for _ in range(2):  # the first may bring a new incarnation
            self.player.intake.turns += 1
            self.player.engine.turns += 1
            self.player.heartbeat.turn()

    @property
    def missing(self) -> list[str]:
        ready = self.health.ready()
        assert ready.ready == (not ready.missing)
        return ready.missing

    def get(self, path: str, host: str = "", method: str = "GET") -> tuple[int, str]:
        address = self.health.url.removeprefix("http://")
        connection = http.client.HTTPConnection(address, timeout=10)
        connection.request(method, path, headers={"Host": host or address})
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, text

    def ask(self, path: str) -> tuple[int, Any]:
        status, text = self.get(path)
        return status, json.loads(text)


@pytest.fixture
def patient() -> Iterator[Patient]:
    patient = Patient()
    yield patient
    if patient.health.alive:
        patient.health.stop()
        assert patient.health.join(10)
    else:
        patient.health._server.server_close()


def test_a_worker_that_consumes_is_ready(patient: Patient) -> None:
    assert patient.begin().missing == []


def test_a_worker_that_has_not_begun_is_not_ready(patient: Patient) -> None:
    assert patient.missing == ["topic 'q' is not there yet, or Kafka was not asked yet"]


def test_a_worker_that_leaves_is_not_ready(patient: Patient) -> None:
    patient.begin().leaving = True
    assert patient.missing == ["the worker is leaving"]


def test_without_a_partition_it_is_not_ready(patient: Patient) -> None:
    patient.health.watch(Parts(patient.player.identity, patient.player.intake, patient.loops))
    patient.health.look()
    assert patient.missing == ["no partition is assigned"]


def test_with_more_workers_than_partitions_it_stands_by_and_is_ready(patient: Patient) -> None:
    others = [patient.stage.player(name) for name in ("w2", "w3")]
    for player in [*others, patient.player]:
        player.turn()
    patient.player.intake.assignments.clear()
    patient.health.watch(Parts(patient.player.identity, patient.player.intake, patient.loops))
    patient.health.look()
    assert patient.health.ready().standby
    assert patient.missing == []
    patient.stage.clock.turn(60_000)  # now the others are DEAD, and it should have their partitions
    patient.move()
    patient.health.look()
    assert patient.missing == ["no partition is assigned"]


@pytest.mark.parametrize("stuck", ["intake", "engine", "heartbeat"])
def test_a_loop_that_stands_still_is_named(patient: Patient, stuck: str) -> None:
    patient.begin()
    for _ in range(int(STILL_S) // 2 + 1):
        assert patient.missing == []
        before = [loop.turns for loop in patient.loops]
        patient.move(2_000)
        for loop, turns in zip(patient.loops, before, strict=True):
            if loop.name.endswith(stuck):
                loop.turns = turns
    assert patient.missing == [f"yadtq-{stuck} stands still"]
    patient.move()
    assert patient.missing == []


def test_loops_that_moved_since_nobody_asked_do_not_stand_still(patient: Patient) -> None:
    patient.begin()
    patient.move(3_600_000)
    patient.move()
    assert patient.missing == []


def test_a_loop_that_has_ended_is_named(patient: Patient) -> None:
    patient.begin()
    patient.loops[1].alive = False
    assert patient.missing == ["yadtq-engine has ended"]


def test_a_lease_that_is_over_is_not_ready(patient: Patient) -> None:
    patient.begin()
    patient.stage.clock.turn(10_001)
    for loop in patient.loops:
        loop.turns += 1
    assert patient.missing == ["no heartbeat was taken for 10 s: the lease is over"]


@pytest.mark.parametrize("store", ["Kafka", "Redis"])
def test_a_store_that_does_not_answer_is_named_until_it_does(patient: Patient, store: str) -> None:
    patient.begin()
    broken = patient.stage.broker if store == "Kafka" else patient.stage.ledger
    broken.down = True
    patient.health.look()
    assert patient.missing == [f"{store} does not answer"]
    broken.down = False
    patient.health.look()
    assert patient.missing == []


def test_the_stats_tell_lag_age_and_events(patient: Patient) -> None:
    patient.stage.publish("a", "b", "c", partition=1)
    patient.begin()
    where = patient.stage.broker.logs["q"][1][0].where
    patient.stage.broker.offsets[GROUP, where] = Position(0, write_bitmap({2}, 0))
    patient.telemetry.tell(Event("started"))
    patient.health.look()
    stats = patient.health.stats()
    assert (stats.name, stats.incarnation) == ("w1", patient.player.identity.incarnation)
    assert (stats.assigned, stats.lag) == ([0, 1], {0: 0, 1: 2})
    assert stats.events == {kind: int(kind == "started") for kind in EVENTS}


def test_the_oldest_unfinished_task_is_known_by_its_age(patient: Patient) -> None:
    patient.stage.publish("a", "b")
    oldest_ms = patient.stage.broker.logs["q"][0][0].timestamp_ms
    patient.begin()
    patient.stage.clock.turn(oldest_ms + 7_000 - patient.stage.clock.now_ms())
    assert patient.health.stats().oldest_unfinished_s == 7.0
    patient.move()
    for _ in range(3):  # what the old incarnation had claimed is given back, and the outcomes are read before it runs
        patient.player.work()
        patient.stage.clock.turn(1_000)
    assert patient.health.stats().oldest_unfinished_s == 0.0


def test_it_answers_over_http(patient: Patient) -> None:
    patient.health.start()
    assert patient.ask("/live") == (200, {"live": True})
    status, ready = patient.ask("/ready")
    assert (status, ready["ready"]) == (503, False)
    assert ready["missing"]
    patient.begin()
    assert patient.ask("/ready?x=1") == (200, {"ready": True, "missing": [], "standby": False})
    status, stats = patient.ask("/stats")
    assert (status, stats["topic"], stats["lag"]) == (200, "q", {"0": 0, "1": 0})
    status, text = patient.get("/metrics")
    assert status == 200
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert (samples["yadtq_ready"], samples["yadtq_assigned_partitions"]) == ("1", "2")
    assert samples['yadtq_lag{topic="q",partition="1"}'] == "0"
    assert samples['yadtq_events_total{kind="succeeded"}'] == "0"


def test_nothing_else_is_answered(patient: Patient) -> None:
    patient.health.start()
    assert patient.get("/")[0] == 404
    assert patient.get("/live", method="POST")[0] == 501
    assert patient.get("/live", host="evil.example")[0] == 400
    assert patient.get("/live", host="evil.example:80")[0] == 400
    assert patient.get("/live", host="[")[0] == 400


def test_a_port_that_is_taken_is_said(patient: Patient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings = WorkerSettings("w1", health=f"127.0.0.1:{port}")
        with pytest.raises(SettingsError, match=rf"cannot have port {port} on 127.0.0.1: .*give another"):
            Health(
                patient.stage.broker,
                patient.stage.ledger,
                "q",
                GROUP,
                settings,
                patient.telemetry,
                patient.stage.clock,
                leaving=bool,
            )
