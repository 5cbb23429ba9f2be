"""Asks a service whether it is ready, in its own protocol and without a client library.

One invariant: a yes comes from the service that was asked for, not from a stranger on its port: Kafka has to name our
cluster and Valkey our process.
"""

import http.client
import re
import socket
import struct

from yadtq.dev.port import HOST

TIMEOUT_S = 2.0

_METADATA, _VERSION = 3, 2  # the oldest version of the request whose answer names the cluster
_MOST_BYTES = 1 << 20


def kafka_cluster(port: int) -> str:
    """Ask Kafka for its metadata; the cluster's id once the broker is in it, else an empty text."""
    header = struct.pack(">hhi", _METADATA, _VERSION, 1) + _text("yadtq")
    request = header + struct.pack(">i", 0)  # about no topic
    try:
        with socket.create_connection((HOST, port), TIMEOUT_S) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            (size,) = struct.unpack(">i", _read(connection, 4))
            if not 0 < size < _MOST_BYTES:
                return ""
            return _cluster_in(_read(connection, size))
    except (OSError, struct.error, UnicodeDecodeError):
        return ""


def redis_pid(port: int) -> int:
    """Ask Valkey or Redis for its pid; 0 while it does not answer or still loads its data."""
    try:
        with socket.create_connection((HOST, port), TIMEOUT_S) as connection:
            # PING is refused while data loads, INFO is not.
            connection.sendall(b"PING\r\nINFO server\r\nQUIT\r\n")
            answer = b""
            while piece := connection.recv(65_536):
                answer += piece
    except OSError:
        return 0
    found = re.search(rb"process_id:(\d+)", answer)
    return int(found[1]) if found and answer.startswith(b"+PONG") else 0


def http_status(port: int, path: str) -> int:
    """Ask for a page; its status, or 0 while nobody answers."""
    connection = http.client.HTTPConnection(HOST, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def _cluster_in(answer: bytes) -> str:
    """Read the answer: correlation id, brokers (id, host, port, rack), cluster id."""
    (brokers,) = struct.unpack_from(">i", answer, 4)
    at = 8
    for _ in range(brokers):
        _, at = _text_in(answer, at + 4)
        _, at = _text_in(answer, at + 4)
    cluster, _ = _text_in(answer, at)
    return cluster if brokers else ""


def _text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()


def _text_in(data: bytes, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from(">h", data, at)
    end = at + 2 + max(size, 0)
    return data[at + 2 : end].decode(), end


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise ConnectionResetError("closed before the answer was complete")
        data += piece
    return data
