"""Make any chat model's folder open its replies with `<think>`.

Nothing in a template's text is searched and replaced, because every family words it differently. The template
is wrapped instead: before it, a system message that asks for thinking is put where the conversation has none;
after it, `<think>` follows the generation prompt. Both are then checked on the rendered text, so a template
that the wrapping does not fit is an error and never a silent no-op. Weights are hard-linked, not copied.
"""

from __future__ import annotations

import difflib
import errno
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.rundir import atomic_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

JINJA = "chat_template.jinja"
CONFIG = "tokenizer_config.json"
GENERATION = "generation_config.json"

INSTRUCTION = (
    "You are a helpful assistant. To answer the user's question, you first think about the reasoning process "
    "and then provide the user with the answer. The reasoning process is enclosed within <think> </think> tags, "
    "i.e., <think> reasoning process here </think> answer here."
)

_OPEN = "<think>\n"
_MARK = "{#- reasonkit: opens a thought -#}"
_BEFORE_SYSTEM = (
    "{%- if messages[0]['role'] != 'system' -%}{%- set messages = [{'role': 'system', 'content': "
    + repr(INSTRUCTION)
    + "}] + messages -%}{%- endif -%}"
)
_BEFORE_USER = (
    "{%- set messages = [{'role': messages[0]['role'], 'content': "
    + repr(INSTRUCTION + "\n\n")
    + " ~ messages[0]['content']}] + messages[1:] -%}"
)
_AFTER = "{%- if add_generation_prompt -%}{{ '<think>\\n' }}{%- endif -%}"

_PROBE = [{"role": "user", "content": "What is 6 x 7?"}]
_PROBE_REPLY = [*_PROBE, {"role": "assistant", "content": "REPLY-OF-THE-ASSISTANT"}]
_PROBE_SYSTEM = [{"role": "system", "content": "SYSTEM-OF-THE-USER"}, *_PROBE]


@dataclass(frozen=True, slots=True)
class Change:
    """What was done, for people to check."""

    folder: str
    diff: str
    """Of the template; empty where it opened a thought already."""
    eos_before: str
    eos_after: str
    before: str
    """A sample prompt as the model's own template renders it."""
    after: str
    linked: int
    """Files that are hard links to the original's."""
    copied: int

    @property
    def changed(self) -> bool:
        return bool(self.diff) or self.eos_before != self.eos_after


def open_with_thought(source: Path, target: Path) -> Change:
    """Write a copy of model folder `source` to `target` whose template asks for a thought and opens it."""
    if not (source / CONFIG).is_file():
        raise UsageError(
            f"{source} is no model folder: it has no {CONFIG}", "give a Hugging Face model folder"
        )
    if target.resolve() == source.resolve():
        raise UsageError(f"{source} cannot be its own copy", "choose another folder to write to")
    tokenizer = _load(source)
    old = tokenizer.chat_template
    if not isinstance(old, str):
        raise ReasonkitError(
            f"{source} has no single chat template (found: {type(old).__name__})",
            "use the model's chat or instruct version, or put a chat_template.jinja into its folder",
        )
    before = _render(tokenizer, _PROBE, True)
    if before == _render(tokenizer, _PROBE, False):
        raise ReasonkitError(
            f"the chat template of {source} has no generation prompt: it renders the same with and without one",
            "add {% if add_generation_prompt %}…{% endif %} to its end",
        )
    new = old if _opens(before) else _wrapped(tokenizer, old)
    eos = _end_of_turn(tokenizer)
    changed = _changed_files(source, old, new, eos)
    if target.exists():
        linked, copied = _compare(source, target, changed)
    else:
        linked, copied = _write(source, target, changed)
    result = _load(target)
    after = _render(result, _PROBE, True)
    if not _opens(after) or result.eos_token != eos:
        raise AssertionError(f"{target} was written, but does not render as it was checked to: {after!r}")
    return Change(str(target), _diff(old, new), str(tokenizer.eos_token), eos, before, after, linked, copied)


def _wrapped(tokenizer: PreTrainedTokenizerBase, old: str) -> str:
    """The template with a thought opened, checked on what it renders."""
    if _MARK in old:
        raise ReasonkitError("the template was wrapped before, and does not open a thought any more")
    takes_system = _takes_system(tokenizer)
    new = _MARK + (_BEFORE_SYSTEM if takes_system else _BEFORE_USER) + old + _AFTER
    plain = {
        "the generation prompt": (_render(tokenizer, _PROBE, True, new), _OPEN),
        "no generation prompt": (_render(tokenizer, _PROBE, False, new), ""),
    }
    head = _render(tokenizer, _PROBE, False, new)
    for what, (rendered, ending) in plain.items():
        if INSTRUCTION not in rendered or not rendered.endswith(ending):
            raise ReasonkitError(
                f"the template does not take the instruction and the opened thought with {what}: {rendered!r}",
                "write chat_template.jinja by hand for this model",
            )
    opened = plain["the generation prompt"][0]
    own = _render(tokenizer, _PROBE, True)[len(_render(tokenizer, _PROBE, False)) :]
    if opened != head + own + _OPEN:
        raise ReasonkitError(
            f"the template writes something after its generation prompt, so a thought cannot be opened: {opened!r}",
            "write chat_template.jinja by hand for this model",
        )
    if (
        takes_system
        and _render(tokenizer, _PROBE_SYSTEM, True, new) != _render(tokenizer, _PROBE_SYSTEM, True) + _OPEN
    ):
        raise ReasonkitError("a system message of the user's own would not be kept by this template")
    return new


