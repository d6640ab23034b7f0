"""`reasonkit serve-judge`: the reward server's flags. What they mean is settings.py's, the serving server.py's."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from reasonkit.errors import UsageError

if TYPE_CHECKING:
    from reasonkit.judge import Settings

Host = Annotated[str, typer.Option(help="Address to listen on; others than this machine's own need a token.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, help="Server processes, each with a share of the cores; one for 8 cores unless given."
    ),
]
ApiKeyEnv = Annotated[
    str,
    typer.Option(
        help="The environment variable that holds the token which clients must show.", metavar="NAME"
    ),
]
NoAuth = Annotated[
    bool, typer.Option("--no-auth", help="Serve everybody who can reach --host, without a token.")
]
FormatScore = Annotated[
    bool | None,
    typer.Option(
        help="POST /reward: 0.9 × answer + 0.1 × form, as RL Verifier does unless USE_FORMAT_VERIFIER=false."
    ),
]
JudgeUrl = Annotated[str, typer.Option(help="The LLM judge: an OpenAI-compatible server.", metavar="URL")]
JudgeModel = Annotated[str, typer.Option(help="The name that it serves the judge by.", metavar="NAME")]
JudgeServe = Annotated[
    str,
    typer.Option(
        help="Start vLLM with this judge and wait until it is ready; `default` is general-verifier 1.5B.",
        metavar="PATH_OR_ID",
    ),
]
SandboxUrl = Annotated[
    str, typer.Option(help="A SandboxFusion server, used where this machine has no sandbox.", metavar="URL")
]
UnsafeSandbox = Annotated[
    bool, typer.Option("--unsafe-sandbox", help="Without any sandbox, run code all the same.")
]
MaxBody = Annotated[int, typer.Option("--max-body-mb", min=1, max=1024, help="The largest request.")]
Drain = Annotated[int, typer.Option(min=0, help="Seconds to finish requests after SIGTERM.")]


def serve_judge(
    context: typer.Context,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    workers: Workers = None,
    api_key_env: ApiKeyEnv = "",
    no_auth: NoAuth = False,
    format_score: FormatScore = None,
    judge_url: JudgeUrl = "",
    judge_model: JudgeModel = "",
    judge_serve: JudgeServe = "",
    sandbox_url: SandboxUrl = "",
    unsafe_sandbox: UnsafeSandbox = False,
    max_body: MaxBody = 16,
    drain: Drain = 60,
) -> None:
    """Serve verdicts over HTTP: RL Verifier's API, SandboxFusion's, and our own.

    Answers on 127.0.0.1 unless told otherwise. RL Verifier's variables are read from the environment and from .env.
    """
    from reasonkit.judge.server import check_exposure, serve
    from reasonkit.judge.settings import MEGABYTE, default_workers, judge_from_environment
    from reasonkit.judge.vllm import served

    _exclude({"--no-auth": no_auth, f"--api-key-env {api_key_env}": api_key_env})
    _exclude({f"--judge-serve {judge_serve}": judge_serve, f"--judge-url {judge_url}": judge_url})
    given = _environment(api_key_env)
    settings = replace(
        given,
        host=host,
        port=port,
        workers=workers or default_workers(),
        open_to_all=no_auth,
        format_score=given.format_score if format_score is None else format_score,
        judge=None if judge_serve else judge_from_environment(judge_url, judge_model),
        sandbox_url=sandbox_url or given.sandbox_url,
        unsafe_sandbox=unsafe_sandbox,
        max_body=max_body * MEGABYTE,
        queue=max(given.queue, 4 * max_body * MEGABYTE),
        drain=drain,
        verbosity=_verbosity(context),
    )
    check_exposure(settings)
    with ExitStack() as stack:
        if judge_serve:
            settings = replace(settings, judge=stack.enter_context(served(judge_serve, judge_model)))
        serve(settings)


def _environment(api_key_env: str) -> Settings:
    """What the environment says, with the token, which is taken out of it."""
    from reasonkit.judge.settings import Settings, take_token

    given = Settings.from_environment()
    return replace(given, token=take_token(api_key_env)) if api_key_env else given


def _exclude(flags: dict[str, object]) -> None:
    if all(flags.values()):
        raise UsageError(f"{' and '.join(flags)} exclude each other", "leave one of them out")


def _verbosity(context: typer.Context) -> int:
    chosen = context.find_root().params
    return -1 if chosen["quiet"] else int(chosen["verbose"])
