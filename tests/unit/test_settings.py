"""Where the services are found, and what is said when a setting cannot be used."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yadtq.errors import SettingsError
from yadtq.settings import Settings, WorkerSettings, advice, load, loopback, mask, parse_kafka, redis_url


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a yadtq.toml and running services."""
    (tmp_path / "yadtq.toml").write_text('kafka = "toml:1"\nredis = "toml:2"\n')
    (tmp_path / ".yadtq").mkdir()
    (tmp_path / ".yadtq" / "services.json").write_text(json.dumps({"kafka": "up:1", "redis": "redis://up:2/0"}))
    return tmp_path


ENVIRON = {"YADTQ_KAFKA": "env:1", "YADTQ_REDIS": "env:2"}


def test_an_argument_wins_over_everything(folder: Path) -> None:
    settings = load(kafka="arg:1", redis="arg:2", folder=folder, environ=ENVIRON)
    assert (settings.kafka.value, settings.redis.value) == ("arg:1", "arg:2")
    assert settings.kafka.source == settings.redis.source == "argument"


def test_then_the_environment(folder: Path) -> None:
    settings = load(folder=folder, environ=ENVIRON)
    assert (settings.kafka.value, settings.kafka.source) == ("env:1", "environment variable YADTQ_KAFKA")
    assert (settings.redis.value, settings.redis.source) == ("env:2", "environment variable YADTQ_REDIS")


def test_then_the_toml_file(folder: Path) -> None:
    settings = load(folder=folder, environ={"YADTQ_KAFKA": ""})
    assert (settings.kafka.value, settings.redis.value) == ("toml:1", "toml:2")
    assert settings.kafka.source == settings.redis.source == "yadtq.toml"


def test_then_what_runs_in_the_folder(folder: Path) -> None:
    (folder / "yadtq.toml").unlink()
    settings = load(folder=folder, environ={})
    assert (settings.kafka.value, settings.redis.value) == ("up:1", "redis://up:2/0")
    assert settings.kafka.source == f"`yadtq up` in {folder}"


def test_then_the_usual_ports_of_this_machine(tmp_path: Path) -> None:
    settings = load(folder=tmp_path, environ={})
    assert (settings.kafka.value, settings.redis.value) == ("localhost:9092", "localhost:6379")
    assert settings.kafka.source.startswith("default")


def test_where_nobody_answers_the_advice_is_about_the_source_of_the_address(folder: Path, tmp_path: Path) -> None:
    def given(kafka: str | None = None, environ: dict[str, str] | None = None) -> str:
        return advice(load(kafka=kafka, folder=folder, environ=environ or {}).kafka)

    assert given("arg:1") == "Is the address right? It is from: argument"
    assert given(environ=ENVIRON) == "Is the address right? It is from: environment variable YADTQ_KAFKA"
    assert given() == "Is the address right? It is from: yadtq.toml"
    (folder / "yadtq.toml").unlink()
    assert given() == "Is it running? `yadtq status`"
    (folder / ".yadtq" / "services.json").unlink()
    assert given().startswith("No address was set: `yadtq up` starts the services here")


def test_each_address_has_an_order_of_its_own(folder: Path) -> None:
    settings = load(kafka="arg:1", folder=folder, environ={})
    assert (settings.kafka.value, settings.redis.value) == ("arg:1", "toml:2")


def test_without_a_folder_the_working_folder_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert load(environ={}).kafka.value == "toml:1"


def test_the_prefix_comes_from_the_environment_or_the_toml_file(tmp_path: Path) -> None:
    assert load(folder=tmp_path, environ={}).prefix == ""
    (tmp_path / "yadtq.toml").write_text('prefix = "staging-"')
    assert load(folder=tmp_path, environ={}).prefix == "staging-"
    assert load(folder=tmp_path, environ={"YADTQ_PREFIX": "test-"}).prefix == "test-"


def test_kafka_options_reach_the_client_as_it_writes_them(tmp_path: Path) -> None:
    (tmp_path / "yadtq.toml").write_text(
        'kafka = "kafka+ssl://k:1"\n[kafka_options]\n"ssl.ca.location" = "/ä.pem"\n"enable.x" = true\n"x.ms" = 30\n'
        '"security.protocol" = "SASL_SSL"\n',
        "utf-8",
    )
    assert load(folder=tmp_path, environ={}).kafka_config() == {
        "bootstrap.servers": "k:1",
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": "/ä.pem",
        "enable.x": "true",
        "x.ms": "30",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kafak = 'a:1'", "unknown key 'kafak'; did you mean 'kafka'?"),
        ("zzz = 1", "unknown key 'zzz'; known are kafka, redis, prefix, kafka_options"),
        ("kafka = 7", "kafka is a string"),
        ("prefix = true", "prefix is a string"),
        ("kafka_options = 'x'", "kafka_options is a table"),
        ("[redis]\nhost = 'x'", "redis is a string"),
        ("kafka = ", "cannot be read"),
        ("kafka = 'nowhere'", "host:port"),
        ("redis = 'http://x:1'", "redis://"),
    ],
)
def test_a_wrong_toml_file_is_an_error_that_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "yadtq.toml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        load(folder=tmp_path, environ={})
    assert message in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[]", "7", "\x00"])
def test_a_damaged_list_of_services_says_how_to_mend_it(tmp_path: Path, content: str) -> None:
    (tmp_path / ".yadtq").mkdir()
    (tmp_path / ".yadtq" / "services.json").write_text(content)
    with pytest.raises(SettingsError, match="yadtq down"):
        load(folder=tmp_path, environ={})


