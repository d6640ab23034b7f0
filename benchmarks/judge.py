"""The judge server's rates and delays, beside a uvicorn application that does nothing, in one run.

    python benchmarks/judge.py
    python benchmarks/judge.py --only memory --requests 50000

`no-op` is the smallest ASGI application under the same uvicorn and HTTP parser: it answers 200 and looks at
nothing. `pool` is the verifier pool without a server around it. The client is a few dozen lines over asyncio's
streams, in this process, on the same cores. Questions are those of benchmarks/verify.py, each another, so that no
verdict comes from the cache. The contenders take turns, and the table shows medians. CPU milliseconds do not depend
on who else uses the machine.

`/ping` is asked 50 times a second while 32 clients send mathematics, and every tenth of their requests is hostile:
expressions that never finish, fork bombs, bodies of a megabyte, JSON nested 100,000 deep. At the same time the
no-op server is pinged: what it needs more than when all is quiet is the machine's doing, not the judge's.

`memory` is what the server's processes hold (verifier workers and sandbox included) while requests go by.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import psutil
from verify import HOSTILE, workload

from reasonkit.records import Record
from reasonkit.verifiers.pool import VerifierPool
from reasonkit.verifiers.routing import VERIFIERS

NO_OP = """
import sys, uvicorn
async def app(scope, receive, send):
    if scope["type"] == "http":
        headers = [(b"content-type", b"application/json"), (b"content-length", b"15")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"status":"ok"}'})
uvicorn.run(app, port=int(sys.argv[1]), http="h11", lifespan="off", log_level="error", access_log=False)
"""
FORK_BOMB = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
CLIENTS = 32
Request = bytes


def request(path: str, body: Any) -> Request:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: judge\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


PING = b"GET /ping HTTP/1.1\r\nHost: judge\r\n\r\n"


class Connection:
    """One client: a request, its whole answer, the next."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, content: Request) -> bytes:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(content)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b"transfer-encoding: chunked" in head:
            return b"".join([chunk async for chunk in _chunks(reader)])
        body = await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]))
        if b"connection: close" in head:
            self.close()
        return body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int(await reader.readline(), 16):
        yield (await reader.readexactly(size + 2))[:-2]
    await reader.readline()


@asynccontextmanager
async def serving(command: list[str], port: int) -> AsyncIterator[psutil.Process]:
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            while True:
                try:
                    await Connection(port).ask(PING)
                    break
                except OSError:
                    assert process.poll() is None, f"{command} ended at once"
                    await asyncio.sleep(0.2)
            yield psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGTERM)


def questions(seed: int) -> Iterator[tuple[str, str]]:
    for round_ in itertools.count():
        for number, (gold, reply) in enumerate(workload(2000, 0, seed=seed + 1000 * round_)):
            yield gold, f"{seed}.{round_}.{number} {reply}"


def rewards(seed: int) -> Iterator[Request]:
    for gold, reply in questions(seed):
        info = json.dumps({"type": "math_verifiable", "answer": {"value": gold}})
        yield request("/reward", {"llm_output": reply, "verification_info": info})


def hostile(draw: random.Random) -> Request:
    kind = draw.randrange(4)
    if kind == 0:
        info = json.dumps({"type": "math_verifiable", "answer": {"value": "152"}})
        reply = f"{draw.random()} \\boxed{{{draw.choice(HOSTILE)}}}"
        return request("/reward", {"llm_output": reply, "verification_info": info})
    if kind == 1:
        return request("/run_code", {"code": FORK_BOMB, "language": "python", "run_timeout": 2})
    if kind == 2:
        info = json.dumps({"type": "math_verifiable", "answer": {"value": "152"}})
        reply = f"{draw.random()} " + "\\boxed{" * 150_000
        return request("/reward", {"llm_output": reply, "verification_info": info})
    return request("/reward", b'{"llm_output": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")


async def rate(port: int, contents: Iterator[Request], count: int) -> tuple[float, list[float]]:
    """Requests a second, and the seconds that each took."""
    seconds: list[float] = []
    waiting = iter(itertools.islice(contents, count))

    async def client() -> None:
        connection = Connection(port)
        for content in waiting:
            asked = time.perf_counter()
            await connection.ask(content)
            seconds.append(time.perf_counter() - asked)
        connection.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return count / (time.perf_counter() - began), seconds


async def batch_rate(port: int, seed: int, count: int) -> float:
    items = [
        {"record": {"source": "math", "answer": gold}, "response": reply}
        for gold, reply in itertools.islice(questions(seed), count)
    ]
    content = request("/v1/verify/batch", {"items": items})
    began = time.perf_counter()
    lines = (await Connection(port).ask(content)).splitlines()
    assert len(lines) == count
    assert not any(b'"error"' in line for line in lines)
    return count / (time.perf_counter() - began)


async def pings(port: int, until: asyncio.Event) -> list[float]:
    seconds, connection = [], Connection(port)
    while not until.is_set():
        asked = time.perf_counter()
        await connection.ask(PING)
        seconds.append(time.perf_counter() - asked)
        await asyncio.sleep(0.02)
    connection.close()
    return seconds


async def ping_under(ports: list[int], load: Coroutine[Any, Any, Any]) -> list[list[float]]:
    done = asyncio.Event()
    asking = [asyncio.create_task(pings(port, done)) for port in ports]
    await load
    done.set()
    return list(await asyncio.gather(*asking))


async def hostile_load(port: int, seconds: float) -> None:
    draw = random.Random(1)
    honest, end = rewards(seed=7), time.perf_counter() + seconds

    async def client() -> None:
        connection = Connection(port)
        while time.perf_counter() < end:
            await connection.ask(hostile(draw) if draw.random() < 0.1 else next(honest))
        connection.close()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))


