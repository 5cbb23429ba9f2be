import os
import random

import pytest

import yadtq.intake
import yadtq.scheduler


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll that finds nothing returns at once: the world says itself what happens next."""
    for module in (yadtq.intake, yadtq.scheduler):
        monkeypatch.setattr(module, "POLL_S", 0.0)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes a seed gets a new one in every run; its name shows it, and YADTQ_SEED brings it back."""
    if "seed" in metafunc.fixturenames:
        given = os.environ.get("YADTQ_SEED")
        seeds = [int(given)] if given else [random.randrange(10**6) for _ in range(getattr(metafunc.module, "RUNS", 1))]
        metafunc.parametrize("seed", seeds)
