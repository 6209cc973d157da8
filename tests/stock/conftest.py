"""One stock Tiled server for all tests here: a start takes seconds."""

from __future__ import annotations

import warnings

import pytest

from ..tiled_server import stock_catalog


@pytest.fixture(scope="session")
def stock_server(tmp_path_factory):
    """``tiled serve catalog``, SQLite, in a process of its own; has ``uri`` and ``api_key``."""
    with stock_catalog(tmp_path_factory.mktemp("stock")) as server:
        yield server


@pytest.fixture(scope="session")
def stock_client(stock_server):
    """A stock client of it, as ``tiled.client.from_uri`` makes it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from tiled.client import from_uri

    client = from_uri(stock_server.uri, api_key=stock_server.api_key)
    yield client
    client.context.close()
