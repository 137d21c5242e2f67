"""The metrics page over HTTP."""

import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Gauge

from hiddenstate_server.config import Address
from hiddenstate_server.exposition import Exposition
from serving import WAIT_S


@pytest.fixture
def url() -> Iterator[str]:
    """Where one gauge is served."""
    registry = CollectorRegistry()
    Gauge("height", "Of something.", registry=registry).set(3)
    exposition = Exposition(Address("127.0.0.1", 0), registry)
    yield f"http://{exposition.address}"
    exposition.close()


@pytest.mark.parametrize("path", ["", "/", "/metrics", "/metrics?name[]=height"])
def test_the_page_is_at_its_path_and_at_the_root(url: str, path: str) -> None:
    with urllib.request.urlopen(url + path, timeout=WAIT_S) as response:
        assert b"height 3.0" in response.read()


@pytest.mark.parametrize("path", ["/metric", "/metrics/", "/favicon.ico"])
def test_other_paths_are_not_found(url: str, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused, urllib.request.urlopen(url + path, timeout=WAIT_S):
        pass
    with refused.value:
        assert refused.value.code == 404
        assert b"/metrics" in refused.value.read()
