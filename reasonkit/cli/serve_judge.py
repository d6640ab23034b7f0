"""`reasonkit serve-judge`: the reward server's flags. What they mean is settings.py's, the serving server.py's."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import Annotated

import typer

from reasonkit.errors import UsageError


def serve_judge(
    context: typer.Context,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine's own need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Server processes, each with a share of the cores; one for 8 cores unless given."
        ),
    ] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option(
            help="The environment variable that holds the token which clients must show.", metavar="NAME"
        ),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Serve everybody who can reach --host, without a token.")
    ] = False,
    format_score: Annotated[
        bool | None,
        typer.Option(
            help="POST /reward: 0.9 × answer + 0.1 × form, as RL Verifier does unless USE_FORMAT_VERIFIER=false."
        ),
    ] = None,
    judge_url: Annotated[
        str, typer.Option(help="The LLM judge: an OpenAI-compatible server.", metavar="URL")
    ] = "",
    judge_model: Annotated[
        str, typer.Option(help="The name that it serves the judge by.", metavar="NAME")
    ] = "",
    judge_serve: Annotated[
        str,
        typer.Option(
            help="Start vLLM with this judge and wait until it is ready; `default` is general-verifier 1.5B.",
            metavar="PATH_OR_ID",
        ),
    ] = "",
    sandbox_url: Annotated[
        str,
        typer.Option(help="A SandboxFusion server, used where this machine has no sandbox.", metavar="URL"),
    ] = "",
    unsafe_sandbox: Annotated[
        bool, typer.Option("--unsafe-sandbox", help="Without any sandbox, run code all the same.")
    ] = False,
    max_body_mb: Annotated[int, typer.Option(min=1, max=1024, help="The largest request.")] = 16,
    drain: Annotated[int, typer.Option(min=0, help="Seconds to finish requests after SIGTERM.")] = 60,
) -> None:
    """Serve verdicts over HTTP: RL Verifier's API, SandboxFusion's, and our own.

    Answers on 127.0.0.1 unless told otherwise. RL Verifier's variables are read from the environment and from .env.
    """
    from reasonkit.judge.server import check_exposure, serve
    from reasonkit.judge.settings import (
        MEGABYTE,
        Settings,
        default_workers,
        judge_from_environment,
        take_token,
    )
    from reasonkit.judge.vllm import served

    if no_auth and api_key_env is not None:
        raise UsageError(
            f"--no-auth and --api-key-env {api_key_env} exclude each other", "leave one of them out"
        )
    if judge_serve and judge_url:
        raise UsageError(
            f"--judge-serve {judge_serve} and --judge-url {judge_url} exclude each other",
            "leave one of them out",
        )
    given = Settings.from_environment()
    verbosity: int = context.find_root().params["verbose"]
    settings = replace(
        given,
        host=host,
        port=port,
        workers=workers or default_workers(),
        token=take_token(api_key_env) if api_key_env else "",
        open_to_all=no_auth,
        format_score=given.format_score if format_score is None else format_score,
        judge=judge_from_environment(judge_url, judge_model) if not judge_serve else None,
        sandbox_url=sandbox_url or given.sandbox_url,
        unsafe_sandbox=unsafe_sandbox,
        max_body=max_body_mb * MEGABYTE,
        queue=max(given.queue, 4 * max_body_mb * MEGABYTE),
        drain=drain,
        verbosity=-1 if context.find_root().params["quiet"] else verbosity,
    )
    check_exposure(settings)
    with ExitStack() as stack:
        if judge_serve:
            settings = replace(settings, judge=stack.enter_context(served(judge_serve, judge_model)))
        serve(settings)
