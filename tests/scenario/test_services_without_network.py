"""A first `yadtq up` without a network says what to do and leaves nothing running and nothing half."""

from pathlib import Path

import pytest
from yadtq_up import folder

pytestmark = pytest.mark.real

NOBODY = "http://127.0.0.1:9"  # the discard port, where nobody listens


def test_a_first_start_without_network_is_one_clear_line(tmp_path: Path) -> None:
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), NOBODY)
    cache = tmp_path / "cache"
    with folder(tmp_path / "work", XDG_CACHE_HOME=str(cache), NO_PROXY="", no_proxy="", **proxies) as work:
        said = work.run("up", "--no-web", code=1)
        assert "could not be fetched: there is no connection" in said
        assert "check the connection and the proxy" in said
        assert work.processes() == []
        assert [path.name for path in cache.rglob("*") if path.is_file()] == ["lock"]
