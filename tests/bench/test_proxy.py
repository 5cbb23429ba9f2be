"""The proxy adds time and nothing else, and who comes in by Kafka's far door is sent to it for everything."""

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from waiting import eventually
from yadtq.bench.ground import TwoDoors
from yadtq.bench.site import end
from yadtq.dev import port
from yadtq.dev.jars import cache_folder
from yadtq.dev.port import HOST
from yadtq.dev.process import start


@contextmanager
def echo() -> Iterator[int]:
    """A server that sends back what it gets."""
    server = socket.create_server((HOST, 0))

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            while data := connection.recv(65_536):
                connection.sendall(data)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        thread.join(10)
        server.close()


@pytest.mark.parametrize("added_ms", [0, 60])
def test_every_byte_arrives_in_order_and_a_round_trip_takes_the_added_time(tmp_path: Path, added_ms: int) -> None:
    with echo() as target:
        number = port.choose([])
        command = [sys.executable, "-m", "yadtq.bench.proxy", json.dumps([[number, target, added_ms]])]
        proxy = start(command, log=tmp_path / "proxy.log", folder=tmp_path, environment={}, minded=True)
        try:
            connections: list[socket.socket] = []

            def connected() -> bool:
                try:
                    connections.append(socket.create_connection((HOST, number), 1.0))
                except OSError:
                    return False
                return True

            eventually(connected)
            with connections[0] as client:
                client.settimeout(20)
                began_s = time.perf_counter()
                client.sendall(b"x")
                assert client.recv(1) == b"x"
                assert time.perf_counter() - began_s >= added_ms / 1000
                sent = bytes(range(256)) * 8_000
                sender = threading.Thread(target=client.sendall, args=(sent,))
                sender.start()
                received = b""
                while len(received) < len(sent):
                    received += client.recv(1 << 20)
                sender.join()
                assert received == sent
        finally:
            end(proxy)


def test_the_far_door_is_named_as_the_proxys(tmp_path: Path) -> None:
    (tmp_path / "kafka").mkdir()
    node = TwoDoors(tmp_path / "kafka", tmp_path, cache_folder())
    node.far, node.proxy = 20_001, 20_002
    lines = node._configure(20_000, tmp_path / "data").read_text().splitlines()
    found = {name: value for name, _, value in (line.partition("=") for line in lines)}
    assert f"FAR://{HOST}:20001" in found["listeners"].split(",")
    assert found["advertised.listeners"] == f"PLAINTEXT://{HOST}:20000,FAR://{HOST}:20002"
    assert "FAR:PLAINTEXT" in found["listener.security.protocol.map"].split(",")
