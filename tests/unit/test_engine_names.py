"""Names of models, as every command line takes them."""

from __future__ import annotations

import pytest

from reasonkit.engines.names import ModelName, parse_model
from reasonkit.errors import UsageError


@pytest.mark.parametrize(
    ("text", "engine", "name", "url", "at"),
    [
        ("openai:gpt-4o", "openai", "gpt-4o", "", ""),
        ("anthropic:claude-x", "anthropic", "claude-x", "", ""),
        ("local:Qwen/Qwen3-8B", "local", "Qwen/Qwen3-8B", "", ""),
        ("openai:m@http://h:8000/v1/", "openai", "m", "http://h:8000/v1", ""),
        ("openai:@cf/m@2@https://h/v1", "openai", "@cf/m@2", "https://h/v1", ""),
        ("openai:ft:gpt-4o:org", "openai", "ft:gpt-4o:org", "", ""),
        ("vllm:Qwen/Qwen3-8B@main", "vllm", "Qwen/Qwen3-8B", "", "main"),
        ("hf:./folder", "hf", "./folder", "", ""),
        ("runs/tiny@50", "", "runs/tiny", "", "50"),
        ("tiny", "", "tiny", "", ""),
        ("./odd:name", "", "./odd:name", "", ""),
        ("runs/me@home/tiny", "", "runs/me@home/tiny", "", ""),
    ],
)
def test_names_are_taken_apart(text: str, engine: str, name: str, url: str, at: str) -> None:
    assert parse_model(text) == ModelName(text, engine, name, url, at)
    assert parse_model(text).is_http == (engine in ("openai", "anthropic", "local"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("opneai:x", "did you mean 'openai'"),
        ("openai:", "names no model"),
        ("vllm:", "names no model"),
        ("", "names no model"),
        ("openai:m@http://", "nothing more"),
        ("openai:m@http://h/v1?api_key=s3cret", "nothing more"),
        ("openai:m@http://me:s3cret@h/v1", "nothing more"),
        ("opnai:m@http://me:s3cret@h/v1", "is no kind of model"),
    ],
)
def test_what_is_no_name_is_refused_without_showing_secrets(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_model(text)
    shown = f"{caught.value.message} {caught.value.hint}"
    assert said in shown
    assert "s3cret" not in shown
