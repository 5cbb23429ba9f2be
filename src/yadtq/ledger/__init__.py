"""The ledger port. Importing it loads no Redis client; `connect` does."""

from yadtq.layout import Layout
from yadtq.ledger.due import Due, DueIndex, Look, Place, Waiting
from yadtq.ledger.protocol import (
    Accept,
    Answer,
    Answers,
    Batch,
    Beat,
    Claim,
    Elsewhere,
    Errand,
    Held,
    Ledger,
    NewTask,
    Over,
    Pulse,
    Question,
    Refusal,
    Release,
    Resend,
    Run,
    RunRecord,
    Seal,
    Stale,
    TaskRecord,
    WorkerRecord,
)
from yadtq.settings import Settings, advice, redis_url

__all__ = [
    "Accept",
    "Answer",
    "Answers",
    "Batch",
    "Beat",
    "Claim",
    "Due",
    "DueIndex",
    "Elsewhere",
    "Errand",
    "Held",
    "Ledger",
    "Look",
    "NewTask",
    "Over",
    "Place",
    "Pulse",
    "Question",
    "Refusal",
    "Release",
    "Resend",
    "Run",
    "RunRecord",
    "Seal",
    "Stale",
    "TaskRecord",
    "Waiting",
    "WorkerRecord",
    "connect",
]


def connect(settings: Settings) -> Ledger:
    """Return the ledger that the settings name. Nothing is sent before it is used."""
    from yadtq.ledger.redis import RedisLedger

    layout = Layout(settings.prefix)
    address = settings.redis
    return RedisLedger(redis_url(address.value), address.masked, layout, settings.record_ttl_s, advice(address))
