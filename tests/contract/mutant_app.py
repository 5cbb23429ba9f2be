"""The tasks of the runner tests, for children that do one thing wrong: which, says the name of the app."""

from runner_app import app as sound

from yadtq.app import App
from yadtq.runners.seats import Seats

really = Seats.start


def start_and_end(seats: Seats, seat: int, number: int) -> None:
    really(seats, seat, number)
    seats.end(seat, number)


def __getattr__(name: str) -> App:
    match name:
        case "hasty":  # its page says that user code has come back when it has only begun
            Seats.start = start_and_end  # type: ignore[assignment, method-assign]
        case "careless":  # it does not look at the lease
            Seats.allows = lambda *_: True  # type: ignore[method-assign]
        case _:
            raise AttributeError(name)
    return sound
