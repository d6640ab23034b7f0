"""`reasonkit serve-judge` as a process: tokens, attacks over the network, back-pressure, signals, the log."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import uvicorn

from reasonkit.judge.protocol import ImpatientProtocol
from tests.judge_server import JudgeServer, free_port, judging, launch
from tests.micro import reasonkit

TOKEN = "correct-horse-battery-staple"
SECRET = "sk-judge-key-of-the-operator"
REWARD = {
    "llm_output": "\\boxed{152}",
    "verification_info": json.dumps({"type": "math_verifiable", "answer": {"value": "152"}}),
}
FORK_BOMB = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JudgeServer]:
    """With a token, so that everything also passes through the checks of one."""
    environment = {"JUDGE_TOKEN": TOKEN, "OPENAI_API_KEY": SECRET}
    with judging(tmp_path_factory.mktemp("judge"), "--api-key-env", "JUDGE_TOKEN", "--no-format-score",
                 environment=environment) as running:  # fmt: skip
        yield running


@pytest.fixture(scope="module")
def client(server: JudgeServer) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=server.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60
    ) as opened:
        yield opened


@pytest.fixture(scope="module")
def stranger(server: JudgeServer) -> Iterator[httpx.Client]:
    """Without a token."""
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened


def port_of(server: JudgeServer) -> int:
    return httpx.URL(server.url).port or 0


def raw(server: JudgeServer, data: bytes, seconds: float = 60.0) -> bytes:
    """Whatever comes back on a connection that gets exactly `data`."""
    with socket.create_connection(("127.0.0.1", port_of(server)), timeout=seconds) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := connection.recv(1 << 16):
            answer += chunk
    return answer


def still_well(client: httpx.Client) -> None:
    assert client.post("/reward", json=REWARD).json() == {"score": 1.0}
    assert client.get("/health").json()["workers"]["restarts"] == 0


# Tokens


def test_the_token_is_taken_as_a_header_and_as_a_part_of_the_path(
    stranger: httpx.Client, client: httpx.Client
) -> None:
    assert client.post("/reward", json=REWARD).status_code == 200
    assert stranger.post(f"/{TOKEN}/reward", json=REWARD).json() == {"score": 1.0}
    assert stranger.get(f"/{TOKEN}/ping").status_code == 200
    assert stranger.get("/ping").status_code == 200, "a load balancer has no token"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Authorization": f"Bearer {TOKEN.upper()}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Bearer {TOKEN}, Bearer {TOKEN}"},
        {"Authorization": "Bearer an-older-token-since-replaced"},
        {"Authorization": "Bearer \u00e9".encode("latin-1").decode("latin-1")},
        {"X-Api-Key": TOKEN},
        {"Cookie": f"token={TOKEN}"},
        {"X-Forwarded-For": "127.0.0.1", "X-Original-URL": f"/{TOKEN}/reward"},
    ],
)
def test_a_forged_or_old_token_gets_nothing(stranger: httpx.Client, headers: dict[str, str]) -> None:
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    for path in (
        "/reward",
        f"/reward?token={TOKEN}",
        "/v1/verify",
        "/run_code",
        "/health",
        "/metrics",
        "/openapi.json",
    ):
        response = stranger.post(path, json=REWARD, headers=encoded)
        assert response.status_code == 401, path
        assert TOKEN not in response.text


def test_two_tokens_in_one_request_are_none(stranger: httpx.Client) -> None:
    headers = [("Authorization", "Bearer wrong-wrong-wrong"), ("Authorization", f"Bearer {TOKEN}")]
    assert stranger.post("/reward", json=REWARD, headers=headers).status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        f"//{TOKEN}/reward", f"/./{TOKEN}/reward", f"/x/../{TOKEN}/reward", f"/{TOKEN[:-1]}/reward",
        f"/{TOKEN}x/reward", "/ping/../reward", "/ping%2f..%2freward", "/v1/ping/../verify", "/%70ing/reward",
        "/reward;/ping", "/reward%00/ping", "/\\reward", "/ping?/../reward", "/v1/verify#/ping",
    ],
)  # fmt: skip
def test_no_path_walks_around_the_token(server: JudgeServer, path: str) -> None:
    body = json.dumps(REWARD).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    answer = raw(server, f"{head}Connection: close\r\n\r\n".encode() + body)
    assert b"score" not in answer
    assert answer.split(b" ", 2)[1] in (b"400", b"401", b"404", b"405"), answer[:200]


# Bytes


def test_what_is_too_large_is_refused_before_it_is_read(server: JudgeServer, client: httpx.Client) -> None:
    head = f"POST /{TOKEN}/reward HTTP/1.1\r\nHost: x\r\nContent-Length: {10**12}\r\n\r\n"
    assert b" 413 " in raw(server, head.encode())
    assert b" 411 " in raw(
        server, f"POST /{TOKEN}/reward HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    )
    assert b" 40" in raw(
        server, f"POST /{TOKEN}/reward HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n".encode()
    )
    twice = f"POST /{TOKEN}/reward HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\n12345"
    assert b" 400 " in raw(server, twice.encode())
    still_well(client)


JUNK = [
    b"\x00\x01\x02\x03" * 200,
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /ping HTTP/1.1\r\nHost: x\r\n" + b"A: " + b"b" * 200_000 + b"\r\n\r\n",
    b"GET /ping HTTP/1.1\r\nHost: x\r\n" + b"".join(b"H%d: x\r\n" % n for n in range(20_000)) + b"\r\n",
    b"GET /ping HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\r\nInjected: b\r\n\r\n",
    b"GET /ping HTTP/1.1\r\nHost : x\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"POST /reward HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://169.254.169.254/latest HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET /ping HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
]  # fmt: skip


@pytest.mark.parametrize("data", JUNK, ids=range(len(JUNK)))
def test_junk_costs_nobody_else_anything(server: JudgeServer, client: httpx.Client, data: bytes) -> None:
    try:
        answer = raw(server, data)
    except OSError:  # it hung up before everything was sent
        answer = b""
    assert b"score" not in answer
    assert b"Traceback" not in answer
    still_well(client)


BODIES = {
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep inside": b'{"llm_output": '
    + b'{"a":' * 100_000
    + b"1"
    + b"}" * 100_000
    + b', "verification_info": "{}"}',
    "endless number": b'{"llm_output": "x", "verification_info": ' + b"9" * 1_000_000 + b"}",
    "not utf-8": b'{"llm_output": "\xff\xfe", "verification_info": "{}"}',
    "half a surrogate": b'{"llm_output": "\\ud800", "verification_info": "{}"}',
    "nan": b'{"llm_output": NaN, "verification_info": "{}"}',
    "cut off": b'{"llm_output": "x", "verif',
    "null bytes": b"\x00" * 1000,
    "a megabyte of braces": json.dumps(REWARD | {"llm_output": "\\boxed{" * 150_000}).encode(),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_hostile_bodies_get_an_answer_and_no_reward(client: httpx.Client, body: bytes) -> None:
    for path in ("/reward", "/v1/verify", "/v1/verify/batch", "/run_code", "/submit"):
        response = client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert response.status_code in (200, 400, 422), (path, response.text[:200])
        assert response.status_code != 200 or response.json() == {"score": 0.0}, path
        assert len(response.content) < 20_000
    still_well(client)


@pytest.mark.slow
def test_a_reply_that_never_finishes_delays_no_neighbour(client: httpx.Client) -> None:
    bombs = [REWARD | {"llm_output": f"{n} \\boxed{{9^{{9^9}}+{n}}}"} for n in range(4)]
    bombs += [REWARD | {"llm_output": f"\\boxed{{\\binom{{1000000}}{{{500000 + n}}}}}"} for n in range(4)]
    with ThreadPoolExecutor(9) as threads:
        asked = [threads.submit(client.post, "/reward", json=bomb) for bomb in bombs]
        assert client.post("/reward", json=REWARD).json() == {"score": 1.0}
        assert [bomb.result().json() for bomb in asked] == [{"score": 0.0}] * len(bombs)


def test_code_sees_nothing_of_the_server(client: httpx.Client) -> None:
    snoop = """
