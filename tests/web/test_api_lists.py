"""The lists of the JSON API: tasks, workers, queues and task types, also while a store is down."""

from pathlib import Path

from api_client import ids, items, submit
from fastapi.testclient import TestClient
from scene import Scene

from waiting import eventually
from yadtq.broker import Message, TopicPartition
from yadtq.codec import encode
from yadtq.envelope import Envelope
from yadtq.offsets import Position, write_bitmap
from yadtq.web.site import create_app
from yadtq.web.view import LEFT_S


def test_lists_are_newest_first_and_pages_join_without_gaps(client: TestClient) -> None:
    made = [submit(client, task_type="add", task_args=[number, 0]) for number in range(25)]
    eventually(lambda: len(ids(client, "/tasks?limit=200")) == 25)
    seen: list[object] = []
    cursor = ""
    while True:
        answer = client.get(f"/api/v1/tasks?limit=7&cursor={cursor}").json()
        seen += [item["task_id"] for item in answer["items"]]
        cursor = answer["next_cursor"]
        if cursor is None:
            break
        assert len(answer["items"]) == 7
    assert sorted(seen, key=str) == sorted(made)
    times = [item["queued_at_ms"] for item in items(client, "/tasks?limit=200")]
    assert times == sorted(times, reverse=True)


def test_filters_tell_queued_from_processing(client: TestClient, scene: Scene) -> None:
    scene.beat("w1")
    made = [submit(client, task_type="add", task_args=[number, 0]) for number in range(12)]
    eventually(lambda: len(ids(client, "/tasks")) == 12)
    for task_id in made[:3]:
        scene.claim(task_id, "w1")
    assert set(ids(client, "/tasks?status=PROCESSING")) == set(made[:3])
    assert set(ids(client, "/tasks?status=QUEUED")) == set(made[3:])
    assert len(ids(client, "/tasks?status=QUEUED&limit=2")) == 2
    assert len(ids(client, "/tasks?status=PROCESSING&limit=2")) == 2
    scene.finish(made[0], "w1", result="1")
    eventually(lambda: ids(client, "/tasks?status=SUCCESS&task_type=add&queue=tasks") == [made[0]])
    assert set(ids(client, "/tasks?status=PROCESSING")) == set(made[1:3])


def test_pages_of_queued_tasks_join_without_gaps_while_many_run(client: TestClient, scene: Scene) -> None:
    scene.beat("w1")
    made = [submit(client, task_type="add", task_args=[number, 0]) for number in range(30)]
    eventually(lambda: len(ids(client, "/tasks")) == 30)
    for task_id in made[::2]:
        scene.claim(task_id, "w1")
    seen: list[object] = []
    cursor: str | None = ""
    while cursor is not None:
        answer = client.get(f"/api/v1/tasks?status=QUEUED&limit=4&cursor={cursor}").json()
        seen += [item["task_id"] for item in answer["items"]]
        cursor = answer["next_cursor"]
    assert sorted(seen, key=str) == sorted(made[1::2])


def test_workers_are_alive_until_their_beat_is_late(client: TestClient, scene: Scene) -> None:
    scene.beat("w1", [0, 2], lease_ms=10_000)
    (worker,) = items(client, "/workers")
    assert (worker["name"], worker["status"], worker["partitions"]) == ("w1", "ALIVE", [0, 2])
    assert isinstance(worker["last_heartbeat_ms"], int)
    scene.clock.ahead_ms = 10_500
    scene.beat("w2", [])
    assert [(at["name"], at["status"]) for at in items(client, "/workers")] == [("w2", "ALIVE"), ("w1", "DEAD")]


def test_a_worker_that_left_is_told_from_one_that_crashed_and_is_soon_gone(client: TestClient, scene: Scene) -> None:
    def workers() -> list[tuple[object, ...]]:
        return [(at["name"], at["status"], at["left"]) for at in items(client, "/workers")]

    scene.beat("a")
    scene.beat("crashed", lease_ms=1)
    scene.beat("w1")
    scene.leave("a")
    scene.clock.ahead_ms = 2_000
    assert workers() == [("w1", "ALIVE", False), ("crashed", "DEAD", False), ("a", "DEAD", True)]
    scene.clock.ahead_ms = int(LEFT_S * 1000) - 60_000
    assert workers() == [("crashed", "DEAD", False), ("w1", "DEAD", False), ("a", "DEAD", True)]
    scene.clock.ahead_ms = int(LEFT_S * 1000) + 60_000
    assert workers() == [("crashed", "DEAD", False), ("w1", "DEAD", False)]
    assert [worker.name for worker in scene.ledger.workers()] == ["a", "crashed", "w1"], "how they served is known on"


