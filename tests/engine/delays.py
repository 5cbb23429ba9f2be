"""What waits for a time, as a test sees it: in the delayed topic, in the index, and fired. Nothing here fires."""

from stage import Player, Stage

from yadtq.broker import Record
from yadtq.codec import decode


def fired(stage: Stage) -> list[str]:
    """The tasks that came from the delayed topic, as they lie in the queue."""
    return [decode(record.value).task_id for record in stage.lying_in(stage.topics.tasks)]


def unburied(stage: Stage) -> set[bytes]:
    """The keys in the delayed topic whose last record is no tombstone."""
    last: dict[bytes, Record] = {record.key or b"": record for record in stage.lying_in(stage.topics.delayed)}
    return {key for key, record in last.items() if record.value}


def in_index(stage: Stage, partitions: int = 1) -> int:
    return sum(place.waits for place in stage.ledger.due.places(stage.topics.tasks, range(partitions)))


def pass_ms(stage: Stage, *players: Player, by_ms: int) -> None:
    """Let time pass with every lease alive."""
    while by_ms > 0:
        stage.clock.turn(min(by_ms, 3_000))
        by_ms -= 3_000
        for player in players:
            player.turn()
            player.heartbeat.turn()
            player.schedule(4)
