"""What the server is told: flags over environment over `.env`, as RL Verifier names them.

    FUSION_SANDBOX_URL      --sandbox-url    a SandboxFusion server, for machines that have no sandbox of their own
    LLM_JUDGE_MODEL         --judge-model    LLM_JUDGE_BASE_URL  --judge-url
    LLM_JUDGE_API_KEY       (OPENAI_API_KEY where it is missing or EMPTY)
    LLM_JUDGE_MAX_TOKENS    LLM_JUDGE_TEMPERATURE
    USE_FORMAT_VERIFIER     --format-score   true unless it says otherwise, as in RL Verifier

Where those name no judge, `STEM_LLM_JUDGE_URL` and `STEM_LLM_JUDGE_MODEL` do, as in the rest of reasonkit.
Settings travel to worker processes over a pipe, so no secret of theirs stands on a command line.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from reasonkit.dotenv import variable
from reasonkit.errors import UsageError
from reasonkit.verifiers.judge import DEFAULT_MODEL, KEY_VARIABLE, MODEL_VARIABLE, URL_VARIABLE

MEGABYTE = 1 << 20
OPENAI_URL = "https://api.openai.com/v1"
NO_KEY = "EMPTY"
"""What RL Verifier's users write where a judge wants no key."""
CORES_PER_WORKER = 8
"""One process's event loop keeps about this many busy with verdicts."""


@dataclass(frozen=True, slots=True)
class JudgeModel:
    """The LLM judge: an OpenAI-compatible server and what to ask of it."""

    url: str
    model: str = DEFAULT_MODEL
    api_key: str = ""
    max_tokens: int = 2048
    temperature: float = 0.0


@dataclass(frozen=True, slots=True)
class Settings:
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    """Server processes; each has its own verifier workers and sandbox."""
    token: str = ""
    """What clients must show; empty serves nobody but this machine, unless `open_to_all`."""
    open_to_all: bool = False
    format_score: bool = True
    """POST /reward gives 0.9 × answer + 0.1 × form, as RL Verifier does."""
    sandbox_url: str = ""
    unsafe_sandbox: bool = False
    judge: JudgeModel | None = None
    max_body: int = 16 * MEGABYTE
    """Bytes of one request."""
    queue: int = 256 * MEGABYTE
    """Bytes of all requests that are being read or judged; what comes beyond waits unread in its socket."""
    drain: int = 60
    """Seconds that requests in progress are given to finish after SIGTERM."""
    board: Path | None = None
    """The file that all processes count in; None counts in memory."""
    verbosity: int = 0

    @property
    def grading_workers(self) -> int:
        """Verifier workers, and sandbox workers, of one process."""
        return -(-usable_cores() // self.workers)

    @property
    def is_local(self) -> bool:
        return self.host == "localhost" or _is_loopback(self.host)

    @classmethod
    def from_environment(cls) -> Settings:
        """What the environment and `.env` say; the command line's flags are laid over it."""
        return cls(
            format_score=boolean("USE_FORMAT_VERIFIER", default=True),
            sandbox_url=variable("FUSION_SANDBOX_URL"),
            judge=judge_from_environment(),
        )


def judge_from_environment(url: str = "", model: str = "") -> JudgeModel | None:
    """The judge that flags or else the environment name; None where neither names one."""
    url = url or variable("LLM_JUDGE_BASE_URL", URL_VARIABLE)
    model = model or variable("LLM_JUDGE_MODEL", MODEL_VARIABLE)
    if not url and not model:
        return None
    key = variable("LLM_JUDGE_API_KEY")
    if key in ("", NO_KEY):
        key = (
            variable("OPENAI_API_KEY", KEY_VARIABLE)
            if not url or url == OPENAI_URL
            else variable(KEY_VARIABLE)
        )
    return JudgeModel(
        url or OPENAI_URL,
        model or DEFAULT_MODEL,
        key,
        int(number("LLM_JUDGE_MAX_TOKENS", 2048)),
        number("LLM_JUDGE_TEMPERATURE", 0.0),
    )


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def default_workers() -> int:
    return -(-usable_cores() // CORES_PER_WORKER)


def take_token(name: str) -> str:
    """The token in environment variable `name`, which is removed: no child process inherits it."""
    token = os.environ.pop(name, "").strip()
    if len(token) < 16 or not token.isascii() or not token.isprintable() or set(token) & set("/?#% "):
        raise UsageError(
            f"{name} holds {'no token' if not token else 'a token that cannot be used'}: 16 characters or more, "
            "none of them '/', '?', '#', '%' or a space",
            f"export {name}=$(openssl rand -hex 24)",
        )
    return token


def boolean(name: str, *, default: bool) -> bool:
    text = variable(name).lower()
    if text in ("", "1", "true", "yes", "on", "t", "y"):
        return True if text else default
    if text in ("0", "false", "no", "off", "f", "n"):
        return False
    raise UsageError(f"{name} is '{text}'", f"write {name}=true or {name}=false")


def number(name: str, default: float) -> float:
    text = variable(name)
    try:
        return float(text) if text else default
    except ValueError as error:
        raise UsageError(f"{name} is '{text}'", f"write a number, such as {name}={default:g}") from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
