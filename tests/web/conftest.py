"""The web app on memory ports: in process for the API, on a port of its own for the browser."""

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, Error, expect, sync_playwright
from scene import Scene
from watched import Watched

from yadtq.dev.chromium import ARGUMENTS
from yadtq.web.server import Server, address, bind
from yadtq.web.site import create_app

expect.set_options(timeout=20_000)  # what has to come comes at once, but for a machine that is busy with other work
BASE = "http://127.0.0.1:8080"
INSTALL = "Install it: apt-get install chromium"


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def client(scene: Scene, tmp_path: Path) -> Iterator[TestClient]:
    site = create_app(scene.app, readmodel_path=tmp_path / "readmodel.sqlite")
    with TestClient(site, base_url=BASE, follow_redirects=False) as client:
        yield client


@pytest.fixture
def task_file(tmp_path: Path) -> Path:
    return tmp_path / "a_tasks.txt"


@pytest.fixture
def file_client(scene: Scene, tmp_path: Path, task_file: Path) -> Iterator[TestClient]:
    """The web app that writes to a task file."""
    site = create_app(scene.app, readmodel_path=tmp_path / "readmodel.sqlite", task_file=task_file)
    with TestClient(site, base_url=BASE, follow_redirects=False) as client:
        yield client


@pytest.fixture
def url(scene: Scene, tmp_path: Path) -> Iterator[str]:
    """The web app on a real port."""
    site = create_app(scene.app, readmodel_path=tmp_path / "readmodel.sqlite")
    listener = bind("127.0.0.1", 0)
    listener.listen()
    server = Server(site)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield address(listener)
    server.should_exit = True
    thread.join(10)
    listener.close()
    assert not thread.is_alive(), "the server does not end"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        pytest.fail(f"no chromium is on PATH. {INSTALL}")
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS, env={**os.environ})
        except Error as error:
            pytest.fail(f"{path} does not start: {error}. {INSTALL}")
        yield browser
        browser.close()


@pytest.fixture
def watched(browser: Browser, url: str) -> Iterator[Watched]:
    """A page of a browser. Errors, CSP violations, dialogs and requests to other hosts fail the test."""
    with browser.new_context(viewport={"width": 1280, "height": 800}) as context:
        watched = Watched(context.new_page(), url)
        watched.page.set_default_timeout(10_000)
        yield watched
    assert watched.wrongs == []
