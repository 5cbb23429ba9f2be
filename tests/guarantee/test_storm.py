"""Thousands of tasks, three workers of two runners, faults at random: nothing is lost, one outcome counts, no commit
passes an unfinished record, order holds where it is kept, and what runs twice was running when a fault came."""

import pytest
from played_storm import Storm

from yadtq.settings import Order

ORDERS = [("unordered", 2_000), ("key", 1_000), ("partition", 400)]


@pytest.mark.parametrize("wipes", [0, 3], ids=["", "ledger wiped"])
@pytest.mark.parametrize(("order", "tasks"), ORDERS, ids=[order for order, _ in ORDERS])
def test_no_fault_breaks_a_guarantee(seed: int, order: Order, tasks: int, wipes: int) -> None:
    storm = Storm(seed, tasks, order, wipes=wipes)
    try:
        storm.run()
    finally:
        print(f"YADTQ_SEED={seed}: {storm}")
    storm.judge()


def test_the_same_seed_is_the_same_storm() -> None:
    first, second = Storm(7, 300), Storm(7, 300)
    for storm in (first, second):
        storm.run()
    assert str(first) == str(second)
