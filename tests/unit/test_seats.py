"""The page says what had started, also to a process that did not see it happen."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from yadtq.runners.seats import LEASES, Seats, open_page


@pytest.fixture
def sides() -> Iterator[tuple[Seats, Seats]]:
    page = open_page(4)
    worker, runner = Seats(page, 4), Seats(page, 4)
    os.close(page)
    yield worker, runner
    worker.close()
    runner.close()


@pytest.mark.parametrize("number", [0, 1, 2**62])
def test_a_seat_shows_each_step_of_its_attempt_and_of_no_other(sides: tuple[Seats, Seats], number: int) -> None:
    worker, runner = sides
    worker.clear(3)
    assert not worker.started(3, number)
    assert not worker.touched(3, number)
    before = time.monotonic_ns()
    runner.start(3, number)
    assert worker.started(3, number)
    assert worker.touched(3, number)
    assert not worker.started(3, number + 1)
    assert not worker.started(2, number)
    assert before <= worker.started_ns(3) <= time.monotonic_ns()
    runner.end(3, number)
    assert not worker.started(3, number)
    assert worker.touched(3, number)


def test_an_attempt_under_the_same_number_is_not_taken_for_the_last_one(sides: tuple[Seats, Seats]) -> None:
    worker, runner = sides
    runner.start(0, 7)
    runner.end(0, 7)
    worker.clear(0)
    assert not worker.touched(0, 7)


def test_a_job_may_start_under_the_number_of_the_lease_and_until_its_end(sides: tuple[Seats, Seats]) -> None:
    worker, runner = sides
    assert not any(runner.allows(lease, 0.0) for lease in (0, 1)), "there is no lease yet"
    worker.renew(7, 5_000.25)
    assert runner.allows(7, 5_000.249)
    assert not runner.allows(7, 5_000.25)
    assert not runner.allows(6, 5_000.0)
    assert not runner.allows(8, 5_000.0)
    runner.start(3, 1)
    runner.end(3, 1)
    assert runner.allows(7, 5_000.0), "the last seat's words are not those of the lease"


def test_a_new_lease_revives_nothing_of_the_one_before(sides: tuple[Seats, Seats]) -> None:
    worker, runner = sides
    worker.renew(LEASES - 1, 10.0)
    for number, until_s in ((LEASES - 1, 0.0), (1, 0.0), (1, 100.0)):
        worker.renew(number, until_s)
        assert not runner.allows(LEASES - 1, 5.0)
    assert runner.allows(1, 99.0)


def test_what_a_killed_process_wrote_stays() -> None:
    page = open_page(1)
    worker = Seats(page, 1)
    if (child := os.fork()) == 0:
        worker.start(0, 9)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert worker.started(0, 9)
    worker.close()
    os.close(page)
