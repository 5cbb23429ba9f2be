"""Where a command prints its tables. One invariant: what goes into a pipe is whole; it is cut by whoever reads it."""

from rich.console import Console

PIPE_COLUMNS = 400


def console() -> Console:
    """A console for stdout."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=PIPE_COLUMNS)
