"""The judge's application in this process, with its real pool and sandbox, behind a client that speaks ASGI."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.testclient import TestClient

from reasonkit.judge.app import create_app
from reasonkit.judge.settings import Settings


@contextmanager
def app_client(settings: Settings, address: str = "127.0.0.1") -> Iterator[TestClient]:
    with TestClient(create_app(settings), client=(address, 50000), raise_server_exceptions=False) as client:
        yield client
