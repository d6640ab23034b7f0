"""Processes that read a stream and journal what they got, or pull a data set: for tests to kill."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from reasonkit.data.pull import Request, plan, pull
from reasonkit.hub import client
from reasonkit.hub.client import Hub, Patience
from reasonkit.hub.stream import RowStream
from reasonkit.hub.tables import Tables, open_tables


def pull_all(endpoint: str, repo: str, home: Path) -> None:
    # The fork server's environment is that of the first test that started it.
    os.environ["REASONKIT_DATA"] = str(home)
    client.RANGE_BYTES = 8 << 10  # many points to die at
    with Hub(endpoint, Patience(first_wait=0.005, longest_wait=0.02, silence=2.0)) as hub:
        pull(plan(Request(repo), hub), hub)


def read_into_journal(endpoint: str, repo: str, journal: Path, total: int) -> None:
    """Resume from the journal's last line and go on to `total` rows, 5 at a time."""
    lines = journal.read_text().splitlines()
    done = sum(len(json.loads(line)["ids"]) for line in lines)
    hub = Hub(endpoint, Patience(first_wait=0.005, longest_wait=0.02, silence=2.0))

    def reopen(revision: str | None) -> Tables:
        return open_tables(f"hf:{repo}@{revision or 'main'}", hub=hub)

    with hub, RowStream(reopen, seed=1) as stream, journal.open("a") as out:
        if lines:
            stream.restore(json.loads(lines[-1])["state"])
        while done < total:
            rows = stream.take(5)
            # One write: rows and the state after them are both in the journal, or neither is.
            out.write(json.dumps({"ids": [row["id"] for row in rows], "state": stream.state()}) + "\n")
            out.flush()
            done += len(rows)
            time.sleep(0.001)  # a trainer's step: the kill comes between two of them or within one
