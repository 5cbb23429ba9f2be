"""The original chain: the form writes a line, a producer reads it."""

import json
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from scene import Scene

ORDER = {"task_type": "add", "task_args": [1, 2]}


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def test_a_submit_appends_a_whole_line_and_publishes_nothing(
    file_client: TestClient, task_file: Path, scene: Scene
) -> None:
    answer = file_client.post("/api/v1/tasks", json=ORDER)
    assert answer.status_code == 202
    task_id = answer.json()["task_id"]
    assert answer.json()["written_to"] == str(task_file)
    assert lines(task_file) == [{"task_id": task_id, "task_type": "add", "task_args": [1, 2], "task_tries": 0}]
    assert list(lines(task_file)[0]) == ["task_id", "task_type", "task_args", "task_tries"]
    assert task_file.read_bytes().endswith(b"\n")
    assert not any(scene.broker.logs["tasks"])


def test_a_last_line_without_an_end_is_ended_first(file_client: TestClient, task_file: Path) -> None:
    task_file.write_text('{"task_id": "old", "task_type": "add", "task_args": [1, 1], "task_tries": 0}')
    file_client.post("/api/v1/tasks", json=ORDER | {"task_id": "new"})
    file_client.post("/api/v1/tasks", json=ORDER | {"task_id": "newer"})
    assert [line["task_id"] for line in lines(task_file)] == ["old", "new", "newer"]


def test_arguments_by_name_are_put_in_their_places(file_client: TestClient, task_file: Path) -> None:
    named = {"task_type": "greet", "task_args": ["Ada"], "task_kwargs": {"times": 3}}
    assert file_client.post("/api/v1/tasks", json=named).status_code == 202
    assert lines(task_file)[0]["task_args"] == ["Ada", False, 3]


def test_the_form_writes_a_line_too(file_client: TestClient, task_file: Path) -> None:
    answer = file_client.post("/", data={"task_type": "add", "arg.a": "3", "arg.b": "4"})
    assert answer.status_code == 303
    assert lines(task_file)[0]["task_args"] == [3, 4]
    page = file_client.get(answer.headers["location"])
    assert "Written" in page.text


def test_a_written_task_waits_for_the_producer_until_it_shows_up(file_client: TestClient, scene: Scene) -> None:
    task_id = file_client.post("/api/v1/tasks", json=ORDER).json()["task_id"]
    answer = file_client.get(f"/api/v1/tasks/{task_id}")
    assert answer.status_code == 404
    assert "waiting for the producer" in answer.json()["detail"]
    page = file_client.get(f"/tasks/{task_id}")
    assert page.status_code == 200
    assert "waiting for the producer" in page.text
    scene.add.using(task_id=task_id).submit(1, 2)  # what the producer does with the line
    answer = file_client.get(f"/api/v1/tasks/{task_id}")
    assert (answer.status_code, answer.json()["status"]) == (200, "QUEUED")


@pytest.mark.parametrize("more", [{"queue": "other"}, {"key": "k"}, {"max_attempts": 2}, {"task_kwargs": {"x": 1}}])
def test_what_the_file_cannot_carry_is_refused(
    file_client: TestClient, task_file: Path, more: dict[str, object]
) -> None:
    assert file_client.post("/api/v1/tasks", json=ORDER | more).status_code == 422
    assert not task_file.exists()


def test_a_file_that_cannot_be_written_is_said_and_is_no_5xx_of_ours(file_client: TestClient, task_file: Path) -> None:
    task_file.mkdir()
    answer = file_client.post("/api/v1/tasks", json=ORDER)
    assert answer.status_code == 422
    assert "cannot be written" in answer.json()["detail"]


def test_a_text_with_line_breaks_stays_one_line(file_client: TestClient, task_file: Path) -> None:
    order = {"task_type": "greet", "task_args": ["a\nb\r\u2028c"]}
    assert file_client.post("/api/v1/tasks", json=order).status_code == 202
    assert task_file.read_bytes().count(b"\n") == 1
    assert lines(task_file)[0]["task_args"] == ["a\nb\r\u2028c"]
