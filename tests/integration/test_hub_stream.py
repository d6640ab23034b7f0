"""Streaming against a local Hub that misbehaves: every row once, in the same order, or a clear error."""

from __future__ import annotations

import io
import json
import multiprocessing
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.hub.client import ContentChanged, Hub, Patience, Unreachable
from reasonkit.hub.stream import RowStream
from reasonkit.hub.tables import Tables, open_tables
from tests.hub_reader import read_into_journal
from tests.hub_server import Fault, HubServer, Request, random_faults

QUICK = Patience(attempts=6, first_wait=0.005, longest_wait=0.02, silence=2.0)
REPO = "org/puzzles"


def parquet(rows: list[dict[str, Any]], group: int = 50) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=group)
    return sink.getvalue()


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def puzzle(number: int) -> dict[str, Any]:
    return {
        "id": number,
        "prompt": [{"role": "user", "content": f"what is {number} + {number}?"}],
        "tests": "x" * 400,
    }


FILES = {
    "train/a.parquet": parquet([puzzle(number) for number in range(700)]),
    "train/b.parquet": parquet([puzzle(number) for number in range(700, 1000)], group=7),
    "README.md": b"a dataset",
}
EVERY_ROW = Counter(range(1000))


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as server:
        server.publish(REPO, FILES)
        yield server


@pytest.fixture
def hub(server: HubServer) -> Iterator[Hub]:
    with Hub(server.endpoint, QUICK) as hub:
        yield hub


def stream(hub: Hub | None, name: str = f"hf:{REPO}", seed: int = 1, **options: Any) -> RowStream:
    def reopen(revision: str | None) -> Tables:
        at = name if revision is None or hub is None else f"{name}@{revision}"
        return open_tables(at, hub=hub, **options)

    return RowStream(reopen, seed)


def ids(rows: list[dict[str, Any]]) -> list[int]:
    return [row["id"] for row in rows]


def quiet_order(hub: Hub, rows: int = 1000) -> list[int]:
    with stream(hub) as rows_of_hub:
        return ids(rows_of_hub.take(rows))


def test_an_epoch_has_every_row_once_and_epochs_differ(hub: Hub) -> None:
    with stream(hub) as rows:
        first, second = ids(rows.take(1000)), ids(rows.take(1000))
    assert Counter(first) == Counter(second) == EVERY_ROW
    assert first != second
    displaced = sum(abs(position - number) > 50 for position, number in enumerate(first))
    assert displaced > 700, "neighbours in the file are not neighbours in the stream"


@pytest.mark.parametrize("seed", range(6))
def test_faults_change_nothing_but_the_time(server: HubServer, hub: Hub, seed: int) -> None:
    expected = quiet_order(hub)
    server.faults = random_faults(seed, share=0.3)
    with Hub(server.endpoint, QUICK) as fresh, stream(fresh) as rows:
        assert ids(rows.take(1000)) == expected


@pytest.mark.parametrize("readers", [1, 2, 3, 8])
def test_the_order_does_not_depend_on_the_number_of_readers(hub: Hub, readers: int) -> None:
    merged: dict[int, int] = {}
    for reader in range(readers):
        with stream(hub) as rows:
            mine = [ids(rows.take(step, reader, readers)) for step in (8, 40, 1, 951)]
        places = iter(range(reader, 1000, readers))
        merged |= {next(places): row for part in mine for row in part}
    assert [merged[place] for place in range(1000)] == quiet_order(hub)


def test_a_state_taken_with_three_readers_resumes_with_two(hub: Hub) -> None:
    with stream(hub) as rows:
        rows.take(333, reader=2, readers=3)
        state = json.loads(json.dumps(rows.state()))
    rest: list[list[int]] = []
    for reader in range(2):
        with stream(hub) as rows:
            rows.restore(state)
            rest.append(ids(rows.take(667, reader, readers=2)))
    merged = [None] * 667
    first = 333 % 2  # position 333 belongs to reader 1
    merged[first::2], merged[1 - first :: 2] = rest[0], rest[1]
    assert merged == quiet_order(hub)[333:]


