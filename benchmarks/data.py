"""Data figures beside their peers, in one run: streaming, resuming, map and filter, dedup, decontamination.

    python benchmarks/data.py [--rows 50000] [--only streaming] [--datatrove-python PYTHON]

Peers: datasets (in the package's own dependencies), datasketch (`pip install datasketch`; left out when absent),
datatrove (in an environment of its own, whose Python is given, because it brings other versions along). The
texts are random words in sentences of natural length, with one in ten a copy that differs in one word. Rates are
medians of three runs by the process's CPU time, threads included, and in brackets by the clock: on a busy machine
only the first mean anything, and the load at the time is printed beside them. The first row is timed by the clock.

`--only templated` asks what near-dedup does to puzzles: 100,000 of 16 reasoning-gym tasks, all different, and
10,000 copies with one word changed. Whatever is dropped of the former was merged falsely.
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
from dataclasses import dataclass, replace
from pathlib import Path

from reasonkit.data import dedup
from reasonkit.data.build import build
from reasonkit.data.decontaminate import Evaluations, decontaminate
from reasonkit.data.files import write_records
from reasonkit.data.mixture import open_stream
from reasonkit.errors import UsageError
from reasonkit.hub.stream import RowStream
from reasonkit.hub.tables import open_tables
from reasonkit.records import Message, Record

SYLLABLES = ["ba", "ce", "di", "fo", "gu", "ha", "je", "ki", "lo", "mu", "na", "pe", "ri", "so", "tu"]
WORDS = [a + b for a in SYLLABLES for b in ["", "n", "ren", "los", "ti", "mus", "ke", "va", "dan", "ing"]]
MEDIAN_OF = 3

os.environ["HF_HUB_OFFLINE"] = "1"  # datasets would look for local files on the Hub first, and wait

DATATROVE = """
import gzip, json, sys, time, tempfile, shutil
from pathlib import Path
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
start, clock = time.process_time(), time.perf_counter()
for number, (pipeline, tasks) in enumerate(steps):
    LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=f"{out}/log{number}").run()
kept = [json.loads(line)["id"] for path in Path(f"{out}/o").glob("*") for line in gzip.open(path)]
rates = {"cpu": rows / (time.process_time() - start), "clock": rows / (time.perf_counter() - clock)}
print(json.dumps({**rates, "kept": kept}))
shutil.rmtree(out)
"""


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rows", type=int, default=50_000)
    arguments.add_argument("--datatrove-python")
    arguments.add_argument("--only", choices=["streaming", "cleaning", "building", "templated"])
    arguments.add_argument("--templated-rows", type=int, default=11_000)
    given = arguments.parse_args()
    parts = [given.only] if given.only else ["streaming", "cleaning", "building", "templated"]
    records = problems(given.rows) if {"streaming", "cleaning"} & set(parts) else []
    loads = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    print(f"load average {loads} on {len(os.sched_getaffinity(0))} cores; per CPU second (by the clock)")
    if records:
        print(f"{given.rows} rows of {sum(len(text(r)) for r in records) // given.rows} characters")
    if "streaming" in parts:
        stream_all(records, given.rows)
    if "cleaning" in parts:
        duplicates(records, given.datatrove_python)
        contamination(records)
    if "building" in parts:
        building(given.rows)
    if "templated" in parts:
        templated(given.templated_rows, given.datatrove_python)


def stream_all(records: list[Record], rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_records(records, Path(folder) / "data.parquet")
        streaming(Path(folder), rows)
        resuming(Path(folder), rows)
        mapping(Path(folder), rows)
        memory(Path(folder))


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

    mine, theirs = (rate(lambda run=run: run(rows), rows) for run in (ours, peer))
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
    print(f"{'first shuffled row, s':34} {mine:.2f}   datasets (buffer 1000) {theirs:.2f}", flush=True)


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

    mine, theirs = rate(ours, rows), rate(peer, rows)
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
    show("exact dedup, rows/s/core", rate(lambda: consume(dedup.exact(records)), len(records)))
    show("containment, rows/s/core", rate(lambda: consume(dedup.contained(records)), len(records)))
    mine = rate(lambda: consume(dedup.near(records)), len(records))
    dropped = sum(rejection is not None for _, rejection in dedup.near(records))
    edited = len(records) // 10
    some = records[: min(len(records), 5000)]
    peer = rate(lambda: sketch(some), len(some), runs=1) if importlib.util.find_spec("datasketch") else None
    show("near dedup, verified, rows/s/core", mine, "datasketch", peer)
    print(f"{'':34} found {dropped} of {edited} edited copies")
    if datatrove_python:
        show("near dedup, verified, rows/s/core", mine, "datatrove", datatrove(datatrove_python, some)[0])


def datatrove(python: str, records: list[Record]) -> tuple[Rate, set[str]]:
    """Its rate, and the uids that it keeps."""
    with tempfile.TemporaryDirectory() as folder:
        lines = (json.dumps({"id": record.uid, "text": text(record)}) for record in records)
        (Path(folder) / "rows.jsonl").write_text("\n".join(lines) + "\n")
        line = [python, "-c", DATATROVE, folder, str(len(records))]
        done = subprocess.run(line, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return Rate(found["cpu"], found["clock"]), set(found["kept"])


def sketch(records: Iterable[Record]) -> set[str]:
    """What datasketch keeps."""
    from datasketch import MinHash, MinHashLSH

    index, kept = MinHashLSH(threshold=0.8, num_perm=128), set[str]()
    for record in records:
        words = text(record).lower().split()
        signature = MinHash(num_perm=128)
        signature.update_batch([" ".join(words[i : i + 5]).encode() for i in range(max(1, len(words) - 4))])
        if not index.query(signature):
            index.insert(record.uid, signature)
            kept.add(record.uid)
    return kept


def contamination(records: list[Record]) -> None:
    rng = random.Random(1)
    questions = [" ".join(rng.choices(WORDS, k=rng.randint(8, 90))) for _ in range(2000)]
    items = [Record(f"e{n}", "e", (Message(role="user", content=q),), "1") for n, q in enumerate(questions)]
    evaluations = Evaluations({"eval": items})
    mine = rate(lambda: consume(decontaminate(records, evaluations)), len(records))
    grams = {gram for question in questions for gram in thirteen(question)}

    def plain() -> None:
        for record in records:
            any(gram in grams for gram in thirteen(text(record)))

    show("decontamination, rows/s/core", mine, "a plain set of 13-grams", rate(plain, len(records)))


MIXTURE = (
    "knights=3,countdown=3,arithmetic_chain=3,ordering=2,graph=2,sokoban,zebra=0.4,"
    "rg:gcd,base_conversion,leg_counting,number_sorting,letter_counting,chain_sum"
)

# Of the default's short ones there are only a few thousand different.
LONG_CHAINS = {"arithmetic_chain": {"operations": [4, 5, 6, 7]}}


def building(rows: int) -> None:
    """An offline mixture into a record file, by one process and by two; the bytes are compared."""
    with tempfile.TemporaryDirectory() as folder:
        for workers in (1, 2):
            path = Path(folder) / f"{workers}.parquet"
            started, spent = time.perf_counter(), cpu_of_all()
            write_records(build(MIXTURE, "train", rows, settings=LONG_CHAINS, workers=workers), path)
            clock, cpu = time.perf_counter() - started, cpu_of_all() - spent
            show(f"build a mixture, {workers} process(es), rows/s", Rate(rows / cpu, rows / clock))
        same = (Path(folder) / "1.parquet").read_bytes() == (Path(folder) / "2.parquet").read_bytes()
    print(f"{'':34} the same bytes: {same}", flush=True)


def cpu_of_all() -> float:
    """This process's CPU seconds and those of the children that have ended."""
    return sum(os.times()[:4])