def _takes_system(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Some templates refuse system messages, and some leave them out."""
    from jinja2.exceptions import TemplateError

    try:
        return "SYSTEM-OF-THE-USER" in _render(tokenizer, _PROBE_SYSTEM, True)
    except TemplateError:
        return False


def _opens(rendered: str) -> bool:
    return rendered.rstrip().endswith("<think>")


def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> str:
    """The special token that the template writes after a reply: what a model must stop at."""
    _, _, rest = _render(tokenizer, _PROBE_REPLY, False).partition("REPLY-OF-THE-ASSISTANT")
    special = [token.content for token in tokenizer.added_tokens_decoder.values()]
    found = sorted((rest.find(token), -len(token), token) for token in special if token in rest)
    return found[0][2] if found else str(tokenizer.eos_token)


def _changed_files(source: Path, old: str, new: str, eos: str) -> dict[str, str]:
    """New contents of the files that say what the template and the end of a turn are."""
    changed: dict[str, str] = {}
    config: dict[str, Any] = json.loads((source / CONFIG).read_text(encoding="utf-8"))
    edited = {**config, "eos_token": eos} if _token_text(config.get("eos_token")) != eos else dict(config)
    if (source / JINJA).is_file():
        changed[JINJA] = new
    if config.get("chat_template") == old:
        edited["chat_template"] = new
    elif not (source / JINJA).is_file():
        raise ReasonkitError(
            f"{source} keeps several chat templates in {CONFIG}",
            "save the one to use as chat_template.jinja in the model's folder",
        )
    if edited != config:
        changed[CONFIG] = json.dumps(edited, indent=2, ensure_ascii=False) + "\n"
    return {
        name: text for name, text in changed.items() if text != (source / name).read_text(encoding="utf-8")
    } | (_generation_file(source, eos))


def _generation_file(source: Path, eos: str) -> dict[str, str]:
    """generation_config.json, whose ids are what samplers stop at."""
    path = source / GENERATION
    if not path.is_file():
        return {}
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    token = _load(source).convert_tokens_to_ids(eos)
    known = config.get("eos_token_id")
    ids = known if isinstance(known, list) else [] if known is None else [known]
    if token in ids:
        return {}
    return {GENERATION: json.dumps({**config, "eos_token_id": [token, *ids]}, indent=2) + "\n"}


def _write(source: Path, target: Path, changed: Mapping[str, str]) -> tuple[int, int]:
    linked = copied = 0
    with atomic_folder(target) as folder:
        for path in sorted(source.rglob("*")):
            relative = path.relative_to(source)
            if path.is_dir():
                continue
            (folder / relative).parent.mkdir(parents=True, exist_ok=True)
            if str(relative) in changed:
                (folder / relative).write_text(changed[str(relative)], encoding="utf-8")
            elif _link(path.resolve(), folder / relative):
                linked += 1
            else:
                copied += 1
    return linked, copied


def _link(source: Path, target: Path) -> bool:
    """A hard link, or a copy where the file system has none across these places."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        shutil.copy2(source, target)
        return False
    return True


def _compare(source: Path, target: Path, changed: Mapping[str, str]) -> tuple[int, int]:
    """An existing target is right if it is what would be written; anything else is not overwritten."""
    linked = copied = 0
    for path in sorted(source.rglob("*")):
        if path.is_dir():
            continue
        relative = str(path.relative_to(source))
        other = target / relative
        same_text = (
            relative in changed and other.is_file() and other.read_text(encoding="utf-8") == changed[relative]
        )
        same_file = (
            relative not in changed and other.is_file() and other.stat().st_size == path.stat().st_size
        )
        if not (same_text or same_file):
            raise UsageError(
                f"{target} exists, and its {relative} is not what would be written", "choose another folder"
            )
        if relative not in changed:
            linked += other.samefile(path)
            copied += not other.samefile(path)
    return linked, copied


def _diff(old: str, new: str) -> str:
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), "chat template before", "chat template after", lineterm="", n=1
    )
    return "\n".join(lines)


def _token_text(token: Any) -> Any:
    return token["content"] if isinstance(token, dict) else token


def _load(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ReasonkitError(
            f"the tokenizer of {folder} cannot be loaded: {error}", "check the model folder"
        ) from error
    return tokenizer


def _render(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, str]],
    generation: bool,
    template: str | None = None,
) -> str:
    rendered = tokenizer.apply_chat_template(
        messages, chat_template=template, tokenize=False, add_generation_prompt=generation
    )
    assert isinstance(rendered, str)
    return rendered
