"""How much of everything a bench does: the sizes of a full one and of a smoke test.

One invariant: a size is the number of one run of one contestant; ratios are of rates, so contestants may differ.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Plan:
    """The sizes of a bench."""

    runs: int = 5
    drained: dict[str, int] = field(
        default_factory=lambda: {
            "yadtq": 40_000,
            "handloop": 40_000,
            "celery": 2_000,
            "dramatiq": 6_000,
            "huey": 8_000,
        }
    )
    submitted: dict[str, int] = field(
        default_factory=lambda: {"one": 2_000, "threads": 8_000, "bulk": 20_000, "peers": 3_000}
    )
    afar: int = 20_000
    offered: int = 2_000  # tasks, at `offered_rate` a second
    offered_rate: float = 200.0
    napped: int = 2_000
    crunched: int = 200
    scheduled: int = 100_000
    scheduled_by_celery: int = 20_000  # it takes a minute for 100,000
    runner_kills: int = 100
    worker_kills: int = 5
    settle_s: float = 3.0  # before memory is looked at
    warm_share: float = 0.2  # of a run's size, in the round that is not counted; 0: there is no such round


FULL = Plan()
QUICK = Plan(
    runs=1,
    drained={"yadtq": 500, "handloop": 500, "celery": 100, "dramatiq": 200, "huey": 200},
    submitted={"one": 50, "threads": 64, "bulk": 2_000, "peers": 100},
    afar=500,
    offered=100,
    napped=200,
    crunched=20,
    scheduled=2_000,
    scheduled_by_celery=500,
    runner_kills=2,
    worker_kills=0,  # a lease of 10 s has to run out
    settle_s=0.5,
    warm_share=0,
)
