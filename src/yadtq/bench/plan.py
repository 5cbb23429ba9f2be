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
            "yadtq": 20_000,
            "handloop": 20_000,
            "celery": 2_000,
            "dramatiq": 6_000,
            "huey": 8_000,
        }
    )
    warm_share: float = 0.2  # of a run's size, in the round that is not counted


FULL = Plan()
QUICK = Plan(runs=2, drained={"yadtq": 500, "handloop": 500, "celery": 100, "dramatiq": 200, "huey": 200})
