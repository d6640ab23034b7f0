"""Data figures beside their peers, in one run: streaming, resuming, map and filter, dedup, decontamination.

    python benchmarks/data.py [--rows 50000] [--datatrove-python PYTHON]

Peers: datasets (in the package's own dependencies), datasketch (`pip install datasketch`; left out when absent),
datatrove (in an environment of its own, whose Python is given, because it brings other versions along). The
texts are random words in sentences of natural length, with one in ten a copy that differs in one word. Rates are
medians of three runs by the process's CPU time, threads included, so that a busy machine matters less; the first
row is timed by the clock.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from reasonkit.data import dedup
from reasonkit.data.decontaminate import Evaluations, decontaminate
from reasonkit.data.files import write_records
from reasonkit.data.mixture import open_stream
from reasonkit.hub.stream import RowStream
from reasonkit.hub.tables import open_tables
from reasonkit.records import Message, Record

SYLLABLES = ["ba", "ce", "di", "fo", "gu", "ha", "je", "ki", "lo", "mu", "na", "pe", "ri", "so", "tu"]
WORDS = [a + b for a in SYLLABLES for b in ["", "n", "ren", "los", "ti", "mus", "ke", "va", "dan", "ing"]]
MEDIAN_OF = 3

os.environ["HF_HUB_OFFLINE"] = "1"  # datasets would look for local files on the Hub first, and wait

DATATROVE = """
import json, sys, time, tempfile, shutil
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
folder, rows = sys.argv[1], int(sys.argv[2])
config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
out = tempfile.mkdtemp()
steps = [
    ([JsonlReader(folder), MinhashDedupSignature(f"{out}/s", config=config)], 1),
    ([MinhashDedupBuckets(f"{out}/s", f"{out}/b", config=config)], 14),
    ([MinhashDedupCluster(f"{out}/b", f"{out}/r", config=config)], 1),
    ([JsonlReader(folder), MinhashDedupFilter(f"{out}/r"), JsonlWriter(f"{out}/o")], 1),
]
start = time.process_time()
for number, (pipeline, tasks) in enumerate(steps):
    LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=f"{out}/log{number}").run()
print(json.dumps(rows / (time.process_time() - start)))
shutil.rmtree(out)
"""


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rows", type=int, default=50_000)
    arguments.add_argument("--datatrove-python")
    given = arguments.parse_args()
    records = problems(given.rows)
    print(f"{given.rows} rows of {sum(len(text(r)) for r in records) // given.rows} characters")
    with tempfile.TemporaryDirectory() as folder:
        write_records(records, Path(folder) / "data.parquet")
        streaming(Path(folder), given.rows)
        resuming(Path(folder), given.rows)
        mapping(Path(folder), given.rows)
        memory(Path(folder))
    duplicates(records, given.datatrove_python)
    contamination(records)


def problems(count: int) -> list[Record]:
    rng = random.Random(0)
    texts: list[str] = []
    for number in range(count):
        if number % 10 == 9:
            words = rng.choice(texts[-50:]).split()
            words[rng.randrange(len(words) - 1)] = "changed"
        else:
            words = rng.choices(WORDS, k=rng.randint(50, 140))
        texts.append(" ".join(words))
    return [
        Record(f"{number}", "math__toy", (Message(role="user", content=text),), "1")
        for number, text in enumerate(texts)
    ]


def streaming(folder: Path, rows: int) -> None:
    """Shuffled rows as dicts."""
    from datasets import load_dataset

    def ours(count: int) -> None:
        with RowStream(lambda _: open_tables(str(folder)), 0) as stream:
            stream.take(count)

    def peer(count: int) -> None:
        data = load_dataset("parquet", data_files=f"{folder}/*.parquet", split="train", streaming=True)
        for number, _ in enumerate(data.shuffle(seed=0, buffer_size=1000)):
            if number + 1 == count:
                break

    mine, theirs = (cpu_rate(lambda run=run: run(rows), rows) for run in (ours, peer))
    show("stream, shuffled, rows/s/core", mine, "datasets (buffer 1000)", theirs)

    def our_rows() -> Iterator[object]:
        with RowStream(lambda _: open_tables(str(folder)), 0) as stream:
            while True:
                yield from stream.take(1)

    def peer_rows() -> Iterator[object]:
        data = load_dataset("parquet", data_files=f"{folder}/*.parquet", split="train", streaming=True)
        yield from data.shuffle(seed=0, buffer_size=1000)

    mine, theirs = (
        statistics.median(first(rows) for _ in range(MEDIAN_OF)) for rows in (our_rows, peer_rows)
    )
    show("first shuffled row, s", mine, "datasets (buffer 1000)", theirs, ".2f")


def first(rows: Callable[[], Iterator[object]]) -> float:
    """Seconds to the first row; closing the stream is not counted."""
    start = time.perf_counter()
    opened = rows()
    next(opened)
    return time.perf_counter() - start


def resuming(folder: Path, rows: int) -> None:
    """Read an epoch in four sittings, each from the state of the last: rows that never came, or came twice."""
    from datasets import load_dataset

    bounds = [rows // 4, rows // 2, 3 * rows // 4, rows]
    seen: Counter[str] = Counter()
    state = None
    for start, end in zip([0, *bounds], bounds, strict=False):
        with RowStream(lambda _: open_tables(str(folder)), 0) as stream:
            if state:
                stream.restore(state)
            seen.update(row["uid"] for row in stream.take(end - start))
            state = json.loads(json.dumps(stream.state()))
    peers: Counter[str] = Counter()
    peer_state = None
    for start, end in zip([0, *bounds], bounds, strict=False):
        data = load_dataset("parquet", data_files=f"{folder}/*.parquet", split="train", streaming=True)
        data = data.shuffle(seed=0, buffer_size=1000)
        if peer_state:
            data.load_state_dict(peer_state)
        for number, row in enumerate(data, 1):
            peers[row["uid"]] += 1
            if number == end - start:
                break
        peer_state = data.state_dict()
    for name, counts in (("reasonkit", seen), ("datasets", peers)):
        repeated = sum(count > 1 for count in counts.values())
        print(f"{'three resumes in an epoch':34} {name}: {rows - len(counts)} lost, {repeated} repeated")


def mapping(folder: Path, rows: int) -> None:
    """Rows made into records and filtered, as a trainer is fed, against datasets' map and filter."""
    from datasets import load_dataset

    def ours() -> None:
        feed = open_stream(str(folder), 0, keep=lambda record: "odd" if int(record.uid) % 2 else None)
        feed.next(rows // 2)
        feed.close()

    def peer() -> None:
        data = load_dataset("parquet", data_files=f"{folder}/*.parquet", split="train", streaming=True)
        shuffled = data.shuffle(seed=0, buffer_size=1000)
        mapped = shuffled.map(lambda row: {**row, "answer": json.loads(row["reward_model"]["ground_truth"])})
        for _ in mapped.filter(lambda row: int(row["uid"]) % 2 == 0):
            pass

    mine, theirs = cpu_rate(ours, rows), cpu_rate(peer, rows)
    show("stream, map, filter, rows/s/core", mine, "datasets", theirs)


def memory(folder: Path) -> None:
    """The process's peak after one and after ten times the rows."""
    script = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from reasonkit.hub.stream import RowStream\n"
        "from reasonkit.hub.tables import open_tables\n"
        "stream = RowStream(lambda _: open_tables(sys.argv[1]), 0)\n"
        "for _ in range(10):\n"
        "    for _ in range(40): stream.take(500)\n"
        "    peak = re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]\n"
        "    print(int(peak) // 1024)\n"
    )
    line = [sys.executable, "-c", script, str(folder)]
    peaks = subprocess.run(line, check=True, capture_output=True, text=True).stdout.split()
    print(f"{'peak memory, MiB':34} {peaks[0]} after 20,000 rows, {peaks[-1]} after 200,000")