@pytest.mark.parametrize("kind", ["hub", "folder", "jsonl"])
def test_hub_files_local_files_and_jsonl_resume_alike(
    hub: Hub, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reasonkit.hub.tables.JSONL_BLOCK", 5000)
    for path, data in FILES.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(data)
    (tmp_path / "all.jsonl").write_bytes(jsonl([puzzle(number) for number in range(1000)]))
    name = {"hub": f"hf:{REPO}", "folder": str(tmp_path), "jsonl": str(tmp_path / "all.jsonl")}[kind]
    client = hub if kind == "hub" else None
    with stream(client, name) as rows:
        whole = ids(rows.take(1500))
    assert Counter(whole[:1000]) == EVERY_ROW
    for stop in (0, 1, 499, 999, 1000, 1001, 1300):
        with stream(client, name) as rows:
            rows.take(stop)
            state = json.loads(json.dumps(rows.state()))
        with stream(client, name) as rows:
            rows.restore(state)
            assert ids(rows.take(1500 - stop)) == whole[stop:]


def test_columns_that_are_not_wanted_are_not_fetched(server: HubServer, hub: Hub) -> None:
    noise = [{"id": number, "tests": random.Random(number).randbytes(2000).hex()} for number in range(200)]
    server.publish("org/heavy", {"a.parquet": parquet(noise)})
    with stream(hub, "hf:org/heavy", columns=["id"]) as rows:
        before = server.served
        assert Counter(ids(rows.take(200))) == Counter(range(200))
    assert server.served - before < 100_000


def test_a_checkpoint_stays_at_its_revision_when_the_dataset_moves_on(server: HubServer, hub: Hub) -> None:
    expected = quiet_order(hub)
    with stream(hub) as rows:
        rows.take(400)
        state = rows.state()
    server.publish(REPO, {"train/a.parquet": parquet([puzzle(number) for number in range(5000, 5100)])})
    with stream(hub) as rows:
        assert ids(rows.take(1)) != expected[:1]
        rows.restore(state)
        assert ids(rows.take(600)) == expected[400:]


def test_a_revision_that_is_gone_is_an_error(server: HubServer, hub: Hub) -> None:
    with stream(hub) as rows:
        state = rows.state()
        state["revision"] = "0" * 40
        with pytest.raises(ReasonkitError, match="revision does not exist"):
            rows.restore(state)


def test_other_content_under_the_pinned_revision_is_an_error(server: HubServer, hub: Hub) -> None:
    server.replaced["train/a.parquet"] = parquet([puzzle(number) for number in range(10_000, 10_700)])
    with pytest.raises(ContentChanged, match="changed on the Hub under the pinned revision"):
        stream(hub)


def test_a_file_that_is_cut_short_on_the_server_is_an_error(server: HubServer, hub: Hub) -> None:
    with stream(hub) as rows:
        rows.take(10)
        server.replaced["train/a.parquet"] = FILES["train/a.parquet"][:30_000]
        server.replaced["train/b.parquet"] = FILES["train/b.parquet"][:20_000]
        with pytest.raises(ContentChanged, match=r"lists \d+ bytes"):
            for _ in range(3):
                rows.take(1000)
                rows.restore(rows.state() | {"epoch": 9})


def test_a_truncated_local_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(FILES["train/a.parquet"][:-100])
    with pytest.raises(ReasonkitError, match=r"a\.parquet is no complete parquet file"):
        stream(None, str(tmp_path))


def test_a_local_file_that_changed_since_the_checkpoint_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet([puzzle(number) for number in range(100)]))
    with stream(None, str(path)) as rows:
        state = rows.state()
    path.write_bytes(parquet([puzzle(number) for number in range(1, 101)]))
    with (
        stream(None, str(path)) as rows,
        pytest.raises(ReasonkitError, match="data changed since the checkpoint"),
    ):
        rows.restore(state)


def test_a_fault_that_does_not_pass_ends_in_an_error_that_says_how_to_go_on(
    server: HubServer, hub: Hub
) -> None:
    server.faults = lambda request: Fault("status", 503)
    with pytest.raises(ReasonkitError, match=r"gave up after 6 attempts.*HTTP 503") as caught:
        stream(hub)
    assert "resumes" in caught.value.hint


def test_retry_after_is_obeyed(server: HubServer, hub: Hub) -> None:
    stamps: list[float] = []

    def limited(request: Request) -> Fault | None:
        stamps.append(time.monotonic())
        return Fault("status", 429, "0.3") if len(stamps) == 1 else None

    server.faults = limited
    hub.snapshot(REPO)
    assert stamps[1] - stamps[0] >= 0.3