def test_queues_show_partitions_with_lag_and_counts(client: TestClient, scene: Scene) -> None:
    scene.beat("w1", [0])
    for at in range(10):
        scene.broker.append(Message("tasks", encode(Envelope(task_id=f"t{at}", task_type="add")), partition=0))
    scene.raw(b"no task")
    scene.broker.append(Message("tasks.dlq", b"no task"))
    # 0 to 2 are committed; 4 and 5 are finished above that.
    where = TopicPartition("tasks", 0)
    scene.broker.offsets["workers", where] = Position(3, write_bitmap({4, 5}, 3))
    eventually(lambda: items(client, "/queues")[0]["counts"]["QUEUED"] == 10)
    (queue,) = items(client, "/queues")
    assert (queue["name"], queue["lag"], queue["dead_letters"], queue["undecodable"]) == ("tasks", 6, 1, 1)
    first, *others = queue["partitions"]
    assert first == {"partition": 0, "committed_offset": 3, "end_offset": 11, "lag": 6, "worker": "w1"}
    assert [(at["committed_offset"], at["lag"]) for at in others] == [(None, 0)] * 3
    assert queue["counts"] == {"SCHEDULED": 0, "QUEUED": 10, "PROCESSING": 0, "SUCCESS": 0, "FAILED": 0}


def test_lag_is_that_of_the_group_that_was_named(scene: Scene, tmp_path: Path) -> None:
    for at in range(10):
        scene.broker.append(Message("tasks", encode(Envelope(task_id=f"t{at}", task_type="add")), partition=0))
    scene.broker.offsets["others", TopicPartition("tasks", 0)] = Position(7, "")
    site = create_app(scene.app, readmodel_path=tmp_path / "others.sqlite", group="others")
    with TestClient(site, base_url="http://127.0.0.1:8080") as client:
        eventually(lambda: items(client, "/queues") and items(client, "/queues")[0]["lag"] == 3)


def test_a_queue_that_is_new_is_found(client: TestClient, scene: Scene) -> None:
    scene.app.ensure_queue("later", 1)
    eventually(lambda: [queue["name"] for queue in items(client, "/queues")] == ["later", "tasks"])


def test_task_types_come_with_what_a_form_needs(client: TestClient) -> None:
    found = {item["name"]: item for item in items(client, "/task-types")}
    assert list(found) == ["add", "greet", "total"]
    assert found["greet"]["parameters"] == [
        {"name": "name", "type": "str", "required": True, "input": "str"},
        {"name": "loud", "type": "bool", "required": False, "input": "bool"},
        {"name": "times", "type": "int", "required": False, "input": "int"},
    ]


def test_while_redis_is_down_lists_go_on_and_say_so(client: TestClient, scene: Scene) -> None:
    task_id = submit(client, task_type="add", task_args=[1, 2])
    eventually(lambda: ids(client, "/tasks") == [task_id])
    scene.ledger.down = True
    for path in ("/tasks", "/workers", "/queues"):
        answer = client.get(f"/api/v1{path}")
        assert answer.status_code == 200
        assert "Redis does not answer" in answer.json()["notices"][0]
    assert ids(client, "/tasks") == [task_id]
    assert client.get(f"/api/v1/tasks/{task_id}").json()["task_args"] == [1, 2]
    for path in ("/", "/workers", "/queues", f"/tasks/{task_id}"):
        page = client.get(path)
        assert page.status_code == 200
        assert "Redis does not answer" in page.text
    assert items(client, "/queues")[0]["counts"]["PROCESSING"] is None
    submit(client, task_type="add", task_args=[3, 4])
    scene.ledger.down = False
    eventually(lambda: client.get("/api/v1/workers").json()["notices"] == [])


def test_while_kafka_is_down_lists_go_on_and_submits_are_503(client: TestClient, scene: Scene) -> None:
    task_id = submit(client, task_type="add", task_args=[1, 2])
    eventually(lambda: ids(client, "/tasks") == [task_id])
    scene.broker.down = True
    eventually(lambda: client.get("/api/v1/tasks").json()["notices"] != [])
    for path in ("/api/v1/tasks", "/api/v1/workers", "/api/v1/queues", "/", "/workers", "/queues"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "Kafka" in answer.text
        assert "as they were before" in answer.text
    assert ids(client, "/tasks") == [task_id]
    answer = client.post("/api/v1/tasks", json={"task_type": "add", "task_args": [1, 2], "queue": "fresh"})
    assert answer.status_code == 503
    assert answer.json()["detail"]
    scene.broker.down = False
    later = submit(client, task_type="add", task_args=[3, 4])
    eventually(lambda: ids(client, "/tasks") == [later, task_id])
    eventually(lambda: client.get("/api/v1/tasks").json()["notices"] == [])