@pytest.mark.parametrize(
    ("address", "config"),
    [
        ("k:9092", {"bootstrap.servers": "k:9092"}),
        ("a:1,b:2", {"bootstrap.servers": "a:1,b:2"}),
        ("[::1]:9092", {"bootstrap.servers": "[::1]:9092"}),
        ("kafka://k:1", {"bootstrap.servers": "k:1", "security.protocol": "PLAINTEXT"}),
        ("kafka+ssl://k:1,l:2", {"bootstrap.servers": "k:1,l:2", "security.protocol": "SSL"}),
        (
            "kafka+sasl://user:p%40ss%3A@k:1",
            {
                "bootstrap.servers": "k:1",
                "security.protocol": "SASL_PLAINTEXT",
                "sasl.mechanism": "PLAIN",
                "sasl.username": "user",
                "sasl.password": "p@ss:",
            },
        ),
        (
            "kafka+sasl+ssl://u:p@k:1?sasl.mechanism=SCRAM-SHA-512&ssl.ca.location=/x%20y",
            {
                "bootstrap.servers": "k:1",
                "security.protocol": "SASL_SSL",
                "sasl.mechanism": "SCRAM-SHA-512",
                "sasl.username": "u",
                "sasl.password": "p",
                "ssl.ca.location": "/x y",
            },
        ),
    ],
)
def test_an_address_of_kafka_becomes_what_its_client_takes(address: str, config: dict[str, str]) -> None:
    assert parse_kafka(address) == config


@pytest.mark.parametrize(
    "address",
    [
        "k",
        "k:",
        ":1",
        "k:0",
        "k:65536",
        "k:x",
        "k:²",
        "",
        "k:1,",
        "http://k:1",
        "kafka://",
        "kafka://k",
        "kafka://[::1",
    ],
)
def test_what_is_no_address_of_kafka_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="Kafka's address"):
        parse_kafka(address)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("r:6379", "redis://r:6379"),
        ("redis://r:1/2", "redis://r:1/2"),
        ("rediss://u:p@r:1", "rediss://u:p@r:1"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
    ],
)
def test_an_address_of_redis_becomes_a_url(address: str, url: str) -> None:
    assert redis_url(address) == url


@pytest.mark.parametrize("address", ["", ":6379", "http://r:1", "redis://", "r:x", "r:99999", "redis://[::1", "r:²"])
def test_what_is_no_address_of_redis_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="Redis's address"):
        redis_url(address)


@pytest.mark.parametrize("address", ["redis://r:1/main", "rediss://r/²", "r:1/0/1"])
def test_a_database_of_redis_that_is_no_number_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match=r"the database in Redis's address is a number"):
        redis_url(address)


@given(st.text() | st.text(alphabet="kafka+sl:/@[]?=&,0123456789.-").map(lambda text: f"kafka://{text}"))
def test_any_text_is_an_address_or_a_settings_error(text: str) -> None:
    for read in (parse_kafka, redis_url):
        with contextlib.suppress(SettingsError):
            read(text)


@pytest.mark.parametrize(
    ("address", "masked"),
    [
        ("k:9092", "k:9092"),
        ("redis://r:1/0", "redis://r:1/0"),
        ("redis://user@r:1/0", "redis://user@r:1/0"),
        ("redis://:secret@r:1/0", "redis://:***@r:1/0"),
        ("user:secret@r:6379", "user:***@r:6379"),
        (":secret@r:6379", ":***@r:6379"),
        ("kafka+sasl://user:secret@a:1,b:2", "kafka+sasl://user:***@a:1,b:2"),
        ("kafka+sasl://user:sec@ret@a:1", "kafka+sasl://user:***@a:1"),
        (
            "kafka+ssl://a:1?ssl.key.password=secret&ssl.ca.location=/x&sasl.password=secret",
            "kafka+ssl://a:1?ssl.key.password=***&ssl.ca.location=/x&sasl.password=***",
        ),
        ("redis://r:1?client_secret=secret", "redis://r:1?client_secret=***"),
        ("redis://[::1", "***"),
    ],
)
def test_secrets_are_masked_and_the_rest_is_not(address: str, masked: str) -> None:
    assert mask(address) == masked


@pytest.mark.parametrize(
    "address", ["redis://:secret@r:x", "redis://:sec/secret@r:1", "kafka+sasl://user:secret@k", "user:secret@k"]
)
def test_an_error_about_an_address_tells_no_secret(address: str) -> None:
    for complaint in (complaint_about(read, address) for read in (parse_kafka, redis_url)):
        assert "secret" not in complaint


def complaint_about(read: Callable[[str], object], address: str) -> str:
    try:
        read(address)
    except SettingsError as error:
        return str(error)
    return ""


def test_settings_can_be_made_by_hand(tmp_path: Path) -> None:
    settings = load(kafka="a:1", redis="b:2", folder=tmp_path, environ={})
    assert settings == Settings(kafka=settings.kafka, redis=settings.redis)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "x" * 101},
        {"name": "a\nb"},
        {"concurrency": 0},
        {"beat_s": 10.0},
        {"beat_s": 0.0},
        {"lease_s": 5.0},
        {"health": "0.0.0.0:80"},
    ],
)
def test_a_worker_that_cannot_work_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        WorkerSettings(**({"name": "w"} | wrong))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("address", "read"),
    [
        ("127.0.0.1:8081", ("127.0.0.1", 8081)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65_535)),
    ],
)
def test_an_address_to_listen_on_is_a_host_and_a_port(address: str, read: tuple[str, int]) -> None:
    assert loopback(address) == read


@pytest.mark.parametrize("address", ["8081", ":8081", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536"])
def test_what_is_no_address_to_listen_on_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="host:port"):
        loopback(address)


@pytest.mark.parametrize("address", ["0.0.0.0:80", "[::]:80", "192.168.1.7:80", "example.com:80", "127.0.0.2:80"])
def test_an_address_that_others_could_reach_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="no tokens yet"):
        loopback(address)