def test_a_cut_connection_continues_at_its_last_byte(server: HubServer, hub: Hub) -> None:
    data = random.Random(0).randbytes(1 << 20)
    server.publish("org/blob", {"x.parquet": data})
    file = hub.snapshot("org/blob").files[0]
    cuts = iter([Fault("cut", share=0.9)] * 3)
    server.faults = lambda request: next(cuts, None) if request.ranged else None
    assert hub.read(file, 1000, 1 << 20) == data[1000:]
    assert server.served < len(data) + 10_000, "nothing was fetched twice"


@pytest.mark.parametrize(
    ("name", "flags", "message", "hint"),
    [
        ("org/nowhere", None, "does not exist on the Hub, or is private", "HF_TOKEN"),
        ("org/secret", {"private": True}, "does not exist on the Hub, or is private", "hf auth login"),
        ("org/terms", {"gated": True}, "is gated", "accept them at http"),
    ],
)
def test_datasets_out_of_reach_say_why(
    server: HubServer, hub: Hub, name: str, flags: dict[str, bool] | None, message: str, hint: str
) -> None:
    if flags is not None:
        server.publish(name, FILES, **flags)
    with pytest.raises(ReasonkitError, match=message) as caught:
        stream(hub, f"hf:{name}")
    assert hint in caught.value.hint


def test_the_token_of_the_environment_opens_a_private_dataset(
    server: HubServer, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.publish("org/secret", FILES, private=True)
    monkeypatch.setenv("HF_TOKEN", server.token)
    with stream(hub, "hf:org/secret") as rows:
        assert Counter(ids(rows.take(1000))) == EVERY_ROW


def test_no_network_is_said_after_three_attempts_to_connect(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "reasonkit")
    with (
        Hub("http://127.0.0.1:9", QUICK) as hub,
        pytest.raises(Unreachable, match=r"no connection to http://127\.0\.0\.1:9: .*refused"),
    ):
        stream(hub)
    assert sum("attempt" in message for message in caplog.messages) == 2


def test_a_network_that_was_there_is_waited_for(server: HubServer, hub: Hub) -> None:
    file = hub.snapshot(REPO).files[0]
    server.close()
    with pytest.raises(ReasonkitError, match="gave up after 6 attempts"):
        hub.read(file, 0, 10)


def test_a_body_that_stalls_counts_as_dropped_and_continues_at_its_last_byte(server: HubServer) -> None:
    impatient = Patience(attempts=6, first_wait=0.005, longest_wait=0.02, silence=0.1)
    data = random.Random(0).randbytes(4000)
    server.publish("org/blob", {"x.parquet": data})
    stalls = iter([Fault("slow", pause=0.3)] * 2)
    with Hub(server.endpoint, impatient) as hub:
        file = hub.snapshot("org/blob").files[0]
        server.faults = lambda request: next(stalls, None) if request.ranged else None
        assert hub.read(file, 0, 4000) == data
    assert server.requests[f"/cdn/org/blob/{file.revision}/x.parquet"] == 3


def test_malformed_lines_are_counted_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [
        jsonl([puzzle(0)]),
        b"{broken\n",
        b'["a list"]\n',
        b'{"id": "\xff"}\n',
        b"[" * 200_000 + b"\n",
        b'{"id": "\\ud800"}\n',
        b"\n",
        jsonl([puzzle(1)]),
    ]
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines))
    with stream(None, str(tmp_path / "a.jsonl")) as rows:
        assert Counter(ids(rows.take(7))) == Counter([0, 1])
        assert rows.malformed == 5
    assert sum("a.jsonl at byte" in message for message in caplog.messages) == 5


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_an_empty_file_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ReasonkitError, match="is empty"):
        stream(None, str(tmp_path / name))


