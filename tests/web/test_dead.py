"""Dead letters in the API and on the pages."""

import json

import msgspec
import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import expect
from scene import HOSTILE, Scene
from watched import Watched

from yadtq.broker import Message, Report
from yadtq.codec import decode, encode
from yadtq.envelope import Envelope
from yadtq.layout import HEADER_REASON, HEADER_SOURCE, HEADER_TASK

DEAD = "/api/v1/queues/tasks/dead"
PAGE = "/queues/tasks/dead"


def put(scene: Scene, value: bytes, *, reason: str = "boom", task: str = "") -> None:
    headers = {
        HEADER_REASON: reason.encode(),
        HEADER_SOURCE: f"tasks/1/{len(scene.broker.logs['tasks.dlq'][0])}".encode(),
    }
    if task:
        headers[HEADER_TASK] = task.encode()
    scene.broker.append(Message("tasks.dlq", value, None, 0, headers))


def put_task(scene: Scene, task_id: str, args: str = "[1, 2]", task_type: str = "add", reason: str = "boom") -> None:
    put(
        scene,
        encode(Envelope(task_id=task_id, task_type=task_type, task_args=msgspec.Raw(args.encode()))),
        reason=reason,
        task=task_id,
    )


def published(scene: Scene) -> list[Envelope]:
    return [decode(record.value) for log in scene.broker.logs["tasks"] for record in log]


def items(client: TestClient, query: str = "") -> list[dict[str, object]]:
    answer = client.get(DEAD + query)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["items"])


def test_a_list_is_empty_or_has_what_lies_there_newest_first(client: TestClient, scene: Scene) -> None:
    assert client.get(DEAD).json() == {"items": [], "next_cursor": None, "notices": []}
    put_task(scene, "t1")
    put(scene, b"\xff", reason="not an envelope")
    junk, task = items(client)
    assert (junk["id"], junk["task_id"], junk["task_type"], junk["size_bytes"]) == ("0/1", None, None, 1)
    assert (task["id"], task["task_id"], task["task_type"], task["reason"]) == ("0/0", "t1", "add", "boom")
    assert (task["source"], task["replays"], task["reference"]) == ("tasks/1/0", [], False)


def test_filters_and_pages(client: TestClient, scene: Scene) -> None:
    for number in range(5):
        put_task(scene, f"t{number}", task_type="add" if number % 2 else "greet", reason=f"reason {number}")
    assert [item["task_id"] for item in items(client, "?task_type=add")] == ["t3", "t1"]
    assert [item["task_id"] for item in items(client, "?reason=REASON%204")] == ["t4"]
    assert [item["task_id"] for item in items(client, "?task_id=t2")] == ["t2"]
    assert items(client, "?since_ms=9000000000000") == []
    first = client.get(DEAD + "?limit=3").json()
    second = client.get(f"{DEAD}?limit=3&cursor={first['next_cursor']}").json()
    assert [item["task_id"] for item in first["items"] + second["items"]] == ["t4", "t3", "t2", "t1", "t0"]
    assert second["next_cursor"] is None


def test_one_has_its_bytes_as_text_or_hex(client: TestClient, scene: Scene) -> None:
    put_task(scene, "t1", "[1,   2]")
    put(scene, b"\xff\x00")
    one = client.get(f"{DEAD}/0/0").json()
    assert (one["task_args"], one["task_kwargs"], one["hex"], one["problem"]) == ([1, 2], {}, None, None)
    assert '"task_args":[1,   2]' in one["text"]
    other = client.get(f"{DEAD}/0/1").json()
    assert (other["text"], other["hex"], other["task_args"]) == (None, "ff 00", None)
    assert "not an envelope" not in other["problem"]
    assert other["problem"]


def test_a_replay_is_a_new_task_and_twice_is_one(client: TestClient, scene: Scene) -> None:
    put_task(scene, "t1")
    first = client.post(f"{DEAD}/0/0/replay", json={})
    assert first.status_code == 202
    second = client.post(f"{DEAD}/0/0/replay", json={}).json()
    assert second == {"task_id": first.json()["task_id"], "before": True}
    assert client.post(f"{DEAD}/0/0/replay", json={"again": True}).json()["before"] is False
    assert [task.replay_of for task in published(scene)] == ["t1", "t1"]
    assert items(client)[0]["replays"] == [task.task_id for task in published(scene)]
    assert client.get(f"/api/v1/tasks/{second['task_id']}").json()["task_args"] == [1, 2]


