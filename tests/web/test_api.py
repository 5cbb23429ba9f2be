"""The JSON API: what it answers, and what it refuses."""

import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from api_client import has_tasks, ids, items, submit
from fastapi.testclient import TestClient
from scene import HOSTILE, Scene

from waiting import eventually
from yadtq.broker import Record
from yadtq.broker.memory import MemoryBroker, MemoryReader
from yadtq.codec import encode
from yadtq.envelope import Envelope
from yadtq.web.site import create_app

FIELDS = [
    "task_id",
    "task_type",
    "task_args",
    "queue",
    "status",
    "result",
    "error_log",
    "attempts",
    "worker",
    "queued_at_ms",
    "started_at_ms",
    "finished_at_ms",
    "topic",
    "partition",
    "offset",
    "not_before_ms",
    "replay_of",
]


def test_a_submitted_task_can_be_asked_for_at_once_with_its_arguments(client: TestClient) -> None:
    for number in range(20):
        task_id = submit(client, task_type="add", task_args=[number, 2])
        answer = client.get(f"/api/v1/tasks/{task_id}").json()
        assert list(answer) == FIELDS
        assert (answer["status"], answer["task_args"], answer["queue"]) == ("QUEUED", [number, 2], "tasks")
        assert (answer["result"], answer["worker"], answer["started_at_ms"]) == (None, None, None)


class LateBroker(MemoryBroker):
    """Its readers hear of everything a while after it happened."""

    def reader(self) -> MemoryReader:
        reader = super().reader()
        poll, late = reader.poll, threading.Event()

        def poll_late(timeout_s: float, most: int) -> list[Record]:
            late.wait(0.3)
            return poll(timeout_s, most)

        reader.poll = poll_late  # type: ignore[method-assign]
        return reader


def test_a_task_is_waited_for_while_the_read_model_is_late(tmp_path: Path) -> None:
    scene = Scene(LateBroker())
    site = create_app(scene.app, readmodel_path=tmp_path / "late.sqlite")
    with TestClient(site, base_url="http://127.0.0.1:8080") as client:
        for queue in ("tasks", "a-new-one"):
            task_id = submit(client, task_type="add", task_args=[1, 2], queue=queue)
            assert client.get(f"/api/v1/tasks/{task_id}").json()["task_args"] == [1, 2]


def test_a_task_goes_from_queued_to_processing_to_success(client: TestClient, scene: Scene) -> None:
    scene.beat("w1")
    task_id = submit(client, task_type="add", task_args=[1, 2])
    scene.claim(task_id, "w1")
    answer = client.get(f"/api/v1/tasks/{task_id}").json()
    assert (answer["status"], answer["worker"], answer["attempts"], answer["result"]) == ("PROCESSING", "w1", 1, None)
    scene.finish(task_id, "w1", result="3")
    answer = client.get(f"/api/v1/tasks/{task_id}").json()
    assert (answer["status"], answer["result"], answer["error_log"]) == ("SUCCESS", 3, None)
    assert answer["queued_at_ms"] <= answer["started_at_ms"] <= answer["finished_at_ms"]
    assert (answer["topic"], answer["partition"] >= 0, answer["offset"]) == ("tasks", True, 0)
    eventually(lambda: ids(client, "/tasks?status=SUCCESS") == [task_id])


def test_a_failed_task_shows_its_error_log_and_attempts(client: TestClient, scene: Scene) -> None:
    scene.beat("w1")
    task_id = submit(client, task_type="add", task_args=[1, 2])
    scene.run(task_id, "w1", error_log="Traceback\nValueError: no")
    answer = client.get(f"/api/v1/tasks/{task_id}").json()
    assert (answer["status"], answer["result"], answer["attempts"]) == ("FAILED", None, 1)
    assert answer["error_log"] == "Traceback\nValueError: no"


def test_an_unknown_id_is_404(client: TestClient) -> None:
    for path in ("nope", "a%2Fb", "%00", "x" * 5_000, "%ff%fe"):
        assert client.get(f"/api/v1/tasks/{path}").status_code == 404


def test_a_task_id_with_a_slash_can_be_asked_for(client: TestClient) -> None:
    task_id = submit(client, task_type="add", task_args=[1, 2], task_id="a/b c?d")
    assert client.get("/api/v1/tasks/a%2Fb%20c%3Fd").json()["task_id"] == task_id


def test_all_options_of_a_submit_reach_kafka(client: TestClient, scene: Scene) -> None:
    submit(
        client,
        task_type="greet",
        task_args=["Ada"],
        task_kwargs={"times": 2},
        queue="other",
        task_id="mine",
        key="k",
        max_attempts=7,
    )
    (record,) = [record for log in scene.broker.logs["other"] for record in log]
    envelope = json.loads(record.value)
    assert (envelope["task_id"], envelope["task_kwargs"], envelope["max_attempts"]) == ("mine", {"times": 2}, 7)
    assert record.key == b"k"
    answer = client.get("/api/v1/tasks/mine").json()
    assert (answer["queue"], answer["task_args"]) == ("other", ["Ada"])


