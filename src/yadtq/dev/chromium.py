"""How Chromium is started to look at the pages, by the tests and for the picture of them.

One invariant: nothing in here lets it ask any other host than the one that it is sent to.
"""

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
