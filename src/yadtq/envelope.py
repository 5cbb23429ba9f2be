"""The value that travels on Kafka: one task, and all a worker needs to know of it.

One invariant: an envelope never changes. A retry in place keeps it; a later planned run is a new one with the next
generation. The field names are the ones of the original task file, so a line of that file is an envelope too.
"""

import msgspec

MAX_ID_CHARS = 200


class Envelope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One task on its way to a worker."""

    task_id: str  # 1 to 200 printable characters, unique: one id runs once while its record is kept
    task_type: str  # the registered name of the task
    task_args: msgspec.Raw = msgspec.Raw(b"[]")  # JSON array, positional; decoded only where the code runs
    task_kwargs: msgspec.Raw = msgspec.Raw(b"{}")  # JSON object, by name
    task_tries: int = 0  # attempts already made elsewhere; they count against max_attempts
    version: int = 1  # of this layout; a worker refuses what is newer than it knows
    generation: int = 0  # which planned run this is
    queued_at_ms: int = 0  # epoch ms, by the submitter's clock; 0 = Kafka's record time stands in
    max_attempts: int = 3  # failures of the code that end the task
    not_before_ms: int = 0  # epoch ms, by the ledger's clock; what waits for it lies in `Q.delayed`
    replay_of: str = ""  # the task whose dead letter this replays; of bytes that were none, where the letter lies
