"""Redis is full and refuses what is new: nobody turns DEAD, nobody is ready, and work goes on when there is room."""

import json
import time
import urllib.error
import urllib.request

import pytest
import redis
from drama import ALLOWED_S, Stage

from yadtq.dev.services import Services
from yadtq.states import State

pytestmark = pytest.mark.real
BEFORE = [f"before{n}" for n in range(40)]
RUNNING = ["running0", "running1"]
MEANWHILE = [f"meanwhile{n}" for n in range(20)]
NAMES = ["one", "two"]


def test_beats_still_land_and_work_goes_on_when_there_is_room(fragile_stage: Stage, own_services: Services) -> None:
    stage = fragile_stage
    stage.create(partitions=2)
    workers = [stage.worker(name, "--runners", "1", "--health", "127.0.0.1:0") for name in NAMES]
    urls = [worker.says(r"health\s+(http://\S+)")[1] for worker in workers]
    stage.until_each_has(1, *NAMES)
    with stage.observed(), redis.Redis.from_url(own_services.redis) as client:
        stage.submit(*((name, "add", 1, 1) for name in BEFORE))
        stage.until_final(BEFORE)
        stage.submit(*((name, "nap", 1.0) for name in RUNNING))
        for name in RUNNING:
            stage.until_running(name)
        stage.until(lambda: [ready(url) for url in urls] == [[], []])
        client.config_set("maxmemory", 1)
        full_s = time.time()
        for worker in workers:
            worker.says("unavailable .*Redis at .* is full and refuses what is new")
        stage.submit(*((name, "nap", 0.1) for name in MEANWHILE))  # Kafka has them: the submit is good
        ended = [run for run in stage.runs() if run.task_id in RUNNING]
        assert len(ended) == len(RUNNING)
        # Two leases long, looked at all the while: whoever missed a beat would be seen DEAD.
        while time.time() - full_s < 2 * ALLOWED_S:
            assert [worker.status for worker in stage.app.ledger.workers()] == ["ALIVE", "ALIVE"]
            assert [ready(url) for url in urls] == [["Redis is full"]] * 2, "beats land: that makes nobody ready"
        assert stage.finals([*RUNNING, *MEANWHILE]) == {}
        client.config_set("maxmemory", 0)
        roomy_s = time.time()
        assert set(stage.until_final([*RUNNING, *MEANWHILE]).values()) == {State.SUCCESS}
        stage.until_drained()
        stage.until(lambda: [ready(url) for url in urls] == [[], []])
        events = [read(f"{url}/stats")["events"] for url in urls]
    account = stage.account().check(duplicated=set())
    started = [run.start_ms / 1000 for run in account.runs if run.task_id in MEANWHILE]
    assert min(started) >= roomy_s, "something new was started without its claim"
    assert min(started) - roomy_s < 5.0
    for each in events:
        assert (each["reborn"], each["taken_over"], each["refused"], each["lost"]) == (0, 0, 0, 0)
    assert sum(each["succeeded"] for each in events) == len(account.published)
    for worker in workers:
        # Beats land and claims do not: that is one state, and no coming and going.
        assert 1 <= len(worker.said("unavailable")) <= 2 + (roomy_s - full_s) / 5.0
        worker.interrupt()
        worker.leaves(0)


def ready(url: str) -> list[str]:
    """What a worker says that it is missing; nothing where it is ready."""
    try:
        return list(read(f"{url}/ready")["missing"])
    except urllib.error.HTTPError as error:
        missing: list[str] = json.load(error)["missing"]
        assert missing
        return missing


def read(url: str) -> dict[str, dict[str, int]]:
    with urllib.request.urlopen(url, timeout=10) as response:
        found: dict[str, dict[str, int]] = json.load(response)
    return found
