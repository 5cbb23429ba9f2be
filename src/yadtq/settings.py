"""Where the services are and how a worker behaves, read once at the edge.

One order for every address: argument > `YADTQ_KAFKA` / `YADTQ_REDIS` > `yadtq.toml` > what `yadtq up` runs in this
folder > `localhost`. One invariant: a `Settings` is frozen and complete; nothing below the edge reads the environment.

`yadtq.toml`, all of it optional:

    kafka = "kafka+sasl+ssl://user:secret@k1:9093,k2:9093?sasl.mechanism=SCRAM-SHA-512"
    redis = "rediss://user:secret@cache:6380/0"
    prefix = "staging-"
    max_task_bytes = 262144
    max_result_bytes = 65536
    record_ttl_s = 86400
    [kafka_options]                 # anything librdkafka knows, for TLS and SASL in full
    "ssl.ca.location" = "/etc/ssl/company.pem"
"""

import difflib
import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from yadtq.errors import SettingsError

GroupProtocol = Literal["classic", "consumer"]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
DATA_FOLDER = ".yadtq"
SERVICES_FILE = "services.json"
TOML_FILE = "yadtq.toml"
EMBEDDED = "`yadtq up`"  # so begins the source of an address of its services
NOT_SET = "default: nothing else was set"
DEFAULTS = {"kafka": "localhost:9092", "redis": "localhost:6379"}
SECRET = ("password", "secret", "key")  # a name with one of these speaks of a secret

KNOWN: dict[str, tuple[type, str]] = {  # the keys of yadtq.toml
    "kafka": (str, "string"),
    "redis": (str, "string"),
    "prefix": (str, "string"),
    "kafka_options": (dict, "table"),
    "max_task_bytes": (int, "number from 1 up"),
    "max_result_bytes": (int, "number from 1 up"),
    "record_ttl_s": (int, "number from 1 up"),
}
Order = Literal["unordered", "key", "partition"]
_SECURITY = {
    "kafka": "PLAINTEXT",
    "kafka+ssl": "SSL",
    "kafka+sasl": "SASL_PLAINTEXT",
    "kafka+sasl+ssl": "SASL_SSL",
}


@dataclass(frozen=True)
class Address:
    """An address and the reason it was chosen, for `yadtq config show`."""

    value: str
    source: str

    @property
    def masked(self) -> str:
        """The address without its secrets."""
        return mask(self.value)


@dataclass(frozen=True)
class Settings:
    """Which Kafka and which Redis, and under which names."""

    kafka: Address
    redis: Address
    prefix: str = ""  # stands before every topic, group and key, so that environments can share a cluster
    kafka_options: Mapping[str, str] = field(default_factory=dict)  # librdkafka properties, laid over the address's
    max_task_bytes: int = 256 * 1024  # an envelope above this is refused before it is produced
    max_result_bytes: int = 64 * 1024  # a result above this fails its task
    record_ttl_s: int = 86_400  # how long the ledger remembers a finished task

    def kafka_config(self) -> dict[str, str]:
        """The librdkafka properties that reach this Kafka."""
        return {**parse_kafka(self.kafka.value), **self.kafka_options}


@dataclass(frozen=True)
class WorkerSettings:
    """How one worker behaves."""

    name: str
    concurrency: int = 16  # slots: attempts that run at the same time
    group: str = "workers"  # the Kafka consumer group
    beat_s: float = 5.0  # between two heartbeats
    lease_s: float = 10.0  # a beat later than this means DEAD, and the claims may be taken over
    session_ms: int = 10_000  # Kafka moves a silent member's partitions after this
    group_protocol: GroupProtocol = "classic"  # consumer: KIP-848; the broker decides the session
    commit_s: float = 1.0  # the longest time between two commits of offsets that moved
    commit_after: int = 500  # completions that bring a commit forward
    grace_s: float = 30.0  # how long a drain waits for what runs
    health: str = ""  # host:port on loopback where it answers how it is; empty: nowhere
    order: Order = "unordered"  # key: one task of an ordering key at a time, in their order; partition: of a partition

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > 100 or not self.name.isprintable():
            raise SettingsError(f"a worker's name has 1 to 100 printable characters, not {self.name!r}")
        if self.concurrency < 1:
            raise SettingsError(f"concurrency is at least 1, not {self.concurrency}")
        if not 0 < self.beat_s < self.lease_s:
            raise SettingsError(f"the lease ({self.lease_s:g} s) must be longer than the beat ({self.beat_s:g} s)")
        if self.health:
            loopback(self.health)

    def allowing(self, lease_s: float) -> "WorkerSettings":
        """The same, DEAD after so many seconds without a beat; then Kafka gives its partitions to others too."""
        return replace(self, lease_s=lease_s, beat_s=min(self.beat_s, lease_s / 2), session_ms=int(lease_s * 1000))


