"""What the tests read out of the documents."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_SPAN = re.compile(r"`([^`\n]+)`")
_ROW = re.compile(r"^\|(.*)\|$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    document: str
    number: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}-{self.number}"


def name(document: Path) -> str:
    return str(document.relative_to(ROOT))


def blocks(language: str) -> list[Block]:
    return [
        Block(name(document), number, found[1], found[2])
        for document in DOCUMENTS
        for number, found in enumerate(_FENCE.finditer(document.read_text()))
        if found[1] == language
    ]


def links(document: Path) -> list[str]:
    return _LINK.findall(_FENCE.sub("", document.read_text()))


def spans(document: Path) -> list[str]:
    """What stands in `code` within the text."""
    return _SPAN.findall(_FENCE.sub("", document.read_text()))


def headings(document: Path) -> list[str]:
    return re.findall(r"^#+ (.*)$", _FENCE.sub("", document.read_text()), re.MULTILINE)


def anchors(document: Path) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in headings(document)}


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every shell command that is shown: indented lines, and code within the text; split, without comments."""
    for document in DOCUMENTS:
        lines = [line[4:] for line in _FENCE.sub("", document.read_text()).splitlines() if line.startswith("    ")]
        for line in [*lines, *spans(document)]:
            for command in re.split(r" [|&]+ |; ", line.partition("  #")[0]):
                try:
                    words = shlex.split(command)
                except ValueError:  # not a command
                    continue
                words = [word for word in words if not re.fullmatch(r"[A-Z_]+=\S*", word)]  # KEEP=1 make demo
                if len(words) > 1:
                    yield name(document), words


def rows(document: Path, heading: str) -> list[list[str]]:
    """The cells of all tables below a heading of the second level."""
    text = document.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)] for row in _ROW.findall(text)]


def described(document: Path, heading: str) -> dict[str, str]:
    """The first cells of all tables below a heading that are code, each with the rest of its row."""
    found = {}
    for first, *rest in rows(document, heading):
        if first.startswith("`"):
            found[first.strip("`")] = " | ".join(rest)
    return found
