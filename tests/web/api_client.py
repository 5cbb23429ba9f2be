"""Questions to the JSON API, answered with 2xx or the test fails."""

from typing import Any

from fastapi.testclient import TestClient


def items(client: TestClient, path: str) -> list[dict[str, Any]]:
    answer = client.get(f"/api/v1{path}")
    assert answer.status_code == 200, answer.text
    assert answer.json().keys() >= {"items", "next_cursor"}
    return list(answer.json()["items"])


def ids(client: TestClient, path: str) -> list[object]:
    return [item["task_id"] for item in items(client, path)]


def has_tasks(client: TestClient, count: int) -> bool:
    return len(ids(client, "/tasks")) == count


def submit(client: TestClient, **order: object) -> str:
    answer = client.post("/api/v1/tasks", json=order)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["task_id"])