def test_a_submit_for_later_is_shown_as_scheduled_and_lies_in_no_partition_of_the_queue_yet(
    client: TestClient, scene: Scene
) -> None:
    task_id = submit(client, task_type="add", task_args=[1, 2], delay_s=600)
    assert not [record for log in scene.broker.logs["tasks"] for record in log]
    answer = client.get(f"/api/v1/tasks/{task_id}").json()
    assert answer["status"] == "SCHEDULED"
    eventually(lambda: ids(client, "/tasks?status=SCHEDULED") == [task_id])
    assert client.get(f"/api/v1/tasks/{task_id}").json()["task_args"] == [1, 2]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"task_type": "add", "task_args": [1, 2], "delay_s": -1}, "delay_s is from 0"),
        ({"task_type": "add", "task_args": [1, 2], "delay_s": 10**30}, "delay_s is from 0"),
        ({"task_type": "add", "task_args": [1, 2], "delay_s": "5"}, "delay_s"),
        ({"task_type": "ad", "task_args": [1, 2]}, "did you mean 'add'"),
        ({"task_type": "nope"}, "known are add, greet, total"),
        ({"task_type": "add", "task_args": [1]}, "missing a required argument"),
        ({"task_type": "add", "task_args": ["x", 2]}, "a: Expected `int`, got `str`"),
        ({"task_type": "add", "task_args": [1, 2, 3]}, "too many"),
        ({"task_type": "add", "task_args": [1, 2], "task_kwargs": {"c": 1}}, "unexpected keyword"),
        ({"task_type": "add", "task_args": [1, 2], "task_kwargs": {"self": 1}}, "unexpected keyword"),
        ({"task_type": "add", "task_args": "12"}, "task_args"),
        ({"task_type": "add", "task_args": [1, 2], "max_attempts": 0}, "max_attempts"),
        ({"task_type": "add", "task_args": [1, 2], "max_attempts": 10**30}, "max_attempts"),
        ({"task_type": "add", "task_args": [1, 2], "queue": "no spaces"}, "queue"),
        ({"task_type": "add", "task_args": [1, 2], "task_id": ""}, "task_id"),
        ({"task_type": "add", "task_args": [1, 2], "task_id": "\u0000"}, "cannot be printed"),
        ({"task_type": "add", "task_args": [1, 2], "task_id": "x" * 201}, "200"),
        ({"task_type": "add", "task_args": [1, 2], "typo": 1}, "typo"),
        ({}, "task_type"),
        ([], "object"),
    ],
)
def test_what_does_not_fit_is_422_and_says_why(client: TestClient, scene: Scene, body: object, says: str) -> None:
    answer = client.post("/api/v1/tasks", json=body)
    assert answer.status_code == 422
    assert says in answer.json()["detail"]
    assert [record for log in scene.broker.logs["tasks"] for record in log] == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"task_type":"\\ud800"}',
        b"\xff\xfe",
        b'{"task_type":"add","task_args":' + b"[" * 100_000,
        b'{"task_type":"add","task_args":[' + b"9" * 10_000 + b",1]}",
        b'{"task_type":"add","task_args":[1e999999,1]}',
        b'{"task_type":"greet","task_args":["\\ud800"]}',
        b'{"task_type":"add","task_args":[1,2],"key":"\\ud800"}',
    ],
)
def test_no_body_causes_a_5xx(client: TestClient, body: bytes) -> None:
    answer = client.post("/api/v1/tasks", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "limit=-1",
        "limit=x",
        "limit=" + "9" * 5_000,
        "status=NOPE",
        "status=%00",
        "cursor=garbage",
        "cursor=%00",
        "cursor=%ed%a0%80",
        "cursor=" + "A" * 900,
        "cursor=WzFlMzAsIngiXQ",
        "cursor=Wzk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5OSwieCJd",
        "cursor=WzEsIlx1ZDgwMCJd",
        "task_type=" + "x" * 1_001,
    ],
)
def test_a_query_that_cannot_be_answered_is_422_on_the_api_and_on_the_page(client: TestClient, query: str) -> None:
    answer = client.get(f"/api/v1/tasks?{query}")
    assert answer.status_code == 422
    assert answer.json()["detail"]
    if not query.startswith("limit"):
        page = client.get(f"/?{query}")
        assert page.status_code == 422
        assert page.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("query", ["task_type=%00", "queue=%ff", "task_type=%ed%a0%80", "queue=' OR 1=1 --"])
def test_a_filter_that_nothing_has_finds_nothing(client: TestClient, query: str) -> None:
    submit(client, task_type="add", task_args=[1, 2])
    assert ids(client, f"/tasks?{query}") == []


