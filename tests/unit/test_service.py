"""The lifecycle of everything that runs on a thread of its own."""

import threading

from yadtq.service import Service, SystemClock


class Loop(Service):
    """Runs until it is stopped, or breaks at once."""

    def __init__(self, error: BaseException | None = None) -> None:
        super().__init__("loop")
        self.error = error
        self.running = threading.Event()
        self.told: list[bool] = []
        self.watchers.append(lambda: self.told.append(self.ended.is_set()))

    def run(self) -> None:
        self.running.set()
        if self.error:
            raise self.error
        self.stopping.wait()


def test_a_service_runs_until_it_is_stopped() -> None:
    loop = Loop()
    loop.start()
    assert loop.running.wait(10)
    assert loop.alive
    assert not loop.join(0)
    loop.stop()
    assert loop.join(10)
    assert (loop.alive, loop.failure, loop.told) == (False, None, [True])


def test_what_ended_a_service_is_kept_and_its_watchers_are_told() -> None:
    for error in (ValueError("broken"), SystemExit(3)):
        loop = Loop(error)
        loop.start()
        assert loop.join(10)
        assert loop.failure is error
        assert loop.told == [True]


def test_a_service_that_never_started_has_ended() -> None:
    loop = Loop()
    assert not loop.alive
    loop.stop()
    assert loop.join(0)


def test_the_clocks_of_the_machine_do_not_go_back() -> None:
    clock = SystemClock()
    assert clock.mono_s() <= clock.mono_s()
    assert clock.now_ms() > 1_700_000_000_000