def resident(process: psutil.Process) -> float:
    """MB of all the server's processes; what they share is counted once (PSS)."""
    total = 0
    for each in [process, *process.children(recursive=True)]:
        try:
            total += each.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total / 2**20


def shown(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    values = [1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.99, 1.0)]
    return f"p50 {values[0]:6.1f} ms   p99 {values[1]:6.1f} ms   max {values[2]:6.1f} ms   ({len(ordered)})"


def processor_seconds(process: psutil.Process) -> float:
    """Of the server's own processes, without the verifier workers below them."""
    return sum(sum(each.cpu_times()[:2]) for each in [process, *process.children()])


def in_pool(pool: VerifierPool, seed: int, count: int) -> float:
    items = list(itertools.islice(questions(seed), count))
    began = time.perf_counter()
    futures = [pool.submit(VERIFIERS["math"], Record("", "math", (), gold), reply) for gold, reply in items]
    for future in futures:
        future.result()
    return count / (time.perf_counter() - began)


async def speed(judge: int, no_op: int, process: psutil.Process, options: argparse.Namespace) -> None:
    names = ("no-op", "pool", "judge, single", "judge, batched")
    rates: dict[str, list[float]] = {name: [] for name in names}
    spent: dict[str, float] = dict.fromkeys(names, 0.0)
    delays: list[float] = []
    with VerifierPool() as pool:
        in_pool(pool, -1, 200)
        for round_ in range(options.rounds):
            rates["no-op"].append((await rate(no_op, rewards(round_), options.count))[0])
            rates["pool"].append(await asyncio.to_thread(in_pool, pool, 300 + round_, options.count))
            before = processor_seconds(process)
            found, seconds = await rate(judge, rewards(100 + round_), options.count)
            between = processor_seconds(process)
            rates["judge, single"].append(found)
            delays += seconds
            rates["judge, batched"].append(await batch_rate(judge, 200 + round_, options.count))
            spent["judge, single"] += between - before
            spent["judge, batched"] += processor_seconds(process) - between
    base = statistics.median(rates["no-op"])
    for name, values in rates.items():
        middle = statistics.median(values)
        own = 1e3 * spent[name] / (options.rounds * options.count)
        cost = f"   {own:.2f} CPU-ms each in the server itself" if own else ""
        print(f"{name:15} {middle:6.0f}/s  {middle / base:5.2f} of no-op  {[round(v) for v in values]}{cost}")
    print(f"judge, single: {shown(delays)}")


async def ping(judge: int, no_op: int, options: argparse.Namespace) -> None:
    quiet = await ping_under([judge, no_op], asyncio.sleep(3))
    loaded = await ping_under([judge, no_op], hostile_load(judge, options.seconds))
    for name, both in (("quiet", quiet), ("hostile load", loaded)):
        for server, seconds in zip(("judge", "no-op"), both, strict=True):
            print(f"/ping, {name:12} {server:6} {shown(seconds)}")


async def memory(judge: int, process: psutil.Process, options: argparse.Namespace) -> None:
    contents, sizes = rewards(seed=300), [resident(process)]
    for _ in range(10):
        await rate(judge, contents, options.requests // 10)
        sizes.append(resident(process))
    print(f"memory over {options.requests} requests, MB: {[round(size) for size in sizes]}")


async def run(options: argparse.Namespace) -> None:
    command = [
        "-m",
        "reasonkit",
        "-q",
        "serve-judge",
        "--port",
        str(options.port),
        "--workers",
        str(options.workers),
    ]
    parts: dict[str, Callable[[psutil.Process], Coroutine[Any, Any, None]]] = {
        "speed": lambda process: speed(options.port, options.port + 1, process, options),
        "ping": lambda _: ping(options.port, options.port + 1, options),
        "memory": lambda process: memory(options.port, process, options),
    }
    async with (
        serving(["-c", NO_OP, str(options.port + 1)], options.port + 1),
        serving(command, options.port) as process,
    ):
        await rate(options.port, rewards(seed=-1), 200)
        for name, part in parts.items():
            if options.only in (None, name):
                print(f"-- {name}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
                await part(process)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("speed", "ping", "memory"))
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--port", type=int, default=8730)
    parser.add_argument("--workers", type=int, default=1)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
