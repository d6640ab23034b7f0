"""An actor as whoever holds it sees it: what it makes of silence, of a broken object, and of a Ray that hangs."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reasonkit.cluster import Actor, Cluster, Lost, _answers, _aside
from reasonkit.cluster_host import WaitingHost
from reasonkit.engines.vllm import VllmEngine
from reasonkit.errors import Broken, MissingExtra, ReasonkitError, Stopped
from reasonkit.ray_folder import RayFolder, sweep


def thing() -> object:
    return object()


def actor(**answers: Any) -> Actor:
    """Whose process answers with what these coroutines return."""
    handle = SimpleNamespace(**{name: SimpleNamespace(remote=answer) for name, answer in answers.items()})
    return Actor("engine-0", handle, Path("logs/engine-0.log"))


async def never(*_: Any) -> Any:
    await asyncio.Event().wait()


async def beats(*_: Any) -> Any:
    return "done", 0


@pytest.mark.parametrize("limit", ["SILENT", "MAKING"])
def test_an_actor_that_hangs_while_it_makes_its_object_is_lost_and_named(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silent, or alive for much too long."""
    monkeypatch.setattr("ray.cancel", lambda *_, **__: None)
    monkeypatch.setattr("reasonkit.cluster.SILENT", 0.05)
    monkeypatch.setattr(f"reasonkit.cluster.{limit}", 0.1)
    with pytest.raises(Lost, match=r"^engine-0 has not answered for 0.1 s while making its thing"):
        asyncio.run(actor(make=never, pulse=never if limit == "SILENT" else beats).make(thing))


def test_an_actor_answers_its_pulse_while_it_makes_its_object() -> None:
    host = WaitingHost.__new__(WaitingHost)
    host._ticks = 7
    made = threading.Event()

    async def run() -> None:
        making = asyncio.ensure_future(host.make(made.wait, (60,)))
        await asyncio.sleep(0.01)
        assert await host.pulse() == ("done", 7)
        made.set()
        assert await making == ("done", None)

    asyncio.run(run())


def test_an_object_that_is_broken_for_good_is_a_lost_actor_and_any_other_error_is_none() -> None:
    class Holder:
        async def fail(self, error: ReasonkitError) -> None:
            raise error

    host = WaitingHost.__new__(WaitingHost)
    host._object = Holder()

    async def run() -> None:
        asked = actor(call=host.call)
        with pytest.raises(Lost, match="engine-0 is broken: vLLM died"):
            await asked.call("fail", Broken("vLLM died"))
        with pytest.raises(ReasonkitError, match="too slow") as slow:
            await asked.call("fail", ReasonkitError("too slow"))
        assert not isinstance(slow.value, Lost)

    asyncio.run(run())


@pytest.mark.parametrize(
    "error", [MissingExtra("vllm", "this"), Stopped(15, "stopped", "go on"), Broken("a", "b")]
)
def test_errors_travel_between_processes_as_they_are(error: ReasonkitError) -> None:
    arrived = pickle.loads(pickle.dumps(error))
    assert (type(arrived), str(arrived), vars(arrived)) == (type(error), str(error), vars(error))


class Hung(VllmEngine):
    """An engine whose vLLM takes requests, and says nothing more."""

    def __init__(self) -> None:
        self.killed = 0
        running: Any = SimpleNamespace(
            workers=1, context=99, adapter=None, kill=self.kill,
            llm=SimpleNamespace(engine_core=SimpleNamespace(get_output_async=beats)),
        )  # fmt: skip
        super().__init__(
            running, name="engine-0", deadline=60, update_deadline=60, stalled=0.1, bucket_mb=1, sleeps=False
        )

    def kill(self) -> None:
        self.killed += 1

    async def _reply(self, *_: Any) -> Any:
        await asyncio.Event().wait()


def test_vllm_that_gives_no_token_to_anybody_is_broken_unless_it_waits_for_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from reasonkit.engines import Sampling

    dead = SimpleNamespace(EngineDeadError=KeyError)
    monkeypatch.setitem(sys.modules, "vllm.v1.engine.exceptions", dead)

    async def run() -> None:
        engine = Hung()
        asked = [asyncio.ensure_future(engine.generate([1], Sampling(1))) for _ in range(2)]
        for _ in range(15):
            await asyncio.sleep(0.02)
            await engine._llm.engine_core.get_output_async()  # a token of somebody's
        engine._paused = True
        await asyncio.sleep(0.3)
        assert not any(each.done() for each in asked)
        engine._paused = False
        failed = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(error) for error in failed] == [Broken, Broken]
        assert "engine-0 has had no token for any of its 2 requests for 0.1 s" in str(failed[0])
        assert engine.killed == 1
        with pytest.raises(Broken):
            await engine.generate([1], Sampling(1))

    asyncio.run(run())


def test_a_head_that_takes_connections_and_no_requests_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("reasonkit.cluster.HEAD_SILENT", 0.2)
    let_go = threading.Event()
    hung = SimpleNamespace(check_alive=lambda nodes, timeout: let_go.wait(60))

    async def run() -> None:
        assert not await _answers(hung)
        assert await _answers(SimpleNamespace(check_alive=lambda nodes, timeout: []))

    started = time.monotonic()
    asyncio.run(run())
    let_go.set()
    assert time.monotonic() - started < 10


def test_what_is_done_aside_returns_or_raises_what_it_does() -> None:
    async def run() -> None:
        assert await _aside(lambda: 3, 60) == 3
        with pytest.raises(KeyError):
            await _aside(lambda: {}["a"], 60)

    asyncio.run(run())


def test_a_head_that_hangs_holds_up_a_placement_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reasonkit.cluster.PLACING", 0.1)
    let_go = threading.Event()
    cluster = Cluster.__new__(Cluster)
    cluster._gone, cluster._logs, cluster._actors = None, tmp_path, []
    monkeypatch.setattr(cluster, "_start", lambda *_: let_go.wait(60))
    with pytest.raises(Lost, match=r"has not taken engine-0 within 0.1 s"):
        asyncio.run(cluster.place(0, "engine-0", waits=True, takes=object()))  # type: ignore[arg-type]
    let_go.set()


OWNER = """
import os, sys
from reasonkit.ray_folder import RayFolder
folder = RayFolder()
print(folder.path, flush=True)
sys.stdin.read()
os._exit(1)
"""


def test_the_folder_of_a_ray_goes_with_its_owner_or_when_the_next_one_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "ray-of-another").mkdir()  # that says nothing of its owner
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], env={**os.environ, "TMPDIR": str(tmp_path)}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as other:  # fmt: skip
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        mine = RayFolder()
        assert theirs.is_dir()
        assert mine.path.is_dir()
        other.kill()
    sweep()
    assert not theirs.exists()
    assert mine.path.is_dir()
    mine.remove()
    assert [each.name for each in tmp_path.iterdir()] == ["ray-of-another"]
