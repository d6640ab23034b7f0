"""The application: routes, and what each of them answers. Everything about bytes and clients is the gate's.

uvicorn reasonkit.judge.asgi:app        by the environment, one process
reasonkit serve-judge                   the same, supervised, with flags
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from reasonkit import __version__
from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.judge import fusion, legacy
from reasonkit.judge.bench import Bench
from reasonkit.judge.board import UNSAID, Board
from reasonkit.judge.gate import Gate, log_bug
from reasonkit.judge.health import health_of
from reasonkit.judge.schemas import (
    Batch,
    Judgement,
    Problem,
    Question,
    encode,
    judgement,
    parse_question,
    record_of,
    refusal,
)
from reasonkit.judge.settings import Settings
from reasonkit.records import Record

WINDOW = 16
"""Verdicts of one batch in progress, for each verifier worker: enough to keep them busy, and not so many that a
batch delays the single requests behind it."""
PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body is not JSON, or what the request needs is not there."},
    401: {"model": Problem, "description": "No token, or not the right one."},
    403: {"model": Problem, "description": "The server has no token, and this is not its own machine."},
    408: {"model": Problem, "description": "The announced body did not come in time."},
    411: {"model": Problem, "description": "The body's length is not announced."},
    413: {"model": Problem, "description": "The body is too large."},
    422: {"model": Problem, "description": "The request cannot be judged as it is."},
    500: {"model": Problem, "description": "The infrastructure failed."},
}
NDJSON = "application/x-ndjson"
BATCH_PATH = "/v1/verify/batch"


class Answered(Exception):
    """Ends a request with this status and detail."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def create_app(settings: Settings) -> Gate:
    """The ASGI application of one process."""
    board = Board(settings.board, settings.workers)
    bench = Bench(settings, board)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await bench.open()
        yield
        await bench.close()
        board.close()

    app = FastAPI(
        title="reasonkit judge",
        version=__version__,
        summary="Scores replies of reasoning models.",
        lifespan=lifespan,
        redirect_slashes=False,
        responses=PROBLEMS,
    )
    _handle_errors(app)
    gate = Gate(app, settings, board)
    _add_own(app, settings, bench)
    _add_legacy(app, settings, bench, board)
    _add_fusion(app, bench)
    _add_operation(app, settings, bench, board, gate)
    return gate


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        """Where and what, without the request's own text, which may be long."""
        problems = [{key: problem[key] for key in ("type", "loc", "msg")} for problem in error.errors()[:20]]
        return JSONResponse({"detail": problems}, 422)

    @app.exception_handler(Exception)
    async def broken(_: Request, __: Exception) -> JSONResponse:
        """The gate logs where; what the exception says may quote the request."""
        return JSONResponse({"detail": "internal error; the log has its trace under this request's id"}, 500)

    @app.exception_handler(Answered)
    async def answered(_: Request, end: Answered) -> JSONResponse:
        return JSONResponse({"detail": end.detail}, end.code)


def _add_own(app: FastAPI, settings: Settings, bench: Bench) -> None:
    @app.post("/v1/verify", response_model=Judgement, tags=["verdicts"])
    async def verify(question: Question) -> Response:
        """The verdict on one reply."""
        try:
            record = record_of(question)
        except UsageError as error:
            raise Answered(422, f"{error.message}; {error.hint}" if error.hint else error.message) from None
        verdict = await bench.verdict(record, question.response)
        return Response(encode(judgement(record, verdict)), media_type="application/json")

    line = {
        "schema": {"type": "string", "description": "One line of JSON a verdict: {index, …as of /v1/verify}."}
    }

    @app.post(
        BATCH_PATH,
        tags=["verdicts"],
        responses={200: {"content": {NDJSON: line}}},
        response_class=Response,
    )
    async def verify_batch(batch: Batch) -> StreamingResponse:
        """Verdicts on many replies, each as soon as it is there; `index` is the item's place in the request."""
        window = WINDOW * settings.grading_workers
        return StreamingResponse(_judged(bench, batch.items, window), media_type=NDJSON)


async def _judged(bench: Bench, items: list[Any], window: int) -> AsyncIterator[bytes]:
    """Lines of verdicts, `window` of them in progress at a time; several in a piece when they come quickly."""
    ready: asyncio.Queue[bytes] = asyncio.Queue()
    numbered = iter(enumerate(items))

    async def work() -> None:
        for index, item in numbered:
            ready.put_nowait(encode({"index": index, **await _one(bench, item)}) + b"\n")

    workers = [asyncio.create_task(work()) for _ in range(min(window, len(items)))]
    try:
        left = len(items)
        while left:
            lines = [await ready.get()]
            while not ready.empty():
                lines.append(ready.get_nowait())
            left -= len(lines)
            yield b"".join(lines)
    finally:
        for worker in workers:
            worker.cancel()