def duplicates(records: list[Record], datatrove_python: str | None) -> None:
    show("exact dedup, rows/s/core", cpu_rate(lambda: consume(dedup.exact(records)), len(records)))
    show("containment, rows/s/core", cpu_rate(lambda: consume(dedup.contained(records)), len(records)))
    mine = cpu_rate(lambda: consume(dedup.near(records)), len(records))
    dropped = sum(rejection is not None for _, rejection in dedup.near(records))
    edited = len(records) // 10
    some = records[: min(len(records), 5000)]
    peer = (
        cpu_rate(lambda: sketch(some), len(some), runs=1) if importlib.util.find_spec("datasketch") else None
    )
    show("near dedup, verified, rows/s/core", mine, "datasketch", peer)
    print(f"{'':34} found {dropped} of {edited} edited copies")
    if datatrove_python:
        with tempfile.TemporaryDirectory() as folder:
            lines = (json.dumps({"id": record.uid, "text": text(record)}) for record in some)
            (Path(folder) / "rows.jsonl").write_text("\n".join(lines) + "\n")
            line = [datatrove_python, "-c", DATATROVE, folder, str(len(some))]
            done = subprocess.run(line, check=True, capture_output=True, text=True)
        show("near dedup, rows/s/core", mine, "datatrove", float(done.stdout.splitlines()[-1]))


def sketch(records: Iterable[Record]) -> None:
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=0.8, num_perm=128)
    for record in records:
        words = text(record).lower().split()
        signature = MinHash(num_perm=128)
        signature.update_batch([" ".join(words[i : i + 5]).encode() for i in range(len(words) - 4)])
        if not index.query(signature):
            index.insert(record.uid, signature)


def contamination(records: list[Record]) -> None:
    rng = random.Random(1)
    questions = [" ".join(rng.choices(WORDS, k=rng.randint(8, 90))) for _ in range(2000)]
    items = [Record(f"e{n}", "e", (Message(role="user", content=q),), "1") for n, q in enumerate(questions)]
    evaluations = Evaluations({"eval": items})
    mine = cpu_rate(lambda: consume(decontaminate(records, evaluations)), len(records))
    grams = {gram for question in questions for gram in thirteen(question)}

    def plain() -> None:
        for record in records:
            any(gram in grams for gram in thirteen(text(record)))

    show("decontamination, rows/s/core", mine, "a plain set of 13-grams", cpu_rate(plain, len(records)))


def thirteen(question: str) -> Iterator[str]:
    words = question.lower().split()
    return (" ".join(words[start : start + 13]) for start in range(len(words) - 12))


def text(record: Record) -> str:
    return record.prompt[0]["content"]


def consume(items: Iterable[object]) -> None:
    for _ in items:
        pass


def rate(run: Callable[[], object], count: int, clock: Callable[[], float], runs: int = MEDIAN_OF) -> float:
    def once() -> float:
        start = clock()
        run()
        return count / (clock() - start)

    return statistics.median(once() for _ in range(runs))


def cpu_rate(run: Callable[[], object], count: int, runs: int = MEDIAN_OF) -> float:
    return rate(run, count, time.process_time, runs)


def show(what: str, mine: float, name: str = "", theirs: float | None = None, spec: str = ",.0f") -> None:
    beside = (
        f"   {name} {theirs:{spec}}" if theirs is not None else f"   {name} not installed" if name else ""
    )
    print(f"{what:34} {mine:{spec}}{beside}", flush=True)


if __name__ == "__main__":
    main()
