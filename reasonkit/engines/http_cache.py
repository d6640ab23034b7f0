"""Replies kept on disk, so that a run that is repeated asks for nothing twice.

A key is the hash of the address and of everything in the request that can change the reply, the sample's seed
included: n samples of one prompt are n entries. Requests themselves are not stored, nor is any header, so no key
can be. A cache that cannot be written (a full or locked disk) costs a request, not a run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reasonkit.datahome import data_home
from reasonkit.engines import Reply
from reasonkit.errors import ReasonkitError
from reasonkit.records import dumps

log = logging.getLogger(__name__)

_FORM = 1
"""Part of every key: raise it when the meaning of a stored reply changes."""


def default_cache() -> Path:
    return data_home() / "replies.sqlite"


def request_key(url: str, body: dict[str, Any], seed: int) -> str:
    return hashlib.blake2b(dumps([_FORM, url, body, seed]).encode(), digest_size=20).hexdigest()


class ReplyCache:
    """Used from one event loop; processes may share the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._told = False
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
        try:
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS replies (request TEXT PRIMARY KEY, reply TEXT) WITHOUT ROWID"
            )
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise ReasonkitError(f"the cache {path} cannot be opened: {error}", f"rm {path}") from error

    def get(self, key: str) -> Reply | None:
        row = self._database.execute("SELECT reply FROM replies WHERE request = ?", (key,)).fetchone()
        return Reply(**json.loads(row[0])) if row else None

    def put(self, key: str, reply: Reply) -> None:
        try:
            self._database.execute(
                "INSERT OR REPLACE INTO replies VALUES (?, ?)", (key, dumps(asdict(reply)))
            )
        except sqlite3.OperationalError as error:
            if not self._told:
                log.warning("replies are not kept: %s: %s", self._path, error)
            self._told = True

    def close(self) -> None:
        self._database.close()