async def _one(bench: Bench, item: Any) -> dict[str, Any]:
    try:
        record, text = parse_question(item)
    except UsageError as error:
        return refusal(error.message)
    try:
        return judgement(record, await bench.verdict(record, text))
    except Exception as bug:  # one item's trouble must not end the stream that carries the others'
        log_bug(record.uid)
        return refusal(f"internal error: {type(bug).__name__}")


def _add_legacy(app: FastAPI, settings: Settings, bench: Bench, board: Board) -> None:
    async def score(record: Record, text: str) -> float:
        verdict = await bench.verdict(record, text)
        if verdict.status.is_failure:
            board.add(UNSAID)
            raise Answered(500, verdict.reason)
        return verdict.score

    async def one(request: legacy.RewardIn) -> float:
        try:
            info = legacy.parse_info(request.verification_info)
            await legacy.require(info["type"], bench.grader)
            record = legacy.record_of(info)
        except legacy.Unusable as error:
            raise Answered(422, str(error)) from None
        except legacy.NotServed as error:
            raise Answered(400, str(error)) from None
        except (KeyError, TypeError, AttributeError) as error:
            board.add(UNSAID)
            raise Answered(500, f"the answer lacks what its type needs: {error}") from None
        reply, text = legacy.parts_of(request.llm_output)
        answer = await score(record, text)
        if not settings.format_score:
            return answer
        form = await legacy.form_of(info, reply, bench.grader)
        return legacy.ANSWER_SHARE * answer + legacy.FORMAT_SHARE * form

    @app.post("/reward", response_model=legacy.RewardOut | legacy.RewardBatchOut, tags=["RL Verifier"])
    async def reward(request: legacy.RewardIn | legacy.RewardBatchIn) -> Response:
        """RL Verifier's route; told apart by its keys."""
        if isinstance(request, legacy.RewardIn):
            return JSONResponse({"score": await one(request)})
        if len(request.solutions) != len(request.ground_truths):
            sizes = f"{len(request.solutions)} solutions and {len(request.ground_truths)} ground_truths"
            raise Answered(422, f"{sizes} make no pairs")
        pairs = zip(request.ground_truths, request.solutions, strict=True)
        scores = [score(legacy.math_record(gold), legacy.parts_of(solution)[1]) for gold, solution in pairs]
        return JSONResponse({"scores": await asyncio.gather(*scores)})

    @app.get("/ping", tags=["RL Verifier"])
    async def ping() -> dict[str, str]:
        """That the server runs; `batch` is where it takes many questions at once."""
        return {"status": "ok", "message": f"reasonkit judge {__version__}", "batch": BATCH_PATH}


def _add_fusion(app: FastAPI, bench: Bench) -> None:
    @app.post("/run_code", response_model=fusion.RunCodeOut, tags=["SandboxFusion"])
    async def run_code(request: fusion.RunCodeIn) -> Response:
        try:
            done = await fusion.run_code(request, await bench.grader.sandbox())
        except UsageError as error:
            raise Answered(422, error.message) from None
        except ReasonkitError as error:
            done = fusion.RunCodeOut(status="SandboxError", message=error.message)
        return Response(encode(done.model_dump()), media_type="application/json")

    @app.post("/submit", response_model=fusion.SubmitOut, tags=["SandboxFusion"])
    async def submit(request: fusion.SubmitIn) -> Response:
        try:
            done = await fusion.submit(request, await bench.grader.sandbox())
        except UsageError as error:
            raise Answered(422, error.message) from None
        except ReasonkitError as error:
            raise Answered(500, error.message) from None
        return Response(encode(done.model_dump()), media_type="application/json")

    @app.get("/v1/ping", tags=["SandboxFusion"])
    async def ping() -> str:
        return "pong"


def _add_operation(app: FastAPI, settings: Settings, bench: Bench, board: Board, gate: Gate) -> None:
    @app.get("/health", tags=["operation"])
    async def health() -> dict[str, Any]:
        """What this server has and how it fares; `degraded` where something that it was given does not work."""
        return health_of(settings, bench, board, gate.admission)

    @app.get("/metrics", tags=["operation"], response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counters of all processes, for Prometheus."""
        return PlainTextResponse(board.exposition(), media_type="text/plain; version=0.0.4")
