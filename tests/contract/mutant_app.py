"""The tasks of the runner tests, for a child whose page says that user code has come back when it has only begun."""

from runner_app import app

from yadtq.runners.seats import Seats

__all__ = ["app"]

really = Seats.start


def start_and_end(seats: Seats, seat: int, number: int) -> None:
    really(seats, seat, number)
    seats.end(seat, number)


Seats.start = start_and_end  # type: ignore[method-assign]