def test_the_pages_of_a_replay_and_of_its_original_link_to_each_other(client: TestClient, scene: Scene) -> None:
    original = scene.add.submit(1, 2).task_id
    put_task(scene, original)
    put(scene, b"junk")
    replay = client.post(f"{DEAD}/0/0/replay", json={}).json()["task_id"]
    assert f'href="/tasks/{original}"' in client.get(f"/tasks/{replay}").text
    assert f'href="/tasks/{replay}"' in client.get(f"/tasks/{original}").text
    assert client.get(f"/api/v1/tasks/{replay}").json()["replay_of"] == original
    of_junk = client.post(f"{DEAD}/0/1/replay", json={"task_type": "add", "task_args": [1, 2]}).json()["task_id"]
    assert f'href="{PAGE}/0/1"' in client.get(f"/tasks/{of_junk}").text


def test_a_replay_takes_other_arguments(client: TestClient, scene: Scene) -> None:
    put(scene, b"junk")
    body = {"task_type": "greet", "task_args": ["Ada"], "task_kwargs": {"times": 2}}
    assert client.post(f"{DEAD}/0/0/replay", json=body).status_code == 202
    (task,) = published(scene)
    assert (task.task_type, bytes(task.task_kwargs)) == ("greet", b'{"times":2}')
    assert task.replay_of == "tasks.dlq/0/0"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"task_args": {}}, "array"),
        ({"task_kwargs": None}, "object"),
        ({"task_args": ["one", 2]}, "do not fit"),
        ({"task_type": "no_such"}, "no task is named"),
        ({"shiny": 1}, "unknown field"),
        ({"raw": True}, "an end never changes"),
        ([], "object"),
    ],
)
def test_a_replay_that_cannot_be_is_refused(client: TestClient, scene: Scene, body: object, why: str) -> None:
    put_task(scene, "t1")
    answer = client.post(f"{DEAD}/0/0/replay", json=body)
    assert answer.status_code == 422
    assert why in answer.json()["detail"]
    assert published(scene) == []


def test_a_task_that_this_app_does_not_know_is_replayed_as_it_was(client: TestClient, scene: Scene) -> None:
    put_task(scene, "t1", task_type="elsewhere")
    assert client.post(f"{DEAD}/0/0/replay", json={"task_args": [7]}).status_code == 202
    assert published(scene)[0].task_type == "elsewhere"


def test_raw_bytes_go_back_as_they_are(client: TestClient, scene: Scene) -> None:
    value = b'{"task_id":"new","task_type":"add","version":2}'
    put(scene, value)
    assert client.post(f"{DEAD}/0/0/replay", json={"raw": True}).json() == {"task_id": "new", "before": False}
    assert [record.value for log in scene.broker.logs["tasks"] for record in log] == [value]


def test_many_are_replayed_by_filter(client: TestClient, scene: Scene) -> None:
    for number in range(4):
        put_task(scene, f"t{number}", reason="one" if number % 2 else "two")
    put(scene, b"junk", reason="one")
    answer = client.post(f"{DEAD}/replay", json={"reason": "one"}).json()
    assert (answer["replayed"], answer["before"], answer["more"]) == (2, 0, False)
    assert [refused["id"] for refused in answer["refused"]] == ["0/4"]
    answer = client.post(f"{DEAD}/replay", json={}).json()
    assert (answer["replayed"], answer["before"]) == (2, 2)


def test_what_is_not_there_is_404(client: TestClient) -> None:
    for path in (f"{DEAD}/0/0", f"{DEAD}/9/9", "/api/v1/queues/nothing/dead", "/api/v1/queues/nothing/dead/0/0"):
        assert client.get(path).status_code == 404, path
    assert client.post(f"{DEAD}/0/0/replay", json={}).status_code == 404
    assert client.post("/api/v1/queues/nothing/dead/replay", json={}).status_code == 404


@pytest.mark.parametrize(
    "query", ["?cursor=nonsense", "?cursor=0-1.", "?limit=0", "?limit=9999", "?since_ms=-1", "/x/y", "/1/-"]
)
def test_nonsense_is_422(client: TestClient, query: str) -> None:
    assert client.get(DEAD + query).status_code == 422


def test_a_queue_that_could_not_be_is_422(client: TestClient) -> None:
    assert client.get("/api/v1/queues/a%20b/dead").status_code == 422


