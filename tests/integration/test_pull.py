"""`reasonkit data pull` against a local Hub: pinned, verified, resumable, and open about what it leaves out."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reasonkit.data.adapters import columns_as
from reasonkit.data.files import read_records
from reasonkit.data.pull import Request, plan, pull
from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.hub.client import Hub, Patience
from reasonkit.verifiers import verify
from tests.hub_reader import pull_all
from tests.hub_server import HubServer, random_faults

GURU = "LLM360/guru-RL-92k"
SUMS = columns_as({"question": "q", "answer": "a"}, "sums")
QUICK = Patience(attempts=6, first_wait=0.005, longest_wait=0.02, silence=2.0)


def parquet(rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, row_group_size=20)
    return sink.getvalue()


def guru_rows(source: str, count: int, answer: Any, **extra: Any) -> list[dict[str, Any]]:
    return [
        {
            "data_source": source,
            "prompt": [{"role": "user", "content": f"{source}, question {number}?"}],
            "ability": source.partition("__")[0],
            "apply_chat_template": True,
            "reward_model": {"style": "rule", "ground_truth": answer},
            "extra_info": {"index": number, **extra},
            "qwen2.5_7b_pass_rate": 0.5,
        }
        for number in range(count)
    ]


def noisy_rows(count: int, size: int) -> list[dict[str, Any]]:
    """Rows that no compression makes small."""
    rows = guru_rows("math__x", count, "1")
    return [row | {"noise": random.Random(number).randbytes(size).hex()} for number, row in enumerate(rows)]


FILES = {
    "train/math__combined_60.parquet": parquet(guru_rows("math__deepscaler", 60, "42", split="train")),
    "train/logic__zebra_puzzle_dataset_30.parquet": parquet(
        guru_rows("zebra_puzzle_dataset", 30, {"header": ["House"], "rows": [["1"]]})
    ),
    "train/logic__arcagi1_11.parquet": parquet(guru_rows("logic__arcagi1", 11, [[1, 0], [0, 1]])),
    "train/codegen__taco_25.parquet": parquet(guru_rows("codegen__taco", 25, '{"inputs": ["1"]}')),
    "train/codegen__livecodebench_5.parquet": parquet(guru_rows("codegen__livecodebench", 5, "x" * 3000)),
    "train/simulation__codeio_7.parquet": parquet(guru_rows("simulation__codeio", 7, '"output": 3')),
    "train/table__hitab_4.parquet": parquet(guru_rows("table__hitab", 4, "a|b")),
    "train/stem__web_3.parquet": parquet(guru_rows("stem__web", 3, "7 m/s")),
    "online_eval/math__math_8.parquet": parquet(guru_rows("math__math", 8, "1")),
    "online_eval/codegen__livecodebench_2.parquet": parquet(guru_rows("codegen__livecodebench", 2, "y")),
    "README.md": b"Guru",
}


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as server:
        server.publish(GURU, FILES)
        yield server


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REASONKIT_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def environment(server: HubServer, home: Path, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "HF_ENDPOINT": server.endpoint,
        "REASONKIT_DATA": str(home),
        "HF_HOME": str(home / "hf"),
        **more,
    }


def python(server: HubServer, home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, *arguments]
    env = environment(server, home, **more)
    return subprocess.run(line, env=env, capture_output=True, text=True, check=False)


def command(server: HubServer, home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return python(server, home, "-m", "reasonkit", "data", "pull", *arguments, **more)


def run(server: HubServer, request: Request) -> dict[str, Any]:
    with Hub(server.endpoint, QUICK) as hub:
        return {one.name: one for one in pull(plan(request, hub), hub)}


def test_guru_arrives_by_domain_with_answers_in_their_shapes(server: HubServer, home: Path) -> None:
    done = command(server, home, "guru", "--json")
    assert done.returncode == 0, done.stderr
    sets = {one["name"]: one for one in json.loads(done.stdout)["sets"]}
    assert {name: one["records"] for name, one in sets.items()} == {
        "guru:math": 60,
        "guru:codegen": 25,
        "guru:logic": 41,
        "guru:simulation": 7,
        "guru:table": 4,
        "guru:stem": 3,
    }
    assert "left out: livecodebench" in done.stderr
    answers = {record.source: record.answer for record in read_records(home / "guru/logic/train.parquet")}
    assert answers == {
        "zebra_puzzle_dataset": {"header": ["House"], "rows": [["1"]]},
        "logic__arcagi1": [[1, 0], [0, 1]],
    }


def test_a_dry_run_shows_sizes_and_fetches_no_file(server: HubServer, home: Path) -> None:
    done = command(server, home, "guru", "--domains", "math,livecodebench", "--dry-run", "--json")
    shown = json.loads(done.stdout)
    sizes = {path: size for one in shown["sets"] for path, size in one["files"].items()}
    wanted = ("train/math__combined_60.parquet", "train/codegen__livecodebench_5.parquet")
    assert sizes == {path: len(FILES[path]) for path in wanted}
    assert shown["bytes"] == sum(sizes.values())
    assert not any("resolve" in path or "cdn" in path for path in server.requests)
    assert not home.exists() or not any(home.rglob("*.parquet"))


def test_the_manifest_pins_revision_and_hashes_and_a_second_pull_fetches_nothing(
    server: HubServer, home: Path
) -> None:
    first = run(server, Request("guru", domains=["math"]))
    manifest = json.loads((home / "guru/math/dataset.json").read_text())
    made = manifest["files"]["train"]
    assert manifest["revision"] == server.datasets[GURU].refs["main"]
    name = "train/math__combined_60.parquet"
    assert made["downloaded_sha256"] == {name: hashlib.sha256(FILES[name]).hexdigest()}
    assert made["sha256"] == hashlib.sha256((home / "guru/math/train.parquet").read_bytes()).hexdigest()
    assert not any((home / ".downloads").rglob("*.parquet")), "downloads do not stay"
    served = server.served
    again = run(server, Request("guru", domains=["math"]))
    assert server.served - served < 4000, "only the listing"
    assert (first["guru:math"].fresh, again["guru:math"].fresh) == (True, False)
    assert again["guru:math"].records == 60


def test_a_damaged_file_is_made_again(server: HubServer, home: Path) -> None:
    run(server, Request("guru", domains=["table"]))
    (home / "guru/table/train.parquet").write_bytes(b"rot")
    assert run(server, Request("guru", domains=["table"]))["guru:table"].fresh
    assert len(list(read_records(home / "guru/table/train.parquet"))) == 4


def test_later_pulls_stay_at_the_first_revision_until_told_to_move(server: HubServer, home: Path) -> None:
    run(server, Request("guru", domains=["table"]))
    changed = parquet(guru_rows("table__hitab", 9, "c"))
    server.publish(GURU, FILES | {"train/table__hitab_4.parquet": changed})
    run(server, Request("guru", domains=["stem"]))
    revisions = {json.loads(path.read_text())["revision"] for path in home.rglob("dataset.json")}
    assert len(revisions) == 1
    assert run(server, Request("guru", domains=["table"], update=True))["guru:table"].records == 9


def test_a_limit_fetches_only_the_groups_it_needs(server: HubServer, home: Path) -> None:
    rows = [
        row | {"noise": random.Random(i).randbytes(4000).hex()}
        for i, row in enumerate(guru_rows("math__x", 400, "1"))
    ]
    server.publish("org/big", {"a.parquet": parquet(rows)})
    done = run(server, Request("org/big", limit=15))
    assert done["hf:org/big"].records == 15
    assert server.served < len(server.datasets["org/big"].revisions.popitem()[1]["a.parquet"]) / 5


def test_evaluation_sets_become_one_set_a_file(server: HubServer, home: Path) -> None:
    done = run(server, Request("guru-online"))
    assert {name: one.records for name, one in done.items()} == {"guru-online:math__math": 8}
    assert (home / "guru-online/math__math/test.parquet").exists()
    assert "guru-online:codegen__livecodebench" in run(
        server, Request("guru-online", domains=["livecodebench"])
    )


def test_any_dataset_by_naming_its_columns(server: HubServer, home: Path) -> None:
    rows = [{"q": f"{number}+1?", "a": str(number + 1)} for number in range(5)]
    server.publish(
        "org/sums", {"data/train-0.parquet": parquet(rows), "data/test-0.parquet": parquet(rows[:2])}
    )
    done = command(server, home, "org/sums", "--map", "question=q,answer=a", "--verifier", "math")
    assert done.returncode == 0, done.stderr
    records = list(read_records(home / "hf/org/sums/train.parquet"))
    assert [(record.source, record.verifier, record.answer) for record in records[:1]] == [
        ("org/sums", "math", "1")
    ]
    assert len(list(read_records(home / "hf/org/sums/test.parquet"))) == 2


def test_bad_rows_are_counted_and_written_aside_with_reasons(server: HubServer, home: Path) -> None:
    lines = [
        b'{"q": "1?", "a": 1}',
        b"{half",
        b'{"q": "\xff", "a": 1}',
        b'{"q": 7, "a": 1}',
        b'{"a": 1}',
        b'{"q": "2?", "a": null}',
        b'{"q": "1?", "a": 1}',
    ]
    server.publish("org/messy", {"train.jsonl": b"\n".join(lines) + b"\n"})
    one = run(server, Request("org/messy", read=SUMS))["hf:org/messy"]
    assert (one.rows, one.records, one.rejected.total()) == (7, 1, 6)
    assert one.rejected["repeats an earlier row"] == 1
    aside = [
        json.loads(line) for line in (home / "hf/org/messy/train.rejected.jsonl").read_text().splitlines()
    ]
    assert len(aside) == 6
    assert sum("not JSON" in row["reason"] for row in aside) == 2


def test_text_that_is_not_utf8_in_parquet_costs_only_its_row(server: HubServer, home: Path) -> None:
    texts = pa.array([b"fine?", b"\xff\xfe?", b"also fine?"]).view(pa.string())
    sink = io.BytesIO()
    pq.write_table(pa.table({"q": texts, "a": pa.array(["1", "2", "3"])}), sink)
    server.publish("org/latin", {"train.parquet": sink.getvalue()})
    one = run(server, Request("org/latin", read=SUMS))["hf:org/latin"]
    assert (one.rows, one.records) == (3, 2)
    assert "UTF-8" in next(iter(one.rejected))


HOSTILE = {
    "deep": b"[" * 200_000,
    "half a character": b'{"q": "half \\ud800", "a": 1}',
    "half in the answer": b'{"q": "whole", "a": "\\UDFFF"}'.replace(b"U", b"u", 1),
    "not a number": b'{"q": "nan?", "a": NaN}',
    "six thousand digits": b'{"q": "big?", "a": ' + b"9" * 6000 + b"}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_line_costs_only_itself(server: HubServer, home: Path, name: str) -> None:
    lines = [b'{"q": "1?", "a": 1}', HOSTILE[name], b'{"q": "\\ud83d\\ude00?", "a": 2}']
    server.publish("org/hostile", {"train.jsonl": b"\n".join(lines)})
    one = run(server, Request("org/hostile", read=SUMS))["hf:org/hostile"]
    assert (one.rows, one.records, one.rejected.total()) == (3, 2, 1)
    assert [record.prompt[0]["content"] for record in read_records(Path(one.path))] == ["1?", "😀?"]


@pytest.mark.parametrize("model", ["[" * 200_000, '{"ground_truth": "\\ud800"}', '{"ground_truth": NaN}'])
def test_a_hostile_json_column_costs_only_its_row(server: HubServer, home: Path, model: str) -> None:
    rows = [
        {"data_source": "s", "prompt": f"{n}?", "reward_model": one}
        for n, one in enumerate((model, '{"ground_truth": 1}'))
    ]
    server.publish("org/columns", {"train.parquet": parquet(rows)})
    one = run(server, Request("org/columns"))["hf:org/columns"]
    assert (one.rows, one.records, one.rejected.total()) == (2, 1, 1)


@pytest.mark.parametrize("content", [b"", b"PAR1" + b"x" * 100 + b"PAR1", parquet(noisy_rows(50, 200))[:-60]])
def test_a_file_that_is_no_parquet_on_the_hub_itself_is_one_message(
    server: HubServer, home: Path, content: bytes
) -> None:
    server.publish("org/rot", {"train.parquet": content})
    with pytest.raises(ReasonkitError, match=r"org/rot/train.parquet is no complete parquet file"):
        run(server, Request("org/rot", read=SUMS))
    assert not list((home / "hf").rglob("train.parquet"))


@pytest.mark.parametrize(
    "path", ["../../../evil.jsonl", "/etc/evil.jsonl", "data/..", "a\\..\\b.jsonl", "a//b.jsonl"]
)
@pytest.mark.parametrize("raw", [False, True])
def test_a_listing_cannot_write_outside_its_folder(
    server: HubServer, home: Path, path: str, raw: bool
) -> None:
    server.publish("org/evil", {path: b'{"q": "1?", "a": 1}'})
    with pytest.raises(ReasonkitError, match="would be written outside its folder"):
        run(server, Request("org/evil", read=SUMS, raw=raw))
    assert not home.exists() or not any(home.rglob("*"))


def test_gurus_spare_tests_stay_out_of_the_records_and_in_the_raw_files(
    server: HubServer, home: Path
) -> None:
    few = {"inputs": ["1\n"], "outputs": ["2\n"]}
    spare = {"complete_inputs": ["1\n"] * 500, "complete_outputs": ["2\n"] * 500}
    name = "train/codegen__taco_25.parquet"
    content = parquet(guru_rows("codegen__taco", 25, json.dumps(few | spare)))
    server.publish(GURU, FILES | {name: content})
    run(server, Request("guru", domains=["codegen"]))
    records = list(read_records(home / "guru/codegen/train.parquet"))
    assert [json.loads(record.answer) for record in records] == [few] * 25
    assert verify(records[0], "```python\nprint(int(input()) + 1)\n```").status == "correct"
    run(server, Request(GURU, raw=True, files=[name]))
    assert (home / "hf" / GURU / name).read_bytes() == content


def test_a_set_without_one_good_row_is_an_error(server: HubServer, home: Path) -> None:
    server.publish("org/odd", {"train.parquet": parquet([{"foo": 1}])})
    with pytest.raises(UsageError, match="columns foo are those of no known format"):
        run(server, Request("org/odd"))
    with pytest.raises(ReasonkitError, match="none of the 1 rows"):
        run(server, Request("org/odd", read=SUMS))
    assert not list((home / "hf").rglob("train.parquet"))


@pytest.mark.parametrize(
    ("request_", "kind", "message"),
    [
        (Request("gurru"), UsageError, "unknown data set 'gurru'"),
        (Request("guru", domains=["maths"]), UsageError, "no domain 'maths'"),
        (Request("guru", revision="nope"), ReasonkitError, "revision does not exist"),
        (Request("org/nowhere"), ReasonkitError, "does not exist on the Hub, or is private"),
        (Request("org/terms"), ReasonkitError, "is gated"),
        (Request("org/words", files=["*.parquet"]), UsageError, "no file that matches"),
        (Request("org/words"), UsageError, "holds no parquet and no JSONL"),
        (Request("not a name/at all"), UsageError, "is no dataset on the Hub"),
    ],
)
def test_what_cannot_be_pulled_says_why(
    server: HubServer, home: Path, request_: Request, kind: type[ReasonkitError], message: str
) -> None:
    server.publish("org/terms", FILES, gated=True)
    server.publish("org/words", {"README.md": b"nothing else"})
    with pytest.raises(kind, match=message) as caught:
        run(server, request_)
    assert caught.value.hint


def test_the_command_line_ends_in_one_message_and_a_code(server: HubServer, home: Path) -> None:
    wrong = command(server, home, "guru", "--domains", "maths")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "error: guru has no domain 'maths'\n  try: did you mean 'math'?\n"
    both = command(server, home, "guru", "--map", "question=a,answer=b", "--format", "verl")
    assert both.returncode == 2
    assert "exclude each other" in both.stderr


def test_faults_on_the_way_change_nothing(server: HubServer, home: Path, tmp_path: Path) -> None:
    run(server, Request("guru", out=tmp_path / "calm"))
    server.faults = random_faults(3, share=0.3)
    run(server, Request("guru", out=tmp_path / "storm"))
    calm = {path.relative_to(tmp_path / "calm"): path for path in (tmp_path / "calm").rglob("*.parquet")}
    assert len(calm) == 6
    for relative, path in calm.items():
        assert (tmp_path / "storm" / relative).read_bytes() == path.read_bytes()


def test_other_bytes_than_listed_never_become_records(server: HubServer, home: Path) -> None:
    server.replaced["train/table__hitab_4.parquet"] = FILES["train/stem__web_3.parquet"]
    with pytest.raises(ReasonkitError, match="changed on the Hub under the pinned revision"):
        run(server, Request("guru", domains=["table"]))
    assert not list(home.rglob("train.parquet"))


def test_twenty_four_kills_at_random_points_leave_a_pull_that_finishes(server: HubServer, home: Path) -> None:
    """Killed while it lists, downloads, converts or writes: what is there is whole, and every row comes once."""
    parts = {f"train/{part}.parquet": parquet(noisy_rows(600, 400)[part::4]) for part in range(4)}
    server.publish("org/long", parts)
    rng = random.Random(5)
    # A fork server has the imports done: the starts would otherwise be most of this test's time.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.hub_reader", "huggingface_hub.utils"])
    kills, rounds, killed_with = 0, 0, set()
    while kills < 24:
        child = processes.Process(target=pull_all, args=(server.endpoint, "org/long", home))
        child.start()
        goal = server.served + rng.randrange(1, sum(map(len, parts.values())) // 4)
        while child.is_alive() and server.served < goal:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.03)
        child.kill()
        child.join()
        fetched = sum(path.stat().st_size for path in (home / ".downloads").rglob("*") if path.is_file())
        if child.exitcode == -signal.SIGKILL:
            kills += 1
            killed_with.add(fetched)
        if list(home.rglob("train.parquet")):
            assert every_index(home) == list(range(600)), "a file is whole or absent"
        if child.exitcode == 0:  # it came through: begin anew
            shutil.rmtree(home / "hf")
            rounds += 1
    assert rounds >= 1, "pulls were killed, and yet they finished"
    assert len(killed_with) > 8, "the kills came at different places"
    done = run(server, Request("org/long"))["hf:org/long"]
    assert (done.rows, done.records) == (600, 600)
    assert every_index(home) == list(range(600))


def every_index(home: Path) -> list[int]:
    (path,) = home.rglob("train.parquet")
    return sorted(record.metadata["index"] for record in read_records(path))


def test_without_a_network_the_local_copy_still_serves(server: HubServer, home: Path) -> None:
    done = command(server, home, "kk", HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "HF_HUB_OFFLINE is set" in done.stderr
    script = (
        "from huggingface_hub import snapshot_download\n"
        f"snapshot_download({GURU!r}, repo_type='dataset', allow_patterns=['train/math*'])\n"
    )
    fill = python(server, home, "-c", script)
    assert fill.returncode == 0, fill.stderr
    served = server.served
    done = command(server, home, "guru", "--domains", "math", "--json", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sets"][0]["records"] == 60
    assert server.served == served


def test_a_token_from_the_environment_opens_private_data(server: HubServer, home: Path) -> None:
    server.publish("org/secret", {"train.parquet": FILES["train/stem__web_3.parquet"]}, private=True)
    assert command(server, home, "org/secret", HF_TOKEN=server.token).returncode == 0


def test_too_little_room_is_said_before_a_byte_is_fetched(
    server: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(ReasonkitError, match=r"GB free; the download takes"):
        run(server, Request("guru", domains=["math"]))


def test_a_full_disk_is_one_message_and_the_next_pull_goes_on(server: HubServer, home: Path) -> None:
    server.publish("org/wide", {"train.parquet": parquet(noisy_rows(60, 2000))})
    script = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, 90_000))  # writes beyond fail, as on a full disk\n"
        "from reasonkit.cli.app import main\n"
        "sys.argv = ['reasonkit', 'data', 'pull', 'org/wide']\n"
        "main()\n"
    )
    full = python(server, home, "-c", script)
    assert full.returncode == 1
    assert "Traceback" not in full.stderr
    assert "File too large" in full.stderr
    assert not list((home / "hf").rglob("train.parquet"))
    assert run(server, Request("org/wide"))["hf:org/wide"].records == 60


def test_raw_files_are_kept_as_they_are(server: HubServer, home: Path) -> None:
    run(server, Request(GURU, raw=True, files=["train/table*"]))
    assert (home / "hf" / GURU / "train/table__hitab_4.parquet").read_bytes() == FILES[
        "train/table__hitab_4.parquet"
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_memory_does_not_grow_with_a_row_of_100_megabytes_or_with_their_number(
    server: HubServer, home: Path, tmp_path: Path
) -> None:
    schema = pa.schema([("q", pa.string()), ("a", pa.struct([("tests", pa.list_(pa.string()))]))])

    def publish(name: str, rows: int, size: int) -> None:
        sink = io.BytesIO()
        with pq.ParquetWriter(sink, schema) as writer:
            for number in range(rows):
                row = {"q": f"{number}?", "a": {"tests": [str(number) * (size // 4)] * 4}}
                writer.write_table(pa.Table.from_pylist([row], schema=schema))
        server.publish(name, {"train.parquet": sink.getvalue()})

    def peak(name: str) -> int:
        script = (
            "import re, sys\n"
            "from pathlib import Path\n"
            "from reasonkit.data.adapters import columns_as\n"
            "from reasonkit.data.pull import Request, plan, pull\n"
            "from reasonkit.hub.client import Hub\n"
            "read = columns_as({'question': 'q', 'answer': 'a'}, 's')\n"
            "with Hub() as hub: (one,) = pull(plan(Request(sys.argv[1], read=read), hub), hub)\n"
            "assert one.records == one.rows > 0, one\n"
            # Not getrusage: a child inherits its parent's maximum there.
            "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        )
        done = python(server, home, "-c", script, name)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    publish("org/few", 20, 2_000_000)
    publish("org/many", 60, 2_000_000)
    publish("org/giant", 1, 100_000_000)
    few, many, giant = peak("org/few"), peak("org/many"), peak("org/giant")
    assert many < few + 80_000, f"{few} KiB for 20 rows of 4 MB, {many} KiB for 60"
    assert giant < few + 1_200_000, "a row costs some times its size, not more"