def test_an_empty_query_value_says_nothing(client: TestClient) -> None:
    task_id = submit(client, task_type="add", task_args=[1, 2])
    eventually(lambda: ids(client, "/tasks?status=&task_type=&queue=&limit=&cursor=") == [task_id])


def test_a_body_over_the_limit_is_413_whether_it_says_its_length_or_not(client: TestClient) -> None:
    headers = {"content-type": "application/json"}

    def pieces() -> Iterator[bytes]:
        for _ in range(33):
            yield b" " * 65_536

    assert client.post("/api/v1/tasks", content=b" " * 1_100_000, headers=headers).status_code == 413
    assert client.post("/api/v1/tasks", content=pieces(), headers=headers).status_code == 413


def test_a_task_over_the_limit_of_kafka_is_413_with_both_sizes(client: TestClient) -> None:
    answer = client.post("/api/v1/tasks", json={"task_type": "greet", "task_args": ["x" * 300_000]})
    assert answer.status_code == 413
    assert "262,144" in answer.json()["detail"]
    assert "300," in answer.json()["detail"]


def test_a_body_that_is_not_called_json_is_415(client: TestClient) -> None:
    answer = client.post("/api/v1/tasks", content='{"task_type":"add"}', headers={"content-type": "text/plain"})
    assert answer.status_code == 415


def test_a_submit_without_a_report_is_504_and_carries_the_id(client: TestClient, scene: Scene) -> None:
    submit(client, task_type="add", task_args=[1, 2])  # now the partitions are known, and only the report fails
    scene.broker.down = True
    answer = client.post("/api/v1/tasks", json={"task_type": "add", "task_args": [1, 2], "task_id": "mine"})
    assert answer.status_code == 504
    assert answer.json()["task_id"] == "mine"


def test_arguments_and_results_come_back_as_they_were_sent(client: TestClient, scene: Scene) -> None:
    value = b'{"task_id":"odd","task_type":"add","task_args":[1e400, 12345678901234567890123, "\\u0000"]}'
    scene.publish_raw("odd", "add", value)
    answer = client.get("/api/v1/tasks/odd")
    assert answer.status_code == 200
    assert '[1e400, 12345678901234567890123, "\\u0000"]' in answer.text
    assert client.get("/tasks/odd").status_code == 200
    assert client.get("/").status_code == 200


def test_bytes_that_are_no_text_can_be_shown(client: TestClient, scene: Scene) -> None:
    odd = b'{"task_id":"odd","task_type":"add","state":"SUCCESS","attempts":1,"fence":"1.1","result":"\xff\xfe"}'
    scene.raw(odd, topic="tasks.outcomes")
    eventually(lambda: ids(client, "/tasks") == ["odd"] or items(client, "/queues")[0]["undecodable"] == 1)
    for path in ("/", "/queues", "/tasks/odd"):
        assert client.get(path).status_code in (200, 404)
    scene.publish_raw("t", "add", b'{"task_id":"t","task_type":"add","task_args":["\xff\xfe"]}')
    assert client.get("/api/v1/tasks/t").status_code == 200
    assert client.get("/tasks/t").status_code == 200


def test_hostile_text_is_text_on_every_page(client: TestClient, scene: Scene) -> None:
    scene.beat(HOSTILE)
    task_id = submit(client, task_type="greet", task_args=[HOSTILE + "\x1b[31m\u202e"], task_id=HOSTILE)
    scene.run(task_id, HOSTILE, error_log=HOSTILE + "\x07")
    scene.publish_raw("t2", HOSTILE, encode(Envelope(task_id="t2", task_type=HOSTILE)))
    eventually(lambda: len(ids(client, "/tasks")) == 2)
    for path in ("/", "/workers", "/queues", f"/tasks/{task_id.replace('/', '%2F')}", "/tasks/t2"):
        page = client.get(path)
        assert page.status_code == 200
        assert "<script>alert" not in page.text
        assert "<img src=x" not in page.text
        assert not set(page.text) & {"\x1b", "\x07", "\u202e"}


def test_a_web_app_that_starts_again_goes_on_where_it_was(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "f.sqlite"
    made = []
    for start in range(3):
        with TestClient(create_app(scene.app, readmodel_path=path), base_url="http://127.0.0.1:8080") as client:
            made.append(submit(client, task_type="add", task_args=[start, 1]))
            eventually(partial(has_tasks, client, len(made)))
            assert items(client, "/queues")[0]["counts"]["QUEUED"] == len(made)


def test_openapi_is_there_and_the_pages_that_load_foreign_scripts_are_not(client: TestClient) -> None:
    assert client.get("/openapi.json").status_code == 200
    assert client.get("/docs").status_code == 404
    assert client.get("/redoc").status_code == 404
