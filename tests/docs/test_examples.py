"""The examples and the code of the README run, on real services, with a real worker."""

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator

import pytest
from documents import ROOT, blocks

pytestmark = pytest.mark.real
READY_S = 60.0
LEAVE_S = 30.0


@pytest.fixture(scope="module")
def environment(kafka_address: str, redis_url: str) -> dict[str, str]:
    """What a program of this module needs to find the services, under a prefix of its own."""
    ours = {"YADTQ_KAFKA": kafka_address, "YADTQ_REDIS": redis_url, "YADTQ_PREFIX": f"d{uuid.uuid4().hex[:8]}-"}
    return {**os.environ, **ours}


@pytest.fixture(scope="module")
def worker(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """`yadtq worker examples.hello:app`, once it has its partitions."""
    command = [sys.executable, "-m", "yadtq", "worker", "examples.hello:app"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    ready, said = threading.Event(), []

    def listen(lines: Iterator[str]) -> None:
        for line in lines:
            said.append(line)
            if "assigned" in line:
                ready.set()
        ready.set()

    listener = threading.Thread(target=listen, args=(process.stderr,), daemon=True)
    listener.start()
    try:
        assert ready.wait(READY_S), said
        assert process.poll() is None, said
        yield process
        process.send_signal(signal.SIGINT)
        assert process.wait(LEAVE_S) == 0, said
    finally:
        process.kill()
        process.wait()
        listener.join()
        process.stderr.close()


def run(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.usefixtures("worker")
def test_the_hello_world_prints_3(environment: dict[str, str]) -> None:
    assert run(environment, "examples/hello.py") == "3\n"


@pytest.mark.usefixtures("worker")
def test_the_hello_world_of_the_readme_prints_3_where_a_worker_knows_the_task(environment: dict[str, str]) -> None:
    assert run(environment, "-c", blocks("python")[0].text) == "3\n"


@pytest.mark.usefixtures("worker")
def test_the_second_block_of_the_readme_does_what_it_says(environment: dict[str, str]) -> None:
    after = """
print([handle.result(timeout_s=30) for handle in handles], again.result(timeout_s=30))
import asyncio
print(asyncio.run(from_async()))
"""
    first, *rest = run(environment, "-c", blocks("python")[1].text + after).splitlines()
    assert first.split()[1] in ("QUEUED", "PROCESSING", "SUCCESS")
    assert rest == ["[3, 7] 3", "3"]


WEB = """
from fastapi.testclient import TestClient
from examples.fastapi_app import service
with TestClient(service) as client:
    begun = client.post("/sums", params={"a": 20, "b": 22})
    task_id = begun.json()["task_id"]
    print(begun.status_code, client.get(f"/sums/{task_id}/wait").json())
    print(client.get(f"/sums/{task_id}").json())
    print(client.get("/sums/nobody").status_code, client.get("/sums/nobody/wait").status_code)
"""


@pytest.mark.usefixtures("worker")
def test_a_web_service_submits_and_waits_without_blocking_its_loop(environment: dict[str, str]) -> None:
    assert run(environment, "-c", WEB).splitlines() == [
        "202 {'sum': 42}",
        "{'status': 'SUCCESS', 'sum': 42}",
        "404 404",
    ]