TASKS = (
    "rg:leg_counting,gcd,lcm,number_sorting,base_conversion,letter_counting,spell_backward,chain_sum,"
    "basic_arithmetic,word_sorting,caesar_cipher,number_filtering,time_intervals,syllogism,count_bits,"
    "family_relationships"
)


def templated(rows: int, datatrove_python: str | None) -> None:
    """How much of a set of different puzzles each tool takes for repetition."""
    tasks = {f"rg:{task}": {"add_instructions": False} for task in TASKS.removeprefix("rg:").split(",")}
    originals = list(build(TASKS, "train", rows * 10 // 11, settings=tasks))
    rng = random.Random(2)
    copies = []
    for number in range(rows - len(originals)):
        record = rng.choice(originals)
        words = text(record).split(" ")
        words[rng.randrange(len(words))] = "changed"
        prompt = (Message(role="user", content=" ".join(words)),)
        copies.append(replace(record, uid=f"copy{number}", prompt=prompt))
    records = [*originals, *copies]
    print(f"{len(originals)} different puzzles of 16 templates, {len(copies)} copies with one word changed")

    def ours(step: Iterable[tuple[Record, object]]) -> set[str]:
        return {record.uid for record, rejection in step if rejection is None}

    def tell(name: str, kept: set[str]) -> None:
        lost = sum(record.uid not in kept for record in originals)
        caught = sum(record.uid not in kept for record in copies)
        share = 100 * lost / len(originals)
        print(f"{name:34} {lost} puzzles merged falsely ({share:.2f} %), {caught} copies found", flush=True)

    try:
        consume(dedup.near(records))
    except UsageError as refusal:
        print(f"{'near dedup':34} refused: {refusal.message[:60]}…")
    tell("exact dedup", ours(dedup.exact(records)))
    tell("near dedup, verified, --force", ours(dedup.near(records, force=True)))
    if importlib.util.find_spec("datasketch"):
        tell("datasketch, 0.8", sketch(records))
    if datatrove_python:
        tell("datatrove, 14 x 8", datatrove(datatrove_python, records)[1])


def thirteen(question: str) -> Iterator[str]:
    words = question.lower().split()
    return (" ".join(words[start : start + 13]) for start in range(len(words) - 12))


def text(record: Record) -> str:
    return record.prompt[0]["content"]


def consume(items: Iterable[object]) -> None:
    for _ in items:
        pass


@dataclass(frozen=True)
class Rate:
    cpu: float
    clock: float

    def __str__(self) -> str:
        return f"{self.cpu:,.0f} ({self.clock:,.0f})"


def rate(run: Callable[[], object], count: int, runs: int = MEDIAN_OF) -> Rate:
    cpu, clock = [], []
    for _ in range(runs):
        spent, started = time.process_time(), time.perf_counter()
        run()
        cpu.append(count / (time.process_time() - spent))
        clock.append(count / (time.perf_counter() - started))
    return Rate(statistics.median(cpu), statistics.median(clock))


def show(what: str, mine: Rate, name: str = "", theirs: Rate | None = None) -> None:
    beside = f"   {name} {theirs or 'not installed'}" if name else ""
    print(f"{what:34} {mine}{beside}", flush=True)


if __name__ == "__main__":
    main()
