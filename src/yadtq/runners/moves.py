"""What should move from a busy child to one that is idle.

One invariant: no more is under way between children than there are free slots for it, and nothing moves while tasks are
tiny: what waits behind those starts sooner than it could be fetched.
"""

from collections.abc import Sequence

from yadtq.runners.process import Flight, RunnerProcess


def movable(
    children: Sequence[RunnerProcess], in_line: int, now_mono: float
) -> list[tuple[RunnerProcess, list[Flight]]]:
    """The attempts to ask back from each child, for the free slots of the others: those that would start last.

    Cost: Asked after every frame. Two numbers a child, unless one has free slots and tasks take long in another.

    Args:
        in_line: How many wait for any child: the free slots are theirs first.
    """
    free = sum(child.free_slots(now_mono) for child in children) - in_line
    holders = [child for child in children if child.held] if free > 0 else []
    if not holders:
        return []
    free -= sum(flight.recalled for child in children for flight in child.waiting)  # for these, or for the engine
    moves = []
    for child in holders:
        if free > 0 and (flights := [flight for flight in child.waiting if not flight.recalled][-free:]):
            moves.append((child, flights))
            free -= len(flights)
    return moves
