"""Where the judge's settings come from, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reasonkit.errors import UsageError
from reasonkit.judge.server import check_exposure
from reasonkit.judge.settings import JudgeModel, Settings, judge_from_environment, take_token

TOKEN = "0123456789abcdef"


@pytest.fixture(autouse=True)
def _nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if "JUDGE" in name or name in ("FUSION_SANDBOX_URL", "USE_FORMAT_VERIFIER", "OPENAI_API_KEY"):
            monkeypatch.delenv(name)


def test_rl_verifiers_env_file_is_understood(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "FUSION_SANDBOX_URL=http://localhost:8080\n"
        "LLM_JUDGE_MODEL=Qwen/Qwen2.5-32B-Instruct       # Model name\n"
        "LLM_JUDGE_BASE_URL=http://localhost:8002/v1\n"
        "LLM_JUDGE_API_KEY=EMPTY\n"
        "LLM_JUDGE_MAX_TOKENS=1000\n"
        "LLM_JUDGE_TEMPERATURE=0.5\n"
        "USE_FORMAT_VERIFIER=false\n"
    )
    found = Settings.from_environment()
    assert found.sandbox_url == "http://localhost:8080"
    assert found.judge == JudgeModel("http://localhost:8002/v1", "Qwen/Qwen2.5-32B-Instruct", "", 1000, 0.5)
    assert not found.format_score


def test_the_environment_wins_over_the_file_and_flags_over_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("LLM_JUDGE_BASE_URL=http://file/v1\nLLM_JUDGE_MODEL=file\n")
    monkeypatch.setenv("LLM_JUDGE_MODEL", "environment")
    assert judge_from_environment() == JudgeModel("http://file/v1", "environment")
    assert judge_from_environment("http://flag", "flag") == JudgeModel("http://flag", "flag")


def test_with_nothing_set_it_is_rl_verifiers_default() -> None:
    found = Settings.from_environment()
    assert found.format_score, "RL Verifier's own default"
    assert (found.judge, found.sandbox_url, found.host) == (None, "", "127.0.0.1")


def test_openais_key_goes_to_openai_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    assert judge_from_environment(model="gpt").api_key == "sk-secret"  # type: ignore[union-attr]
    assert judge_from_environment("http://elsewhere/v1", "m").api_key == ""  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "value"), [("USE_FORMAT_VERIFIER", "maybe"), ("LLM_JUDGE_TEMPERATURE", "warm")]
)
def test_a_value_that_means_nothing_is_an_error(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_JUDGE_MODEL", "m")
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=value):
        Settings.from_environment()


def test_a_token_is_taken_out_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    assert take_token("MY_TOKEN") == TOKEN
    assert "MY_TOKEN" not in os.environ


@pytest.mark.parametrize(
    "bad", ["", "short", "with/a/slash/in/the/middle", "with%20percent%20signs", "ünïcödé-tokens-are-out"]
)
def test_a_token_that_could_not_be_a_part_of_a_path_is_refused(
    bad: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", bad)
    with pytest.raises(UsageError) as refused:
        take_token("MY_TOKEN")
    assert not bad or bad not in refused.value.message + refused.value.hint, "a secret is not repeated"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "judge.example.org"])
def test_others_are_served_only_with_a_token_or_by_decision(host: str) -> None:
    with pytest.raises(UsageError, match="no token"):
        check_exposure(Settings(host=host))
    check_exposure(Settings(host=host, token=TOKEN))
    check_exposure(Settings(host=host, open_to_all=True))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_needs_none(host: str) -> None:
    check_exposure(Settings(host=host))
