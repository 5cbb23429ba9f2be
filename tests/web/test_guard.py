"""A server on loopback is open to every page in the browser: what keeps those out."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from scene import Scene
from starlette.websockets import WebSocketDisconnect

from yadtq.web.site import create_app

ORDER = {"task_type": "add", "task_args": [1, 2]}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """One web app for all: what is refused changes nothing."""
    site = create_app(Scene().app, readmodel_path=tmp_path_factory.mktemp("guard") / "readmodel.sqlite")
    with TestClient(site, base_url="http://127.0.0.1:8080", follow_redirects=False) as client:
        yield client


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:8080", "LOCALHOST:8080", "[::1]:8080"])
def test_its_own_names_are_served(client: TestClient, host: str) -> None:
    assert client.get("/api/v1/workers", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "127.0.0.1",
        "127.0.0.1:80",
        "127.0.0.1:8081",
        "127.0.0.1.evil.example:8080",
        "localhost.evil.example:8080",
        "user@127.0.0.1:8080",
        "127.0.0.1:8080@evil.example",
        "127.0.0.1:8080/",
        "127.0.0.1:x",
        "[::1",
        "",
        "0.0.0.0:8080",
    ],
)
@pytest.mark.parametrize("path", ["/", "/api/v1/tasks", "/static/app.js", "/nope"])
def test_a_foreign_host_is_refused_everywhere(client: TestClient, host: str, path: str) -> None:
    assert client.get(path, headers={"host": host}).status_code == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "https://127.0.0.1:8080"},
        {"origin": "http://127.0.0.1:3000"},
        {"origin": "http://127.0.0.1:8080.evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
@pytest.mark.parametrize("path", ["/api/v1/tasks", "/"])
def test_a_write_from_another_site_is_refused(client: TestClient, headers: dict[str, str], path: str) -> None:
    answer = client.post(path, json=ORDER, headers=headers)
    assert answer.status_code == 403
    assert client.get("/api/v1/tasks").json()["items"] == []


def test_a_write_from_its_own_pages_and_from_programs_is_taken(client: TestClient) -> None:
    own = {"origin": "http://127.0.0.1:8080", "sec-fetch-site": "same-origin"}
    assert client.post("/api/v1/tasks", json=ORDER, headers=own).status_code == 202
    assert client.post("/api/v1/tasks", json=ORDER).status_code == 202


@pytest.mark.parametrize(
    "headers", [{"host": "evil.example:8080"}, {"host": "127.0.0.1:8080", "origin": "http://evil.example"}]
)
def test_a_websocket_upgrade_passes_the_guard_too(client: TestClient, headers: dict[str, str]) -> None:
    with (
        pytest.raises(WebSocketDisconnect) as refused,
        client.websocket_connect("ws://127.0.0.1:8080/api/v1/events", headers=headers),
    ):
        pass
    assert refused.value.code == 1008


@pytest.mark.parametrize("path", ["/", "/workers", "/nope", "/api/v1/tasks", "/api/v1/nope", "/static/app.js"])
def test_every_answer_carries_the_headers(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"


def test_a_refusal_carries_the_headers_too(client: TestClient) -> None:
    assert "content-security-policy" in client.get("/", headers={"host": "evil.example"}).headers
