"""Mutants of the lower floors."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import test_seats

from mutants import Mutant, Mutants, turns_red
from yadtq.runners.seats import Seats, open_page

PAGE = Mutants()


@PAGE.add(
    "the runner clears nothing: of what has ended and has no outcome yet the page says that it was begun",
    lambda sides: test_seats.test_a_seat_shows_each_step_of_its_attempt_and_of_no_other(sides, 7),
)
def word_cleared_before_the_outcome_is_sent(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Seats, "end", lambda self, seat, _: self.clear(seat))


@PAGE.add(
    "a seat is empty when it is named to the runner",
    test_seats.test_an_attempt_under_the_same_number_is_not_taken_for_the_last_one,
)
def seat_not_cleared(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Seats, "clear", lambda *_: None)


@contextmanager
def ground() -> Iterator[tuple[tuple[Seats, Seats]]]:
    page = open_page(4)
    worker, runner = Seats(page, 4), Seats(page, 4)
    os.close(page)
    try:
        yield ((worker, runner),)
    finally:
        worker.close()
        runner.close()


@pytest.mark.parametrize("mutant", PAGE, ids=str)
def test_a_mutant_of_the_page_does_not_survive(mutant: Mutant) -> None:
    turns_red(mutant, ground)
