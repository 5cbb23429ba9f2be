"""What a data folder knows, which process is meant, and which port is chosen."""

import json
import os
import signal
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from yadtq import settings
from yadtq.dev import port, process
from yadtq.dev.lock import exclusive
from yadtq.dev.process import Identity, Interrupt, Process
from yadtq.dev.records import Record, Records
from yadtq.errors import ServiceError

KAFKA = Record(1, "boot 1", 9092, "127.0.0.1:9092", "4.4.0", 1_000, "kafka.out")
REDIS = Record(2, "boot 2", 6379, "redis://127.0.0.1:6379/0", "9.1", 1_001, "redis.log")


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    Records(tmp_path).write({"kafka": KAFKA, "redis": REDIS})
    assert Records(tmp_path).read() == {"kafka": KAFKA, "redis": REDIS}


def test_settings_find_the_addresses_in_the_records(tmp_path: Path) -> None:
    folder = tmp_path / settings.DATA_FOLDER
    folder.mkdir()
    Records(folder).write({"kafka": KAFKA, "redis": REDIS})
    found = settings.load(folder=tmp_path, environ={})
    assert (found.kafka.value, found.redis.value) == (KAFKA.address, REDIS.address)


def test_when_nothing_runs_there_is_no_file(tmp_path: Path) -> None:
    records = Records(tmp_path)
    assert records.read() == {}
    records.write({"kafka": KAFKA})
    records.write({})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["not json", "[]", '{"processes": 3}', '{"processes": {"kafka": {"pid": "1"}}}'])
def test_a_file_that_was_damaged_is_an_error_that_says_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / settings.SERVICES_FILE).write_text(text)
    with pytest.raises(ServiceError, match="remove the file"):
        Records(tmp_path).read()


def test_a_write_that_fails_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.write({"kafka": KAFKA})
    with pytest.raises(TypeError):
        records.write({"kafka": replace(KAFKA, port=object())})  # type: ignore[arg-type]
    assert records.read() == {"kafka": KAFKA}
    assert [path.name for path in tmp_path.iterdir()] == [settings.SERVICES_FILE]


def test_a_port_is_remembered_after_the_service_is_gone(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.keep_port("kafka", 20_001)
    records.keep_port("redis", 20_002)
    records.write({})
    assert (records.port("kafka"), records.port("redis"), records.port("web")) == (20_001, 20_002, None)
    assert json.loads((tmp_path / "ports.json").read_text()) == {"kafka": 20_001, "redis": 20_002}


def test_a_free_wish_is_granted_and_a_taken_one_is_not() -> None:
    with socket.create_server((port.HOST, 0)) as server:
        taken = server.getsockname()[1]
        free = port.choose([])
        assert not port.is_free(taken)
        assert port.choose([taken, free]) == free
    assert port.is_free(taken)


def test_a_port_that_is_meant_for_another_service_is_not_given_twice() -> None:
    wished = port.choose([])
    assert port.choose([wished], taken=[wished]) != wished


def test_a_port_that_a_stranger_holds_on_all_addresses_is_taken() -> None:
    with socket.create_server(("", 0)) as server:
        assert not port.is_free(server.getsockname()[1])


def test_a_port_is_not_one_that_outgoing_connections_are_given() -> None:
    assert all(port.choose([]) < 32_768 for _ in range(20))


def sleeper(tmp_path: Path, *, minded: bool = False) -> Process:
    command = ["/bin/sleep", "600"]
    return process.start(command, log=tmp_path / "log", folder=tmp_path, environment={}, minded=minded)


def test_a_process_is_known_until_it_is_killed(tmp_path: Path) -> None:
    started = sleeper(tmp_path)
    assert started.alive
    started.kill()
    assert (started.alive, process.birth(started.identity.pid)) == (False, None)


def test_a_stranger_with_a_known_pid_gets_no_signal(tmp_path: Path) -> None:
    stranger = sleeper(tmp_path)
    try:
        known = Process(Identity(stranger.identity.pid, "boot 1, long ago"))
        assert not known.alive
        known.stop(1.0, Interrupt())
        known.kill()
        assert stranger.alive
    finally:
        stranger.kill()


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen(["/bin/sleep", "600"])
    identity = Identity(child.pid, process.birth(child.pid) or "")
    assert identity.alive
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended and is not reaped
    alive = identity.alive
    child.wait()
    assert not alive


def test_ps_and_the_kernel_agree_on_who_is_alive(tmp_path: Path) -> None:
    started = sleeper(tmp_path)
    pid = started.identity.pid
    assert process._birth_by_ps(pid) == process._birth_by_ps(pid) is not None
    started.kill()
    assert process._birth_by_ps(pid) is None


def test_a_process_that_does_not_hear_is_killed_after_its_time(tmp_path: Path) -> None:
    deaf = ["/bin/sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 600; done"]
    started = process.start(deaf, log=tmp_path / "log", folder=tmp_path, environment={})
    assert process.wait_until(lambda: b"deaf" in (tmp_path / "log").read_bytes(), 10, Interrupt())
    assert not started.stop(0.05, Interrupt())
    assert not started.alive


def test_a_paused_process_is_stopped_too(tmp_path: Path) -> None:
    started = sleeper(tmp_path)
    started.identity.signal(signal.SIGSTOP)
    assert started.stop(10, Interrupt())


def test_a_minded_process_keeps_its_pid_and_ends_when_the_pipe_closes(tmp_path: Path) -> None:
    started = sleeper(tmp_path, minded=True)
    assert process.wait_until(lambda: b"sleep" in command_line(started.identity.pid), 10, Interrupt())
    child = started._child
    assert child is not None
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(10) == -signal.SIGKILL


def command_line(pid: int) -> bytes:
    return subprocess.run(["ps", "-o", "comm=", "-p", str(pid)], capture_output=True, check=True).stdout


def test_a_wait_is_ended_by_an_interrupt() -> None:
    interrupt = Interrupt()
    interrupt.raised = True
    with pytest.raises(KeyboardInterrupt):
        process.wait_until(lambda: False, 60, interrupt)


def test_a_lock_keeps_a_second_one_out_until_it_is_given_back(tmp_path: Path) -> None:
    interrupt = Interrupt()
    interrupt.raised = True  # so that a wait ends at once
    lock = tmp_path / "lock"
    with exclusive(lock, Interrupt()), pytest.raises(KeyboardInterrupt), exclusive(lock, interrupt):
        pytest.fail("two held one lock")
    with exclusive(tmp_path / "lock", interrupt):
        pass