@dataclass(frozen=True)
class Sources:
    """What the environment and the files of a folder say."""

    folder: Path
    environ: Mapping[str, str]
    toml: Mapping[str, object]
    running: Mapping[str, str]  # what `yadtq up` wrote

    @classmethod
    def of(cls, folder: Path, environ: Mapping[str, str]) -> "Sources":
        """Read them. Raises SettingsError: one of the files cannot be used."""
        toml = _read_toml(folder / TOML_FILE)
        return cls(folder, environ, toml, _read_services(folder / DATA_FOLDER / SERVICES_FILE))

    def addresses(self, name: str, argument: str | None = None) -> list[Address]:
        """Every address of a service that somebody offers; the first one wins."""
        variable = f"YADTQ_{name.upper()}"
        offers = (
            (argument, "argument"),
            (self.environ.get(variable), f"environment variable {variable}"),
            (self.toml.get(name), TOML_FILE),
            (self.running.get(name), f"{EMBEDDED} in {self.folder}"),
        )
        found = [Address(str(value), source) for value, source in offers if value]
        return [*found, Address(DEFAULTS[name], "default" if found else NOT_SET)]


def load(
    *,
    kafka: str | None = None,
    redis: str | None = None,
    folder: Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Find the services and settings for a program that runs in `folder`.

    Args:
        kafka: Wins over everything else: `host:port[,host:port]`, or a URL `kafka[+sasl][+ssl]://...`.
        redis: Wins over everything else: `host:port`, or a URL `redis://...` or `rediss://...`.
        folder: Where `yadtq.toml` and the data folder are looked for; the working folder if left out.

    Raises:
        SettingsError: A value cannot be used, or `yadtq.toml` has a key nobody knows.
    """
    sources = Sources.of(folder or Path.cwd(), environ)
    toml = sources.toml
    settings = Settings(
        kafka=sources.addresses("kafka", kafka)[0],
        redis=sources.addresses("redis", redis)[0],
        prefix=environ.get("YADTQ_PREFIX", str(toml.get("prefix", ""))),
        kafka_options=_string_table(toml.get("kafka_options", {})),
        **{name: value for name, value in toml.items() if isinstance(value, int)},
    )
    settings.kafka_config()
    redis_url(settings.redis.value)
    return settings


def parse_kafka(address: str) -> dict[str, str]:
    """Turn an address into librdkafka properties.

    Raises:
        SettingsError: The address is neither `host:port[,...]` nor a `kafka...://` URL.
    """
    if "://" not in address:
        return {"bootstrap.servers": _servers(address)}
    try:
        url = urlsplit(address)
    except ValueError:
        raise SettingsError(f"Kafka's address is no URL: {mask(address)}") from None
    if url.scheme not in _SECURITY:
        raise SettingsError(f"Kafka's address starts with one of {', '.join(f'{s}://' for s in _SECURITY)}")
    user, _, servers = url.netloc.rpartition("@")
    config = {"bootstrap.servers": _servers(servers), "security.protocol": _SECURITY[url.scheme]}
    if user:
        name, _, password = user.partition(":")
        config |= {"sasl.mechanism": "PLAIN", "sasl.username": unquote(name), "sasl.password": unquote(password)}
    return config | dict(parse_qsl(url.query))


def redis_url(address: str) -> str:
    """Turn `host:port` or a URL into a URL.

    Raises:
        SettingsError: It is neither.
    """
    url = address if "://" in address else f"redis://{address}"
    try:
        parts = urlsplit(url)
        good = parts.hostname or parts.scheme == "unix"
        _ = parts.port
    except ValueError:
        good = None
    if not good or parts.scheme not in ("redis", "rediss", "unix"):
        raise SettingsError(
            "Redis's address is host:port, redis://..., rediss://... or unix://...; in a password / is %2F"
        )
    database = parts.path.strip("/")
    if parts.scheme != "unix" and database and not (database.isascii() and database.isdigit()):
        # The client would take database 0 without a word, and two programs would look at different ones.
        raise SettingsError(f"the database in Redis's address is a number, as in redis://host:6379/0, not {database!r}")
    return url


def loopback(address: str) -> tuple[str, int]:
    """Read a host and port to listen on.

    Raises:
        SettingsError: It is no such address, or others than this machine would be served.
    """
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65_536):
        raise SettingsError(f"an address to listen on is host:port, such as 127.0.0.1:8081, not {address!r}")
    if host not in LOOPBACK:
        raise SettingsError(
            f"only {', '.join(LOOPBACK)} can be listened on, not {host!r}: there are no tokens yet, and everybody who "
            "can reach it would be answered. To ask from elsewhere, forward the port: ssh -L 8081:127.0.0.1:8081"
        )
    return host, int(port)


def masked_value(name: str, value: str) -> str:
    """Hide a value whose name speaks of a secret."""
    return "***" if any(word in name.lower() for word in SECRET) else value


def mask(address: str) -> str:
    """Hide the secrets of an address: its password, and query values whose name speaks of one."""
    bare = "://" not in address
    try:
        url = urlsplit(f"//{address}" if bare else address)
    except ValueError:  # nothing in it can be told apart
        return "***"
    user, at, host = url.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    query = "&".join(f"{key}={masked_value(key, value)}" for key, value in parse_qsl(url.query))
    masked = urlunsplit(url._replace(netloc=f"{name}{':***' if colon else ''}{at}{host}", query=query))
    return masked.removeprefix("//") if bare else masked


def advice(address: Address) -> str:
    """What to look at where nobody answers at an address: where it came from, or the services that are ours."""
    if address.source.startswith(EMBEDDED):
        return "Is it running? `yadtq status`"
    if address.source == NOT_SET:
        return "No address was set: `yadtq up` starts the services here, `yadtq config show` says where one can be set"
    return f"Is the address right? It is from: {address.source}"


def _servers(text: str) -> str:
    for server in text.split(","):
        host, colon, port = server.strip().rpartition(":")
        if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
            raise SettingsError(
                f"Kafka's address is host:port, several with commas between, not {mask(server.strip())!r}"
            )
    return text


def _read_toml(path: Path) -> dict[str, object]:
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    for key, value in table.items():
        if key not in KNOWN:
            near = difflib.get_close_matches(key, KNOWN, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(KNOWN)}"
            raise SettingsError(f"{path} has the unknown key {key!r}{hint}")
        kind, called = KNOWN[key]
        if not isinstance(value, kind) or isinstance(value, bool) or (isinstance(value, int) and value < 1):
            raise SettingsError(f"{path}: {key} is a {called}")
    return table


def _read_services(path: Path) -> dict[str, str]:
    """What `yadtq up` wrote. It is removed by `yadtq down`, so its presence means running."""
    try:
        table = json.loads(path.read_text("utf-8"))
        if not isinstance(table, dict):
            raise ValueError("not an object")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read ({error}); run `yadtq down` and `yadtq up` again") from error
    return {name: table[name] for name in ("kafka", "redis") if isinstance(table.get(name), str)}


def _string_table(table: object) -> dict[str, str]:
    """Librdkafka takes strings; TOML users write true and 30."""
    if not isinstance(table, dict):
        raise SettingsError("kafka_options is a table")
    return {str(key): str(value).lower() if isinstance(value, bool) else str(value) for key, value in table.items()}
