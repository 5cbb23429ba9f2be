"""Print the tasks page of a running web app as one SVG.

    .venv/bin/python docs/picture.py http://127.0.0.1:8080 docs/gui.svg

Needs Chromium, Playwright (extra `dev`) and pdftocairo (Debian: poppler-utils), and starts nothing else.
One invariant: the picture is the page. Nothing is drawn here. What is left out cannot be seen, but for shadows: they
are bitmaps in a PDF. Numbers are rounded to a hundredth of a point.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import sync_playwright

from yadtq.dev.chromium import ARGUMENTS

WIDTH, HEIGHT = 1280, 711  # CSS pixels
ROWS = 7  # what lies below the edge would be in the file all the same
POINTS = 0.75  # a pixel
GRID = 0.04  # points between two places that a letter's outline may touch
# Hidden and not removed: they give the columns their widths.
HIDE_ROWS = """most => document.querySelectorAll(`#list tbody tr:nth-child(n + ${most + 1}), #foot, .pager`)
    .forEach(element => { element.style.visibility = 'hidden' })"""
DEFAULTS = re.compile(
    r"\b(fill-rule:nonzero|fill-opacity:1|stroke:none|stroke-linecap:butt|stroke-linejoin:miter|stroke-opacity:1"
    r"|stroke-miterlimit:4|stroke-width:1)(;|$)"
)


def print_page(url: str, path: Path) -> None:
    """Print the page as it looks on a screen."""
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        page = browser.new_page(
            viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light", reduced_motion="reduce"
        )
        page.goto(url)
        page.wait_for_selector("#list tbody tr")
        page.emulate_media(media="screen")
        page.evaluate(HIDE_ROWS, ROWS)
        # All on one page, to be cut afterwards: a page break would move what stands on the edge.
        height = page.evaluate("document.documentElement.scrollHeight") + HEIGHT
        page.pdf(path=path, width=f"{WIDTH}px", height=f"{height}px", print_background=True)
        browser.close()


def shrink(svg: str) -> str:
    """Cut at the lower edge, and write what is left as short as it can be."""
    for name in ("image", "mask", "filter"):  # shadows
        svg = re.sub(rf"<{name}\b[^>]*/>|<{name}\b.*?</{name}>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<rect\b[^>]*\bmask=[^>]*/>|<use\b[^>]*#(?:surface|image|source)[^>]*/>", "", svg)
    svg = re.sub(r">\s+<", "><", svg)
    svg = clips(svg)
    svg = re.sub(r'style="([^"]*)"', lambda found: f'style="{DEFAULTS.sub("", found[1]).strip(" ;")}"', svg)
    svg = re.sub(r"rgb\(([^)]*)\)", lambda found: colour(found[1]), svg).replace(' style=""', "")
    svg = glyphs(svg)
    svg = re.sub(r'\bd="(M [^"]*)"', lambda found: f'd="{"".join(relative(found[1].split(), 0.01))}"', svg)
    svg = re.sub(r"\d+\.\d{3,}", lambda found: number(float(found[0])), svg)
    svg = re.sub(r'width="[^"]*" height="[^"]*" viewBox="[^"]*"', frame(), svg, count=1)
    return merged(svg).strip() + "\n"


def clips(svg: str) -> str:
    """Keep the clips that round the corners of a plain box; the others are of what ends inside of them anyway."""
    boxes = r'<g clip-path="url\(#(clip\d+)\)" clip-rule="nonzero"><path style="[^"]*" d="[^C"]*"'
    shapes = dict(re.findall(r'<clipPath id="(clip\d+)">(.*?)</clipPath>', svg))
    kept = {name for name in re.findall(boxes, svg) if "C" in shapes[name]}
    first = {shapes[name]: name for name in sorted(kept, reverse=True)}  # of equal ones the first stands for all
    svg = re.sub(
        r'<clipPath id="(\w+)">(.*?)</clipPath>', lambda found: found[0] if first.get(found[2]) == found[1] else "", svg
    )
    svg = re.sub(
        r' clip-path="url\(#(\w+)\)"',
        lambda found: f' clip-path="url(#{first[shapes[found[1]]]})"' if found[1] in kept else "",
        svg,
    )
    return re.sub(r' clip-rule="\w+"', "", svg)


def glyphs(svg: str) -> str:
    """Letters as paths with short names, and only those that stand somewhere."""
    used = dict.fromkeys(re.findall(r'xlink:href="#(glyph\d+-\d+)"', svg))
    names = {glyph: f"g{place}" for place, glyph in enumerate(used)}

    def path(found: re.Match[str]) -> str:
        if found[1] not in names:
            return ""
        outline = "".join(relative(found[2].split(), GRID, GRID))
        return f'<path id="{names[found[1]]}" transform="scale({number(GRID)})" d="{outline}"/>'

    svg = re.sub(r'<symbol[^>]*\bid="([^"]*)"[^>]*><path d="([^"]*)"/></symbol>', path, svg)
    return re.sub(r'xlink:href="#([^"]*)"', lambda found: f'href="#{names[found[1]]}"', svg)


def merged(svg: str) -> str:
    """Without groups that say nothing, and with neighbours of one colour in one group."""
    before = ""
    while svg != before:
        before = svg
        svg = re.sub(r"<g>((?:<(?:use|path|rect)\b[^>]*/>)*)</g>", r"\1", svg)
        svg = re.sub(r'(<g style="[^"]*">)((?:<use\b[^>]*/>)+)</g>\1', r"\1\2", svg)
        svg = re.sub(r"<g>(<g [^>]*>(?:<(?:use|path|rect)\b[^>]*/>)*</g>)</g>", r"\1", svg)
    return svg


def frame() -> str:
    return f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {number(WIDTH * POINTS)} {number(HEIGHT * POINTS)}"'


def colour(text: str) -> str:
    """`100%,50%,0%` as `#ff8000`."""
    return "#" + "".join(f"{round(float(part.strip(' %')) * 2.55):02x}" for part in text.split(","))


def number(value: float) -> str:
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def relative(tokens: list[str], grid: float, unit: float = 1.0) -> Iterator[str]:
    """The commands of a path (M, L, C and Z with single spaces) with relative numbers, which are shorter."""
    x, y, start, at = 0.0, 0.0, (0.0, 0.0), 0
    if "Z" in tokens and "M" in tokens[-3:]:  # a move at the end draws nothing
        tokens = tokens[:-3]
    while at < len(tokens):
        command = tokens[at]
        count = {"M": 2, "L": 2, "C": 6, "Z": 0}[command]
        # Rounded where it stands, so that errors do not add up along the path.
        values = [round(float(token) / grid) * grid / unit for token in tokens[at + 1 : at + 1 + count]]
        at += count + 1
        steps = [number(value - (x, y)[place % 2]) for place, value in enumerate(values)]
        if command == "L" and "0" in steps:
            yield f"h{steps[0]}" if steps[1] == "0" else f"v{steps[1]}"
        else:
            yield command.lower() + joined(steps)
        x, y = values[-2:] if values else start
        if command == "M":
            start = x, y


def joined(steps: list[str]) -> str:
    """Numbers in a row: a sign or a second point parts them too."""
    text, last = "", "-"
    for step in steps:
        parted = not text or step.startswith("-") or (step.startswith(".") and "." in last)
        text, last = text + ("" if parted else " ") + step, step
    return text


def main(url: str, target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pdf, svg = Path(folder) / "page.pdf", Path(folder) / "page.svg"
        print_page(url, pdf)
        subprocess.run(["pdftocairo", "-svg", "-f", "1", "-l", "1", pdf, svg], check=True)
        target.write_text(shrink(svg.read_text()))
    print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
