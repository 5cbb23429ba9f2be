"""Fixtures for all tests. Real services in tests are real: where they cannot be started, the tests fail."""

import signal
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from yadtq.dev.services import Services

# What tests share asserts in their name: its failures say what the values were, like those of the tests themselves.
pytest.register_assert_rewrite(
    *("waiting", "opening", "stage", "books", "played_storm", "broker_bench", "ledger_bench", "runner_bench"),
    *("scene", "account", "drama", "observer", "storm", "yadtq_up"),
)

# A shared machine may be slow at any moment; how long one example takes says nothing about the code.
settings.register_profile("yadtq", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("yadtq")


def pytest_configure(config: pytest.Config) -> None:
    # A run that is told to end (by `timeout`, by CI) leaves as after Ctrl+C: through every fixture's end.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    config.addinivalue_line("markers", "real: talks to a real Kafka or Valkey")
    config.addinivalue_line("markers", "slow: takes longer than `make check` may; `make test` runs it")
    config.addinivalue_line("markers", "soak: takes minutes; only `make soak` runs it")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "soak" in config.option.markexpr:
        return
    soaks = [item for item in items if item.get_closest_marker("soak")]
    config.hook.pytest_deselected(items=soaks)
    items[:] = [item for item in items if item not in soaks]


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """A Kafka and a Valkey for this session, on free ports. They end with it, whatever ends it."""
    with Services.started(tmp_path_factory.mktemp("services")) as started:
        yield started


@pytest.fixture(scope="session")
def kafka_address(services: Services) -> str:
    """The real Kafka, as host:port."""
    return services.kafka


@pytest.fixture(scope="session")
def redis_url(services: Services) -> str:
    """The real Valkey."""
    return services.redis


@pytest.fixture
def prefix() -> str:
    """A prefix for topics, groups and keys that no other test has, so that tests can share the services."""
    return f"t{uuid.uuid4().hex[:12]}-"


@pytest.fixture
def topic(prefix: str) -> str:
    """The name of a topic that no other test has. It is not created."""
    return f"{prefix}q"
