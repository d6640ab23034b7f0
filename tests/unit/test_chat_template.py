"""A thought is asked for and opened in any family's template, or there is an error; never a silent no-op."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reasonkit.data.chat_template import INSTRUCTION, open_with_thought
from reasonkit.errors import ReasonkitError, UsageError
from tests.micro import reasonkit

QWEN = (
    "{%- if messages[0]['role'] == 'system' %}"
    "{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>system\\nYou are Qwen.<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}{%- if not (loop.first and message.role == 'system') %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
LLAMA = (
    "{% for message in messages %}"
    "{{ '<|head|>' + message['role'] + '<|/head|>\\n\\n' + message['content'] + '<|eot|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|head|>assistant<|/head|>\\n\\n' }}{% endif %}"
)
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{{ '<turn>' + message['role'] + '\\n' + message['content'] + '</turn>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<turn>model\\n' }}{% endif %}"
)
R1 = LLAMA.replace("<|/head|>\\n\\n' }}{% endif %}", "<|/head|>\\n\\n<think>\\n' }}{% endif %}")
NO_GENERATION = "{% for message in messages %}{{ message['content'] }}<|eot|>{% endfor %}"
SPECIAL = [
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot|>",
    "<|head|>",
    "<|/head|>",
    "<turn>",
    "</turn>",
]


def model_folder(
    path: Path, template: str | None, *, jinja: bool = False, eos: str = "<|endoftext|>"
) -> Path:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
    tokenizer.add_special_tokens(SPECIAL)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, unk_token="<unk>")
    fast.save_pretrained(path)
    if template is not None and jinja:
        (path / "chat_template.jinja").write_text(template)
    elif template is not None:
        edit(path, chat_template=template)
    (path / "model.safetensors").write_bytes(b"\0" * 1000)
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": fast.eos_token_id}))
    return path


def edit(folder: Path, **values: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def prompt(folder: Path, messages: list[dict[str, str]]) -> str:
    from transformers import AutoTokenizer

    rendered = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert isinstance(rendered, str)
    return rendered


USER = [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize("jinja", [False, True])
@pytest.mark.parametrize(
    ("template", "expected", "eos"),
    [
        (
            QWEN,
            (
                f"<|im_start|>system\n{INSTRUCTION}<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
                "<|im_start|>assistant\n<think>\n"
            ),
            "<|im_end|>",
        ),
        (
            LLAMA,
            (
                f"<|head|>system<|/head|>\n\n{INSTRUCTION}<|eot|><|head|>user<|/head|>\n\nHi<|eot|>"
                "<|head|>assistant<|/head|>\n\n<think>\n"
            ),
            "<|eot|>",
        ),
        (GEMMA, f"<turn>user\n{INSTRUCTION}\n\nHi</turn>\n<turn>model\n<think>\n", "</turn>"),
    ],
)
def test_every_family_asks_for_a_thought_and_opens_it(
    tmp_path: Path, template: str, expected: str, eos: str, jinja: bool
) -> None:
    source = model_folder(tmp_path / "in", template, jinja=jinja)
    change = open_with_thought(source, tmp_path / "out")
    assert prompt(tmp_path / "out", USER) == expected
    assert (change.eos_before, change.eos_after) == ("<|endoftext|>", eos)
    assert "+" in change.diff
    assert change.after.endswith("<think>\n")
    assert not change.before.endswith("<think>\n")


def test_a_system_message_of_ones_own_is_kept_and_history_is_untouched(tmp_path: Path) -> None:
    source = model_folder(tmp_path / "in", QWEN)
    open_with_thought(source, tmp_path / "out")
    talk = [
        {"role": "system", "content": "Be brief."},
        *USER,
        {"role": "assistant", "content": "<think>x</think>Hello"},
        *USER,
    ]
    assert prompt(tmp_path / "out", talk) == prompt(source, talk) + "<think>\n"


def test_sampling_stops_at_the_end_of_a_turn(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    source = model_folder(tmp_path / "in", QWEN)
    open_with_thought(source, tmp_path / "out")
    stop = json.loads((tmp_path / "out/generation_config.json").read_text())["eos_token_id"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.eos_token == "<|im_end|>"
    assert stop[0] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.convert_tokens_to_ids("<|endoftext|>") in stop


def test_weights_are_linked_and_the_original_is_left_alone(tmp_path: Path) -> None:
    source = model_folder(tmp_path / "in", QWEN, jinja=True)
    (source / "nested").mkdir()
    (source / "nested/extra.bin").write_bytes(b"1")
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    change = open_with_thought(source, tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").samefile(source / "model.safetensors")
    assert (tmp_path / "out/nested/extra.bin").samefile(source / "nested/extra.bin")
    assert change.copied == 0
    assert {path: path.read_bytes() for path in before} == before


def test_doing_it_twice_changes_nothing(tmp_path: Path) -> None:
    source = model_folder(tmp_path / "in", QWEN)
    once = open_with_thought(source, tmp_path / "out")
    assert open_with_thought(source, tmp_path / "out") == once
    again = open_with_thought(tmp_path / "out", tmp_path / "again")
    assert not again.changed
    assert prompt(tmp_path / "again", USER) == prompt(tmp_path / "out", USER)


def test_a_template_that_opens_a_thought_already_stays(tmp_path: Path) -> None:
    change = open_with_thought(model_folder(tmp_path / "in", R1, eos="<|eot|>"), tmp_path / "out")
    assert not change.changed
    assert prompt(tmp_path / "out", USER) == prompt(tmp_path / "in", USER)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (NO_GENERATION, "has no generation prompt"),
        (None, "has no single chat template"),
        (LLAMA + "THE END", "writes something after its generation prompt"),
        ("{{ 'fixed' }}{% if add_generation_prompt %}{{ 'go' }}{% endif %}", "does not take the instruction"),
    ],
)
def test_a_template_that_the_change_does_not_fit_is_an_error(
    tmp_path: Path, template: str | None, message: str
) -> None:
    source = model_folder(tmp_path / "in", template)
    with pytest.raises(ReasonkitError, match=message):
        open_with_thought(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folders_that_cannot_be_are_errors(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="is no model folder"):
        open_with_thought(tmp_path / "empty", tmp_path / "out")
    source = model_folder(tmp_path / "in", QWEN)
    with pytest.raises(UsageError, match="own copy"):
        open_with_thought(source, source)
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match="not what would be written"):
        open_with_thought(source, tmp_path / "other")


def test_the_command_shows_the_difference_and_a_prompt(tmp_path: Path) -> None:
    source = model_folder(tmp_path / "in", QWEN)
    line = ("chat-template", str(source), str(tmp_path / "out"))
    refused = reasonkit(tmp_path, *line)
    assert refused.returncode == 2
    assert refused.stderr.endswith("--think\n")
    done = reasonkit(tmp_path, *line, "--think")
    assert done.returncode == 0, done.stderr
    assert "chat template after" in done.stdout
    assert "end of turn: <|endoftext|> -> <|im_end|>" in done.stdout
    assert "<think>" in done.stdout
