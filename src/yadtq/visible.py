"""Text from outside, made safe to look at.

One invariant: what is printed shows every character that is there: what cannot be seen, moves the cursor or turns the
direction of the text becomes an escape.
"""

import re

# Controls but tab and newline, what changes the direction of text, what has no width, and halves of characters.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


def visible(text: str) -> str:
    """Turn characters that nobody can see into escapes."""
    return UNSEEN.sub(lambda found: _escape(ord(found.group())), text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
