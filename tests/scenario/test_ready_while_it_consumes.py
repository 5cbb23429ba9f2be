"""A worker says that it is ready only while it consumes: not without Redis, not without Kafka, not leaving."""

import json
import signal
import urllib.error
import urllib.request

import pytest
from drama import DEADLINE_S, Actor, Stage

from yadtq.dev.services import Services
from yadtq.states import State

pytestmark = pytest.mark.real


def url_of(worker: Actor) -> str:
    return worker.says(r"health\s+(http://127\.0\.0\.1:\d+)")[1]


def ask(url: str) -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE_S) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_ready_follows_what_the_worker_does(fragile_stage: Stage, own_services: Services) -> None:
    stage = fragile_stage
    stage.create(2)
    worker = stage.worker("own", "--health", "127.0.0.1:0")
    url = url_of(worker)
    stage.until(lambda: ask(f"{url}/ready") == (200, {"ready": True, "missing": [], "standby": False}))
    stage.until(lambda: list(stage.partitions_of("own")) == [0, 1])  # the beat that says so comes right after
    stage.submit(("one", "add", 1, 2), ("two", "add", 1, 2))
    stage.until_final(["one", "two"])
    stage.until(lambda: ask(f"{url}/stats")[1]["lag"] == {"0": 0, "1": 0})
    _, stats = ask(f"{url}/stats")
    assert stats["events"]["succeeded"] == 2  # type: ignore[index]

    own_services.kill_redis()
    stage.until(lambda: ask(f"{url}/ready")[0] == 503)
    _, answer = ask(f"{url}/ready")
    assert "Redis does not answer" in answer["missing"]  # type: ignore[operator]
    assert ask(f"{url}/live")[0] == 200
    own_services.start_redis()
    stage.until(lambda: ask(f"{url}/ready")[0] == 200)

    own_services.kill_kafka()
    stage.until(lambda: ask(f"{url}/ready")[0] == 503)
    _, answer = ask(f"{url}/ready")
    assert "Kafka does not answer" in answer["missing"]  # type: ignore[operator]
    own_services.start_kafka()
    stage.until(lambda: ask(f"{url}/ready")[0] == 200)

    stage.submit(("long", "nap", 3))
    stage.until_running("long")
    worker.signal(signal.SIGTERM)
    stage.until(lambda: ask(f"{url}/ready")[0] == 503)
    _, answer = ask(f"{url}/ready")
    assert answer["missing"] == ["the worker is leaving"]
    worker.leaves(0)
    assert stage.finals(["long"]) == {"long": State.SUCCESS}


def test_an_address_that_others_could_reach_is_refused(stage: Stage) -> None:
    worker = stage.worker("open", "--health", "0.0.0.0:8081")
    worker.says("only 127.0.0.1, localhost, ::1 can be listened on, not '0.0.0.0': there are no tokens yet")
    worker.leaves(1)
