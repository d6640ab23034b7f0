"""Runs the server: binds, starts the processes, replaces those that die, and lets requests finish at the end.

uvicorn's own supervisor does most of it. What is added: worker processes end when their supervisor is gone, however
it went; new connections are refused as soon as SIGTERM comes, so that clients turn elsewhere while the last
requests are answered; and a server that cannot start is an error of the command.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from reasonkit import log
from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.judge.app import create_app
from reasonkit.judge.bench import judge_client
from reasonkit.judge.gate import Gate
from reasonkit.judge.protocol import ImpatientProtocol
from reasonkit.judge.settings import Settings

LOGGER = logging.getLogger(__name__)
KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep idle connections: they close them, and no request meets a closed one."""
BACKLOG = 4096
PARENT_SECONDS = 0.3


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, and return when the last request is answered."""
    check_exposure(settings)
    if settings.judge is not None:
        asyncio.run(_try_judge(settings))
    _raise_descriptor_limit()
    with tempfile.TemporaryDirectory(prefix="reasonkit-judge-") as folder, _listening(settings) as listener:
        board = Path(folder, "board")
        board.touch()
        bound = replace(settings, port=listener.getsockname()[1], board=board)
        config = uvicorn.Config(
            partial(_worker_app, bound, os.getpid()),
            factory=True,
            workers=settings.workers,
            http=ImpatientProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=settings.drain,
            timeout_worker_healthcheck=60,
        )
        LOGGER.info(
            "judge at http://%s:%d, %d process(es); Ctrl-C ends it",
            settings.host,
            bound.port,
            settings.workers,
        )
        supervisor = _Supervisor(config, [listener])
        supervisor.run()
        if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
            raise ReasonkitError("the judge could not start", "the reason is in the lines above")
        LOGGER.info("the judge has answered its last request")


def check_exposure(settings: Settings) -> None:
    """A server that others can reach has a token, or somebody said that it needs none."""
    if not settings.is_local and not settings.token and not settings.open_to_all:
        raise UsageError(
            f"--host {settings.host} can be reached from elsewhere, and there is no token",
            "name the variable that holds one with --api-key-env, or say --no-auth",
        )


class _Supervisor(Multiprocess):
    def terminate_all(self) -> None:
        for listener in self.sockets:
            listener.close()  # the workers close theirs; with this one new connections are refused at once
        super().terminate_all()


def _worker_app(settings: Settings, supervisor: int) -> Gate:
    """In each worker process."""
    log.configure(settings.verbosity)
    logging.getLogger("uvicorn").handlers[:] = logging.getLogger(log.ROOT).handlers
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    gate = create_app(settings)
    asyncio.get_running_loop().create_task(_end_with(supervisor)).add_done_callback(_ENDING.discard)
    return gate


_ENDING: set[asyncio.Task[None]] = set()


async def _end_with(supervisor: int) -> None:
    """A worker whose supervisor was killed would go on and hold the port."""
    while os.getppid() == supervisor:
        await asyncio.sleep(PARENT_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    try:
        family, _, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # With the protocol named, asyncio turns Nagle's algorithm off; without, every answer waits 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, protocol)
    except OSError as error:
        raise UsageError(f"--host {settings.host}: {error}", "name an address of this machine") from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise UsageError(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror}", "try another --port"
            ) from error
        listener.set_inheritable(True)
        yield listener


async def _try_judge(settings: Settings) -> None:
    """Sing the canary once, before anything depends on the judge; the workers find its answers in the cache."""
    assert settings.judge is not None
    async with AsyncExitStack() as stack:
        judge = await stack.enter_async_context(judge_client(settings))
        LOGGER.info(
            "LLM judge %s: calls %.0f %% of the canary's empty phrases right",
            judge.model,
            100 * (judge.false_positives or 0.0),
        )


def _raise_descriptor_limit() -> None:
    """A held request costs a descriptor, and the usual limit is 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # containers may forbid it; then the usual limit stays
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 1 << 16) if most > 0 else 1 << 16, most))