def test_other_sites_and_forms_cannot_replay(client: TestClient, scene: Scene) -> None:
    put_task(scene, "t1")
    foreign = {"origin": "http://evil.example"}
    for path in (f"{DEAD}/0/0/replay", f"{DEAD}/replay", PAGE, f"{PAGE}/0/0"):
        assert client.post(path, json={}, headers=foreign).status_code == 403
    assert client.post(f"{DEAD}/0/0/replay", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    assert client.post(f"{PAGE}/0/0", json={}).status_code == 415
    assert published(scene) == []


def test_kafka_that_is_down_is_said(client: TestClient, scene: Scene) -> None:
    put_task(scene, "t1")
    scene.broker.down = True
    answer = client.get(DEAD)
    assert answer.status_code == 200
    assert "Kafka does not answer" in answer.json()["notices"][0]
    assert client.get(f"{DEAD}/0/0").status_code == 503
    assert client.post(f"{DEAD}/0/0/replay", json={}).status_code == 503
    assert client.post(f"{DEAD}/replay", json={}).status_code == 503
    page = client.get(PAGE)
    assert page.status_code == 200
    assert "No dead letters can be shown" in page.text


def test_a_replay_without_a_report_is_504(client: TestClient, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    put_task(scene, "t1")
    monkeypatch.setattr(scene.broker, "append", lambda message: Report("timed out"))
    answer = client.post(f"{DEAD}/0/0/replay", json={})
    assert answer.status_code == 504
    assert answer.json()["task_id"]
    page = client.post(f"{PAGE}/0/0", data={"task_type": ""})
    assert page.status_code == 504
    assert "once more" in page.text


def test_the_form_replays_as_it_was_where_nothing_was_changed(client: TestClient, scene: Scene) -> None:
    put_task(scene, "t1", '["a\\u007f\\u202e", 1]', "greet")
    fields = {"task_type": "greet", "task_args": '["a\\u007f\\u202e", 1]', "task_kwargs": "{}"}
    answer = client.post(f"{PAGE}/0/0", data=fields)
    assert answer.status_code == 303
    assert answer.headers["location"].startswith(f"{PAGE}/0/0?replayed=")
    (task,) = published(scene)
    assert client.post(f"{DEAD}/0/0/replay", json={}).json() == {"task_id": task.task_id, "before": True}
    assert "Replayed as" in client.get(answer.headers["location"]).text
    again = client.post(f"{PAGE}/0/0", data=fields).headers["location"]
    assert "so nothing was published" in client.get(again).text
    assert published(scene) == [task]


def test_the_form_says_what_is_wrong_and_keeps_what_was_typed(client: TestClient, scene: Scene) -> None:
    put_task(scene, "t1")
    page = client.post(f"{PAGE}/0/0", data={"task_type": "add", "task_args": "[1, <b>", "task_kwargs": "{}"})
    assert page.status_code == 422
    assert "not JSON" in page.text
    assert "[1, &lt;b&gt;" in page.text
    assert published(scene) == []


def test_all_that_fit_are_replayed_by_a_button(client: TestClient, scene: Scene) -> None:
    put_task(scene, "t1", reason="one")
    put_task(scene, "t2", reason="two")
    answer = client.post(f"{PAGE}?reason=two")
    assert answer.status_code == 303
    assert "1 replayed, 0 had been before" in client.get(answer.headers["location"]).text
    assert [task.replay_of for task in published(scene)] == ["t2"]
    assert client.post("/queues/nothing/dead").status_code == 404


def test_pages_of_what_is_not_there_are_404(client: TestClient) -> None:
    for path in ("/queues/nothing/dead", f"{PAGE}/0/0"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert "text/html" in answer.headers["content-type"]


def test_in_the_browser_all_are_replayed_only_by_a_second_click(watched: Watched, scene: Scene) -> None:
    put_task(scene, "t1")
    put_task(scene, "t2")
    page = watched.open("/queues/tasks/dead")
    page.get_by_text("Replay all", exact=True).click()
    expect(page.locator(".sure")).to_contain_text("2 of those shown run again, as new tasks")
    assert published(scene) == []
    page.get_by_role("button", name="Replay them").click()
    expect(page.locator(".flash-good")).to_contain_text("2 replayed, 0 had been before")
    assert {task.replay_of for task in published(scene)} == {"t1", "t2"}


def test_in_the_browser_one_is_opened_edited_and_replayed(watched: Watched, scene: Scene) -> None:
    put(scene, HOSTILE.encode() + b"\x1b[2J", reason=HOSTILE)
    put_task(scene, "t1", json.dumps([HOSTILE]), "greet", reason=HOSTILE + "\u202e")
    page = watched.open("/queues")
    page.get_by_role("link", name="Dead letters").click()
    expect(page.locator("tbody tr")).to_have_count(2)
    expect(page.locator("tbody tr").first).to_contain_text(HOSTILE + "\\u202e")
    page.get_by_role("link", name="bytes that are no task").click()
    expect(page.locator("pre").nth(1)).to_contain_text(HOSTILE + "\\x1b[2J")
    page.go_back()
    page.get_by_role("link", name="greet").click()
    expect(page.get_by_label("Arguments")).to_have_value(json.dumps([HOSTILE]))
    page.get_by_label("Arguments").fill('["Ada"]')
    page.get_by_role("button", name="Replay").click()
    expect(page.locator(".flash-good")).to_contain_text("Replayed as")
    page.locator(".flash-good a").click()
    expect(page.locator("h1")).to_have_text('greet("Ada")')
    expect(page.locator(".facts a").first).to_have_text("t1")
    assert page.locator("script:not([src]), img[src='x']").count() == 0