def test_a_file_without_rows_is_an_error_and_no_endless_loop(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\n\n\n")
    with (
        stream(None, str(tmp_path / "a.jsonl")) as rows,
        pytest.raises(ReasonkitError, match="no row at all"),
    ):
        rows.take(1)


def test_a_missing_column_names_those_that_exist(hub: Hub) -> None:
    with pytest.raises(UsageError, match=r"has no column answer; it has id, prompt, tests"):
        stream(hub, columns=["answer"])


def test_a_line_far_longer_than_a_block_belongs_to_one_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reasonkit.hub.tables.JSONL_BLOCK", 1000)
    rows = [puzzle(0), {"id": 1, "text": "y" * 100_000}, puzzle(2)]
    (tmp_path / "a.jsonl").write_bytes(jsonl(rows))
    with stream(None, str(tmp_path / "a.jsonl")) as opened:
        taken = opened.take(3)
    assert sorted(taken, key=lambda row: row["id"]) == rows


def test_twenty_kills_at_random_points_lose_and_repeat_nothing(
    server: HubServer, hub: Hub, tmp_path: Path
) -> None:
    with stream(hub) as rows:
        expected = ids(rows.take(2000))
    server.faults = random_faults(7, share=0.1)
    journal, rng = tmp_path / "journal.jsonl", random.Random(7)
    journal.touch()
    # A fork server has the imports done: twenty-one starts would otherwise be most of this test's time.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.hub_reader", "huggingface_hub.utils"])
    resumed_at = set()
    for _ in range(20):
        reader = processes.Process(target=read_into_journal, args=(server.endpoint, REPO, journal, 2000))
        reader.start()
        goal = journal.stat().st_size + rng.randrange(1, 12) * 250
        while reader.is_alive() and journal.stat().st_size < goal:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.003)
        reader.kill()
        reader.join()
        resumed_at.add(drop_half_line(journal))
    assert len(resumed_at) > 10, "the kills came at different places"
    reader = processes.Process(target=read_into_journal, args=(server.endpoint, REPO, journal, 2000))
    reader.start()
    reader.join()
    assert reader.exitcode == 0
    seen = [row for line in journal.read_text().splitlines() for row in json.loads(line)["ids"]]
    assert seen == expected


def drop_half_line(journal: Path) -> int:
    """What a reader does that finds a line which a kill cut short; how many whole lines there are."""
    whole, newline, _ = journal.read_bytes().rpartition(b"\n")
    journal.write_bytes(whole + newline)
    return whole.count(b"\n") + len(newline)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_memory_stays_flat_over_ten_times_more_rows(tmp_path: Path) -> None:
    """Measured where it counts: what the process holds after one and after ten times the rows."""
    rows = [{"id": number, "text": random.Random(number).randbytes(1000).hex()} for number in range(4000)]
    for name in range(6):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet", row_group_size=100)
    script = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from reasonkit.hub.stream import RowStream\n"
        "from reasonkit.hub.tables import open_tables\n"
        "stream = RowStream(lambda _: open_tables(sys.argv[1]), 0)\n"
        # Not getrusage: a child inherits its parent's maximum there.
        "peak = lambda: re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]\n"
        "for _ in range(24): stream.take(500)\n"
        "first = peak()\n"
        "for _ in range(216): stream.take(500)\n"
        "print(first, peak())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], check=True, capture_output=True, text=True
    )
    first, last = map(int, done.stdout.split())
    assert last < first * 1.25, f"{first} KiB after 12,000 rows, {last} KiB after 120,000"


def test_the_server_speaks_to_the_official_client_too(
    server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi, hf_hub_download

    info = HfApi(endpoint=server.endpoint).dataset_info(REPO, files_metadata=True)
    assert {file.rfilename: file.size for file in info.siblings} == {k: len(v) for k, v in FILES.items()}
    got = hf_hub_download(
        REPO, "train/a.parquet", repo_type="dataset", endpoint=server.endpoint, cache_dir=tmp_path
    )
    assert Path(got).read_bytes() == FILES["train/a.parquet"]


def test_a_killed_download_keeps_what_it_had_and_is_verified(
    server: HubServer, hub: Hub, tmp_path: Path
) -> None:
    data = random.Random(1).randbytes(300_000)
    server.publish("org/blob", {"x.parquet": data})
    file = hub.snapshot("org/blob").files[0]
    part = tmp_path / f"x.parquet.{file.etag[:16]}.part"
    part.write_bytes(data[:200_000])
    hub.download(file, tmp_path / "x.parquet")
    assert (tmp_path / "x.parquet").read_bytes() == data
    assert server.served < 110_000
    (tmp_path / f"y.parquet.{file.etag[:16]}.part").write_bytes(b"\0" * 200_000)
    with pytest.raises(ContentChanged, match="sha256"):
        hub.download(file, tmp_path / "y.parquet")
