"""`yadtq web` as a process: what it refuses, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from waiting import eventually

APP = """
from scene import Scene
app = Scene().app
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shown.py").write_text(APP)
    return tmp_path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "yadtq", "web", *arguments]


def environment() -> dict[str, str]:
    here = Path(__file__).parent
    paths = (str(here), str(here.parent), os.environ.get("PYTHONPATH", ""))
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


@pytest.fixture
def started(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A web app on memory ports, in a process of its own, and its address."""
    process = subprocess.Popen(
        command("shown:app", "--port", "0"), cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "http://127.0.0.1:" in line
    yield process, line.split()[3]
    process.kill()
    process.wait(10)
    process.stdout.close()


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_within_two_seconds_though_browsers_listen(
    started: tuple[subprocess.Popen[str], str], ending: signal.Signals
) -> None:
    process, url = started
    streams = [urllib.request.urlopen(f"{url}/api/v1/events", timeout=10) for _ in range(3)]
    assert all(stream.readline() == b"retry: 1000\n" for stream in streams)
    began = time.monotonic()
    process.send_signal(ending)
    code = process.wait(10)
    assert time.monotonic() - began < 2
    assert code == (0 if ending is signal.SIGINT else -signal.SIGTERM)
    for stream in streams:
        assert b"event" in stream.read()  # to its end: it was ended, not cut
        stream.close()


def test_a_stream_tells_that_something_changed(started: tuple[subprocess.Popen[str], str]) -> None:
    _, url = started
    with urllib.request.urlopen(f"{url}/api/v1/events", timeout=10) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = iter(stream.readline, b"")
        assert eventually(lambda: next(lines)) == b"retry: 1000\n"
        assert any(line.startswith(b'data: ["notices", "queues", "tasks", "workers"]') for line in lines)


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=folder, env=environment(), capture_output=True, text=True, timeout=30, check=False
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "::", "example.org", ""])
def test_another_address_than_loopback_is_refused(folder: Path, host: str) -> None:
    ended = run(folder, "nowhere:app", "--host", host)  # said before any user code is imported
    assert ended.returncode == 1
    assert "listens on 127.0.0.1 only" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_that_is_taken_is_said_with_what_to_do(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = run(folder, "shown:app", "--port", str(taken.getsockname()[1]))
    assert ended.returncode == 1
    assert "--port 0" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_app_that_is_not_there_is_said(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:  # a second mistake, and the one that is easier to see
        ended = run(folder, "nowhere:app", "--port", str(taken.getsockname()[1]))
    assert ended.returncode == 1
    assert "there is no module 'nowhere'" in ended.stderr
    assert "Traceback" not in ended.stderr
