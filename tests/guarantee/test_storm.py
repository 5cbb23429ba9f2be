"""Thousands of tasks, three workers of two runners, and faults at random: nothing is lost, one outcome counts, no commit
passes an unfinished record, order holds where it is kept, and what runs twice was running when a fault came."""

import pytest
from storm import Storm

from yadtq.settings import Order


@pytest.mark.parametrize(("order", "tasks"), [("unordered", 2_000), ("key", 1_000), ("partition", 500)])
def test_no_fault_breaks_a_guarantee(seed: int, order: Order, tasks: int) -> None:
    storm = Storm(seed, tasks, order)
    print(f"seed {seed}")
    try:
        storm.run()
    finally:
        print(storm)
    storm.judge()
