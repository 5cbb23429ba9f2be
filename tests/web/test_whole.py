"""The web app, a real Kafka, a real Valkey and a worker: what was submitted is seen to its end."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from waiting import eventually
from yadtq import App
from yadtq.settings import Address, Settings, WorkerSettings
from yadtq.web.site import create_app
from yadtq.worker import Worker

pytestmark = pytest.mark.real


@pytest.fixture
def app(kafka_address: str, redis_url: str, prefix: str) -> Iterator[App]:
    settings = Settings(kafka=Address(kafka_address, "test"), redis=Address(redis_url, "test"), prefix=prefix)
    app = App("jobs", settings=settings)

    @app.task(max_attempts=1)
    def div(a: int, b: int) -> float:
        return a / b

    app.ensure_queue("jobs", 3)
    yield app
    app.close()


@pytest.fixture
def worker(app: App) -> Iterator[None]:
    worker = Worker(app, WorkerSettings("w1", beat_s=0.3, lease_s=3.0))
    thread = threading.Thread(target=worker.run)
    thread.start()
    yield
    worker.drain()
    thread.join(30)
    assert not thread.is_alive()


@pytest.mark.usefixtures("worker")
def test_what_is_submitted_is_seen_to_its_end(app: App, tmp_path: Path) -> None:
    site = create_app(app, readmodel_path=tmp_path / "f.sqlite")
    with TestClient(site, base_url="http://127.0.0.1:8080") as client:

        def submit(b: int) -> str:
            answer = client.post("/api/v1/tasks", json={"task_type": "div", "task_args": [6, b]})
            assert answer.status_code == 202, answer.text
            task_id = str(answer.json()["task_id"])
            assert client.get(f"/api/v1/tasks/{task_id}").json()["task_args"] == [6, b]
            return task_id

        def task(task_id: str) -> dict[str, object]:
            return dict(client.get(f"/api/v1/tasks/{task_id}").json())

        good = [submit(number) for number in range(1, 20)]
        bad = submit(0)
        eventually(lambda: {task(task_id)["status"] for task_id in good} == {"SUCCESS"}, timeout_s=30)
        assert task(good[1])["result"] == 3.0
        assert task(good[1])["worker"] == "w1"
        eventually(lambda: task(bad)["status"] == "FAILED", timeout_s=30)
        assert "ZeroDivisionError" in str(task(bad)["error_log"])

        def queue() -> dict[str, object]:
            return dict(client.get("/api/v1/queues").json()["items"][0])

        counts = {"SCHEDULED": 0, "QUEUED": 0, "PROCESSING": 0, "SUCCESS": 19, "FAILED": 1}
        eventually(lambda: (queue()["counts"], queue()["lag"]) == (counts, 0), timeout_s=15)
        (worker,) = client.get("/api/v1/workers").json()["items"]
        assert (worker["name"], worker["status"], worker["partitions"]) == ("w1", "ALIVE", [0, 1, 2])
        page = client.get("/?status=FAILED")
        assert "ZeroDivisionError" in page.text
