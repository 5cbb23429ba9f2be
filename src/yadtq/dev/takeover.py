"""Who took over what a consumer left behind.

One invariant: it goes by what the consoles said and by nothing else, so a summary says the same as the lines above it.
"""

import re
from collections.abc import Iterable

NOBODY = "nobody"

_LINE = re.compile(r"\S+ (\S+): (.*)")
_GAINED = re.compile(r"(?:takes over )?(partition \d+) (?:assigned, continues|at offset) ")
_GAVE_UP = re.compile(r"(partition \d+) (?:moves to another consumer|lost)")
_RETAKEN = re.compile(r"(\S+) taken over from (\S+)")


def taken_over(lines: Iterable[str], gone: str) -> dict[str, str]:
    """Return who was the first to get each partition that `gone` held at its end, and each task that it was in.

    Args:
        lines: Of all consoles, in the order in which they were said.
    """
    taken: dict[str, str] = {}
    for line in lines:
        spoken = _LINE.fullmatch(line)
        if spoken is None:
            continue
        name, text = spoken.groups()
        if gained := _GAINED.match(text):
            if name == gone:
                taken[gained[1]] = NOBODY
            elif taken.get(gained[1]) == NOBODY:
                taken[gained[1]] = name
        elif (given_up := _GAVE_UP.fullmatch(text)) and name == gone:
            taken.pop(given_up[1], None)
        elif (retaken := _RETAKEN.fullmatch(text)) and retaken[2] == gone:
            taken.setdefault(retaken[1], name)
    return taken