import os, glob
seen = [str(dict(os.environ))]
for path in glob.glob("/proc/*/environ") + glob.glob("/proc/*/cmdline") + ["/proc/1/environ"]:
    try: seen.append(open(path).read())
    except OSError: pass
print("".join(seen))
"""
    found = client.post("/run_code", json={"code": snoop, "language": "python"}).json()
    assert found["status"] in ("Success", "Failed")
    assert TOKEN not in json.dumps(found)
    assert SECRET not in json.dumps(found)
    bomb = client.post("/run_code", json={"code": FORK_BOMB, "language": "python", "run_timeout": 1}).json()
    assert bomb["status"] == "Failed"
    still_well(client)


def test_the_request_id_is_the_clients_if_it_is_harmless(client: httpx.Client) -> None:
    assert (
        client.get("/ping", headers={"x-request-id": "trace-7.a_b"}).headers["x-request-id"] == "trace-7.a_b"
    )
    for bad in ("a b", "x" * 65, 'a"b', "a;b"):
        assert client.get("/ping", headers={"x-request-id": bad}).headers["x-request-id"] != bad


def test_slow_headers_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the time limit lowered, in this process: nothing at all, half a header, half of a second request."""
    monkeypatch.setattr("reasonkit.judge.protocol.HEADER_SECONDS", 0.3)

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def run() -> None:
        config = uvicorn.Config(
            app,
            http=ImpatientProtocol,
            port=free_port(),
            log_config=None,
            lifespan="off",
            timeout_keep_alive=600,
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        for whole, half in (
            (b"", b""),
            (b"", b"GET / HTTP/1.1\r\nHos"),
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GE"),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", config.port)
            writer.write(whole)
            if whole:
                await reader.readuntil(b"ok")
            writer.write(half)
            async with asyncio.timeout(30):
                assert await reader.read() == b"", "the server hangs up"
            writer.close()
        server.should_exit = True
        await serving

    asyncio.run(run())


# The log


def test_the_log_knows_sizes_and_no_bodies_or_tokens(server: JudgeServer, client: httpx.Client) -> None:
    needle = "unmistakable-words-of-a-reply"
    path = f"/{TOKEN}/reward?query={needle}"
    asked = REWARD | {"llm_output": f"{needle} \\boxed{{152}}"}
    httpx.post(f"{server.url}{path}", json=asked, headers={"x-request-id": "find-me"})
    httpx.post(f"{server.url}/{needle}", json=asked)
    deadline = time.monotonic() + 10
    while "find-me" not in server.text() and time.monotonic() < deadline:
        time.sleep(0.05)
    text = server.text()
    assert needle not in text
    assert TOKEN not in text
    assert SECRET not in text
    line = json.loads(next(line for line in text.splitlines() if "find-me" in line))
    assert {"method": "POST", "route": "/reward", "status": 200}.items() <= line.items()
    assert line["in"] > len(needle)
    assert "Traceback" not in text


# Processes


@pytest.mark.slow
def test_a_dead_worker_is_replaced_and_counted(tmp_path: Path) -> None:
    with judging(tmp_path) as server, httpx.Client(base_url=server.url) as client:
        (worker,) = client.get("/health").json()["workers"]["processes"]
        os.kill(worker["pid"], signal.SIGKILL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                found = client.get("/health").json()["workers"]
                break
            except httpx.TransportError:
                time.sleep(0.2)
        assert found["restarts"] == 1
        assert found["processes"][0]["pid"] != worker["pid"]
        assert client.post("/reward", json=REWARD).status_code == 200
        assert server.stop() == 0


@pytest.mark.slow
def test_sigterm_lets_requests_finish_and_refuses_new_ones(tmp_path: Path) -> None:
    """The slow request is under way when the signal comes; its answer comes all the same."""
    with judging(tmp_path, "--no-format-score") as server, ThreadPoolExecutor(1) as threads:
        slow = {"code": "import time; time.sleep(3); print('late')", "language": "python"}
        asked = threads.submit(httpx.post, f"{server.url}/run_code", json=slow, timeout=60)
        deadline = time.monotonic() + 30
        while (
            httpx.get(f"{server.url}/health").json()["queue"]["in_progress"] == 0
            and time.monotonic() < deadline
        ):
            time.sleep(0.05)
        server.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                httpx.get(f"{server.url}/ping")
            except httpx.ConnectError:
                break
            except httpx.TransportError:
                continue
        else:
            pytest.fail("new connections were still taken")
        assert asked.result().json()["run_result"]["stdout"] == "late\n"
        assert server.process.wait(60) == 0


@pytest.mark.slow
def test_nothing_is_left_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    server = launch(tmp_path)
    family = psutil.Process(server.process.pid).children(recursive=True)
    assert len(family) > 1
    assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    with judging(tmp_path, port=port_of(server)) as again:
        assert httpx.get(f"{again.url}/ping").status_code == 200


@pytest.mark.slow
def test_a_queue_that_is_full_holds_and_then_answers(tmp_path: Path) -> None:
    """Four times as many bytes as are let in at a time: everyone is answered, nobody refused."""
    with judging(tmp_path, "--no-format-score", "--max-body-mb", "2") as server:
        filler = "x" * 900_000
        replies = [REWARD | {"llm_output": f"{filler}{n} \\boxed{{{150 + n % 4}}}"} for n in range(300)]

        async def run() -> tuple[list[httpx.Response], float]:
            limits = httpx.Limits(max_connections=400)
            async with httpx.AsyncClient(base_url=server.url, timeout=200, limits=limits) as client:
                asked = [asyncio.create_task(client.post("/reward", json=reply)) for reply in replies]
                waits = []
                for _ in range(10):
                    await asyncio.sleep(0.1)
                    before = time.perf_counter()
                    assert (await client.get("/ping")).status_code == 200
                    waits.append(time.perf_counter() - before)
                return list(await asyncio.gather(*asked)), max(waits)

        responses, _ = asyncio.run(run())
        assert {response.status_code for response in responses} == {200}
        scores = [response.json()["score"] for response in responses]
        assert scores == [1.0 if n % 4 == 2 else 0.0 for n in range(300)]
        metrics = httpx.get(f"{server.url}/metrics").text
        held = next(
            line for line in metrics.splitlines() if line.startswith("reasonkit_judge_held_requests_total ")
        )
        assert float(held.rpartition(" ")[2]) > 0
        assert server.stop() == 0


# The command


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--host", "0.0.0.0"), "no token"),
        (("--host", "203.0.113.1", "--no-auth"), "cannot listen"),
    ],
)
def test_what_cannot_be_served_is_said(tmp_path: Path, flags: tuple[str, ...], words: str) -> None:
    done = reasonkit(tmp_path, "serve-judge", "--port", "0", *flags)
    assert done.returncode == 2
    assert words in done.stderr
    assert "try:" in done.stderr
