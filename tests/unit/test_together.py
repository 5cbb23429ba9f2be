"""Writes of many threads at the same time become few, and everybody's is done or has failed when it returns."""

import threading

import pytest

from waiting import eventually
from yadtq.errors import LedgerUnavailable
from yadtq.ledger import NewTask
from yadtq.publisher import Together


def task(name: str) -> NewTask:
    return NewTask(name, "add", "q", 0, 0, 0)


class Store:
    """Holds the first write until it is let go; the rest gathers."""

    def __init__(self, fails: bool = False) -> None:
        self.written: list[list[str]] = []
        self.go = threading.Event()
        self.entered = threading.Event()
        self.fails = fails

    def write(self, tasks: object) -> None:
        self.entered.set()
        assert self.go.wait(30)
        if self.fails:
            raise LedgerUnavailable("down")
        self.written.append([each.task_id for each in tasks])  # type: ignore[attr-defined]


def test_what_comes_while_a_write_is_under_way_goes_as_one() -> None:
    store = Store()
    together = Together(store.write)
    threads = [threading.Thread(target=together.write, args=([task("first")],))]
    threads[0].start()
    assert store.entered.wait(30)
    threads += [threading.Thread(target=together.write, args=([task(f"t{n}")],)) for n in range(16)]
    for thread in threads[1:]:
        thread.start()
    eventually(lambda: len(together._gathering.tasks) == 16)
    store.go.set()
    for thread in threads:
        thread.join()
    assert store.written[0] == ["first"]
    assert sorted(store.written[1]) == sorted(f"t{n}" for n in range(16))
    assert len(store.written) == 2
    together.write([task("later")])
    assert store.written[2] == ["later"]


def test_a_write_that_fails_fails_for_all_that_were_in_it_and_for_nobody_else() -> None:
    store = Store(fails=True)
    store.go.set()
    together = Together(store.write)
    with pytest.raises(LedgerUnavailable):
        together.write([task("a")])
    store.fails = False
    together.write([task("b")])
    assert store.written == [["b"]]
