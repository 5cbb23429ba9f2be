"""Services that a program runs for itself end with it, also when it is killed with SIGKILL."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from yadtq_up import Folder

from waiting import eventually
from yadtq.dev.services import Services
from yadtq.errors import ServiceError

pytestmark = pytest.mark.real

OWNER = """
import sys
from pathlib import Path
from yadtq.dev.services import Services

with Services.started(Path(sys.argv[1])) as services:
    print(*services.pids.values(), flush=True)
    sys.stdin.read()
"""


def test_services_of_a_killed_program_end(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path / "data")]
    owner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert len(owner.stdout.readline().split()) == 2
    assert len(running(tmp_path)) == 2
    os.kill(owner.pid, signal.SIGKILL)
    owner.communicate()
    eventually(lambda: not running(tmp_path))


def test_each_service_can_be_killed_and_comes_back_on_its_port_with_its_data(tmp_path: Path) -> None:
    with Services.started(tmp_path / "data") as services:
        addresses, pids = (services.kafka, services.redis), services.pids
        valkey = redis.from_url(services.redis)
        valkey.set("key", "kept")
        valkey.execute_command("WAITAOF", 1, 0, 5_000)  # type: ignore[no-untyped-call]
        services.kill_redis()
        services.kill_kafka()
        assert running(tmp_path) == []
        assert {state.state for state in services.status()} == {"dead"}
        services.start_redis()
        services.start_kafka()
        assert (services.kafka, services.redis) == addresses
        assert not set(services.pids.values()) & set(pids.values())
        assert valkey.get("key") == b"kept"
    assert running(tmp_path) == []


def test_a_service_that_cannot_start_takes_the_others_with_it_and_shows_its_log(tmp_path: Path) -> None:
    (tmp_path / "data/redis/appendonlydir").mkdir(parents=True)
    (tmp_path / "data/redis/appendonlydir/appendonly.aof.manifest").write_text("this is no manifest\n")
    with pytest.raises(ServiceError, match=r"(?s)Valkey ended while it was starting.*manifest"):
        Services(tmp_path / "data", minded=True, usual_ports=False).up()
    assert running(tmp_path) == []
    assert not (tmp_path / "data/services.json").exists()


def running(folder: Path) -> list[str]:
    """The services in a folder; the watchers beside them go within a second of their own accord."""
    return [line for line in Folder(folder).processes() if "minder.py" not in line and OWNER not in line]
