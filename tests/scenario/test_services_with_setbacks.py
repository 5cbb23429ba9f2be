"""What goes wrong while services start is got over where it can be, and ends all of the start where it cannot."""

import shutil
import socket
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from yadtq_up import Folder

from waiting import eventually
from yadtq.dev import port, probe
from yadtq.dev.kafka_node import KafkaNode
from yadtq.dev.node import Launch, Node, Reporter
from yadtq.dev.process import Interrupt
from yadtq.dev.services import Services
from yadtq.dev.web_node import WebNode
from yadtq.errors import ServiceError

pytestmark = pytest.mark.real

WEB_APP = """
import http.server, os, sys
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/api/v1/queues" else 404)
        self.end_headers()
    def log_message(self, *_):
        pass
print("talks to", os.environ["YADTQ_KAFKA"], flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Page).serve_forever()
"""


def fresh(tmp_path: Path, *, web: bool = False) -> Services:
    return Services(tmp_path / "data", web=web, minded=True, usual_ports=False)


def test_a_port_that_is_lost_to_a_stranger_at_the_last_moment_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose, services = Services._choose_port, fresh(tmp_path)
    with socket.create_server((port.HOST, 0)) as stranger:
        lost = stranger.getsockname()[1]
        offers = [lost]

        def choose_lost_first(self: Services, node: Node) -> int:
            return offers.pop() if node.name == "redis" and offers else choose(self, node)

        monkeypatch.setattr(Services, "_choose_port", choose_lost_first)
        try:
            services.up()
            assert offers == []
            assert services.redis != f"redis://{port.HOST}:{lost}/0"
            assert {state.state for state in services.status()} == {"running"}
        finally:
            services.down()
    assert Folder(tmp_path).processes() == []


def test_an_archive_that_breaks_a_start_is_removed_and_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch, services, archive = KafkaNode.launch, fresh(tmp_path), tmp_path / "broken.jsa"
    archive.touch()

    def launch_with_archive(self: KafkaNode, number: int, reporter: Reporter, interrupt: Interrupt) -> Launch:
        normal = launch(self, number, reporter, interrupt)
        return replace(normal, command=["/bin/false"], suspect=archive) if archive.exists() else normal

    monkeypatch.setattr(KafkaNode, "launch", launch_with_archive)
    try:
        services.up()
        assert not archive.exists()
        assert services.status()[0].state == "running"
    finally:
        services.down()


def test_a_disk_that_is_nearly_full_stops_the_start_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=10**6))
    with pytest.raises(ServiceError, match=r"1 MB are free in .* and Kafka needs 500; make room"):
        fresh(tmp_path).up()
    assert Folder(tmp_path).processes() == []


def test_the_web_app_runs_beside_them_and_follows_when_kafka_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = [WEB_APP]

    def launch(self: WebNode, number: int, _reporter: Reporter, _interrupt: Interrupt) -> Launch:
        return Launch([sys.executable, "-c", programs[-1], str(number)], "a web app", self._environment)

    monkeypatch.setattr(WebNode, "launch", launch)
    services, log = fresh(tmp_path, web=True), tmp_path / "data/logs/web.log"
    try:
        assert services.up() == ["kafka", "redis", "web"]
        assert probe.http_status(int(services.web.rpartition(":")[2]), "/api/v1/queues") == 200
        assert log.read_text() == f"talks to {services.kafka}\n"

        services.kill("web")
        programs.append("raise SystemExit('the web app says why')")
        with pytest.raises(ServiceError, match=r"(?s)Web app ended while it was starting.*the web app says why"):
            services.up()
        assert {state.name: state.state for state in services.status()} == {"kafka": "running", "redis": "running"}
        programs.pop()
        assert services.up() == ["web"]

        services.kill_kafka()
        moved = int(services.kafka.rpartition(":")[2])
        with socket.create_server((port.HOST, moved)):
            assert services.up() == ["kafka", "web"]
        assert log.read_text().splitlines()[-1] == f"talks to {services.kafka}"
    finally:
        services.down()
    # Killed with its program, the minder of the first Kafka ends when it has swept what that may have left.
    eventually(lambda: not Folder(tmp_path).processes())
