"""Jars reach the cache only when their sum is right, and nothing else ever does."""

import errno
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from yadtq.dev import jars
from yadtq.dev.jars import Jar, JarStore
from yadtq.dev.process import Interrupt
from yadtq.errors import ServiceError

Answer = bytes | Exception


def content(name: str) -> bytes:
    return f"the bytes of {name}".encode()


def jar(name: str) -> Jar:
    return Jar(hashlib.sha256(content(name)).hexdigest(), "org.example", name, "1.0")


class Origin:
    """Where jars come from. Answers as it is told, then with the right bytes."""

    def __init__(self, **answers: list[Answer]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def fetch(self, wanted: Jar, folder: Path, on_bytes: Callable[[int], None]) -> Path:
        self.asked.append(wanted.artifact)
        answers = self.answers.get(wanted.artifact)
        answer = answers.pop(0) if answers else content(wanted.artifact)
        if isinstance(answer, Exception):
            raise answer
        path = folder / wanted.file_name
        path.write_bytes(answer)
        on_bytes(len(answer))
        return path


def store(cache: Path, origin: Origin, *names: str) -> JarStore:
    return JarStore(cache, [jar(name) for name in names], origin.fetch)


def provide(jar_store: JarStore) -> list[str]:
    paths = jar_store.provide(Interrupt(), lambda _done, _total, _bytes: None)
    return [path.name for path in paths]


def in_cache(cache: Path) -> set[str]:
    """Every file in the cache except the lock, which is empty and stays."""
    return {path.name for path in cache.rglob("*") if path.is_file() and path.name != "lock"}


def test_what_is_missing_is_fetched_and_what_is_there_is_not(tmp_path: Path) -> None:
    origin = Origin()
    provide(store(tmp_path, origin, "a"))
    assert provide(store(tmp_path, origin, "a", "b", "c")) == ["a-1.0.jar", "b-1.0.jar", "c-1.0.jar"]
    assert sorted(origin.asked) == ["a", "b", "c"]
    assert in_cache(tmp_path) == {"a-1.0.jar", "b-1.0.jar", "c-1.0.jar"}


def test_a_wrong_sum_is_fetched_once_more(tmp_path: Path) -> None:
    origin = Origin(a=[b"something else"])
    jar_store = store(tmp_path, origin, "a")
    provide(jar_store)
    assert origin.asked == ["a", "a"]
    assert jar_store.paths[0].read_bytes() == content("a")


def test_a_wrong_sum_twice_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    origin = Origin(a=[b"something else", b"and again"])
    with pytest.raises(ServiceError, match=r"a-1\.0\.jar.*SHA-256"):
        provide(store(tmp_path, origin, "a"))
    assert in_cache(tmp_path) == set()
    assert origin.asked == ["a", "a"]


def test_a_cut_download_is_fetched_once_more(tmp_path: Path) -> None:
    origin = Origin(a=[content("a")[:-3]])
    assert provide(store(tmp_path, origin, "a")) == ["a-1.0.jar"]


def test_a_jar_that_was_damaged_in_the_cache_is_replaced(tmp_path: Path) -> None:
    jar_store = store(tmp_path, Origin(), "a")
    provide(jar_store)
    jar_store.paths[0].write_bytes(b"damaged")
    provide(jar_store)
    assert jar_store.paths[0].read_bytes() == content("a")


def test_without_a_network_the_error_says_what_to_do(tmp_path: Path) -> None:
    origin = Origin(a=[ConnectionError("a host did not answer"), ConnectionError("a host did not answer")])
    with pytest.raises(ServiceError, match=r"no connection.*needs the network") as caught:
        provide(store(tmp_path, origin, "a"))
    assert "a host" not in str(caught.value)
    assert in_cache(tmp_path) == set()


def test_what_was_complete_before_a_failure_stays(tmp_path: Path) -> None:
    origin = Origin(b=[RuntimeError("not there"), RuntimeError("not there")])
    provide(store(tmp_path, origin, "a"))
    with pytest.raises(ServiceError, match="not there"):
        provide(store(tmp_path, origin, "a", "b"))
    assert in_cache(tmp_path) == {"a-1.0.jar"}


def test_a_full_disk_is_named_and_not_tried_again(tmp_path: Path) -> None:
    origin = Origin(a=[OSError(errno.ENOSPC, "No space left on device")])
    with pytest.raises(ServiceError, match="no space left in"):
        provide(store(tmp_path, origin, "a"))
    assert origin.asked == ["a"]
    assert in_cache(tmp_path) == set()


def test_an_interrupt_ends_the_fetch_and_removes_what_is_half(tmp_path: Path) -> None:
    interrupt, half, ended = Interrupt(), threading.Event(), threading.Event()

    def endless(wanted: Jar, folder: Path, on_bytes: Callable[[int], None]) -> Path:
        path = folder / wanted.file_name
        path.write_bytes(b"half")
        half.set()
        try:
            while True:
                on_bytes(1)
        finally:
            ended.set()

    def on_progress(_done: int, _total: int, _bytes: int) -> None:
        interrupt.raised = half.is_set()

    with pytest.raises(KeyboardInterrupt):
        JarStore(tmp_path, [jar("a")], endless).provide(interrupt, on_progress)
    assert ended.is_set()
    assert in_cache(tmp_path) == set()


def test_what_a_killed_fetch_left_is_removed_by_the_next(tmp_path: Path) -> None:
    jar_store = store(tmp_path, Origin(), "a")
    left = jar_store.folder / "fetch-left" / "half.jar"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    provide(jar_store)
    assert in_cache(tmp_path) == {"a-1.0.jar"}


def test_the_list_names_each_jar_of_this_kafka_once_with_a_sum() -> None:
    wanted = jars.wanted()
    assert len({one.file_name for one in wanted}) == len(wanted) == 45
    assert all(len(one.sha256) == 64 and int(one.sha256, 16) for one in wanted)
    assert {one.version for one in wanted if one.group == "org.apache.kafka"} == {jars.KAFKA_VERSION}


def test_the_cache_is_where_each_system_keeps_caches() -> None:
    assert jars.cache_folder({"XDG_CACHE_HOME": "/c"}, "linux") == Path("/c/yadtq")
    assert jars.cache_folder({}, "linux") == Path.home() / ".cache/yadtq"
    assert jars.cache_folder({}, "darwin") == Path.home() / "Library/Caches/yadtq"
