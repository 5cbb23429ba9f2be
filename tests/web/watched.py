"""A page of a real browser, and everything that must not happen on it."""

from playwright.sync_api import Dialog, Page


class Watched:
    """A page, and everything that must not happen on it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.wrongs: list[str] = []
        page.on("console", lambda message: self._wrong(message.type in ("error", "warning"), message.text))
        page.on("pageerror", lambda error: self._wrong(True, str(error)))
        page.on("dialog", self._on_dialog)
        page.on("request", lambda request: self._wrong(not request.url.startswith(url), f"asks {request.url}"))

    def _on_dialog(self, dialog: Dialog) -> None:
        self._wrong(True, f"a dialog: {dialog.message}")
        dialog.dismiss()

    def _wrong(self, wrong: bool, what: str) -> None:
        if wrong:
            self.wrongs.append(what)

    def open(self, path: str) -> Page:
        self.page.goto(self.url + path)
        self.page.wait_for_selector("#live:not([hidden]):not(.live-off)")
        return self.page
