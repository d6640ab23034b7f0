"""A run's checkpoint as a plain Hugging Face model folder with a model card.

A checkpoint holds such a folder's files already; what only resuming needs is left behind. The card
says what is known about the model and nothing else: no field is filled in by guessing.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from reasonkit.config import load_recipe
from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.recipe import Recipe
from reasonkit.rundir import RunDir, atomic_folder

FOR_RESUMING = ("training", "state.json")
"""What a checkpoint holds beside the model."""
ADAPTER_CONFIG = "adapter_config.json"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


TRAINED_ON_REPLIES = {
    "sft": "trained to imitate given replies",
    "dpo": "trained on pairs of better and worse replies",
}
"""What those algorithms do that do not sample."""


@dataclass(frozen=True, slots=True)
class Exported:
    path: Path
    step: int
    adapters: bool
    """Whether it holds adapters alone, which need the model that they were trained beside."""


def export_checkpoint(run: RunDir, step: int | None, out: Path, *, merge: bool = False) -> Exported:
    """Write the model of `step` (None: of the last checkpoint) to the new folder `out`. A checkpoint of adapters is
    written as adapters, or with `merge` as the whole model that they make of their base."""
    steps = run.checkpoints()
    if not steps:
        raise ReasonkitError(f"{run.path} has no checkpoint yet", f"reasonkit train --resume {run.path}")
    if step is not None and step not in steps:
        kept = ", ".join(map(str, steps))
        raise UsageError(
            f"{run.path} keeps no checkpoint of step {step}, only of {kept}",
            f"reasonkit export {run.path}@{steps[-1]} {out}",
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not empty", "choose a folder that is not there yet")
    chosen = steps[-1] if step is None else step
    adapters = (run.checkpoint(chosen) / ADAPTER_CONFIG).exists()
    left_behind = (*FOR_RESUMING, ADAPTER_CONFIG, "adapter_model.safetensors") if merge else FOR_RESUMING
    if merge and not adapters:
        raise UsageError(
            f"{run.path}@{chosen} holds a whole model, so there is nothing to merge",
            f"reasonkit export {run.path}@{chosen} {out}",
        )
    with atomic_folder(out) as temporary:
        shutil.copytree(
            run.checkpoint(chosen),
            temporary,
            ignore=shutil.ignore_patterns(*left_behind),
            dirs_exist_ok=True,
        )
        if merge:
            _merge(run.checkpoint(chosen), temporary)
        (temporary / "README.md").write_text(model_card(run, chosen, out.name), encoding="utf-8")
    return Exported(out, chosen, adapters and not merge)


def _merge(checkpoint: Path, out: Path) -> None:
    """Write the model that the checkpoint's adapters make of the one they were trained beside."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(_base_of(checkpoint), dtype="auto")
    PeftModel.from_pretrained(base, str(checkpoint)).merge_and_unload().save_pretrained(out)


def _base_of(checkpoint: Path) -> str:
    """What the checkpoint's adapters were trained beside: a folder, or a name on the Hub."""
    config = json.loads((checkpoint / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    base = str(config["base_model_name_or_path"])
    if not Path(base).exists() and not HUB_ID.fullmatch(base):
        raise ReasonkitError(
            f"the adapters in {checkpoint} belong to the model at {base}, which is not there any more",
            f"put it back, or write where it is into {checkpoint / ADAPTER_CONFIG}",
        )
    return base


def _architecture(checkpoint: Path) -> str:
    from transformers import AutoConfig

    whole = checkpoint if (checkpoint / "config.json").exists() else _base_of(checkpoint)
    return str(AutoConfig.from_pretrained(whole).model_type)


def model_card(run: RunDir, step: int, title: str) -> str:
    """The card of the model after `step`, as Markdown with the metadata that the Hub reads."""
    recipe, info = load_recipe(run.recipe), run.info()
    architecture = _architecture(run.checkpoint(step))
    metadata = yaml.safe_dump(dict(_metadata(recipe)), sort_keys=False, allow_unicode=True)
    origin = f"Starts from `{recipe.model.path}`" if recipe.model.path else "Made from scratch"
    warmed = ", warmed up on demonstrations" if recipe.warmup else ""
    name = recipe.algorithm.name
    how = TRAINED_ON_REPLIES.get(name, "trained by reinforcement learning with verifiable rewards")
    replies = "" if name in TRAINED_ON_REPLIES else f" with {recipe.rollout.n} replies"
    sentence = (
        f"{origin} (architecture `{architecture}`){warmed}, {how}: {step:,} steps of `{name}`, each of "
        f"{recipe.train.prompts} problems{replies}, by reasonkit {info['version']}.\n"
    )
    parts = [
        f"---\n{metadata}---\n",
        f"# {title}\n",
        sentence,
        *_results(run, step),
        "## Use\n",
        _usage(title, _sample_prompt(run)),
        "## Recipe\n",
        f"```yaml\n{run.recipe.read_text(encoding='utf-8').rstrip()}\n```\n",
    ]
    if info.get("packages"):
        versions = ", ".join(f"{package} {version}" for package, version in info["packages"].items())
        parts.append(f"Trained with {versions}.\n")
    return "\n".join(parts)


def _metadata(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    yield "library_name", "transformers"
    yield "pipeline_tag", "text-generation"
    yield "tags", ["reasonkit", "reinforcement-learning", "rlvr", recipe.algorithm.name.rpartition(":")[2]]
    path = recipe.model.path
    if path and HUB_ID.fullmatch(path) and not Path(path).exists():
        yield "base_model", path
    hub = [
        source.name.removeprefix("hf:").partition("@")[0]
        for source in recipe.data.train
        if source.name.startswith("hf:")
    ]
    if hub:
        yield "datasets", hub


def _results(run: RunDir, step: int) -> Iterator[str]:
    """Held-out accuracy before training and after `step`, where the run measured them."""
    looks = {
        when: _look(run, at) for when, at in (("before", 0), ("after", step)) if step > 0 or when == "before"
    }
    measured = {when: look for when, look in looks.items() if look}
    if not measured:
        return
    yield "## Held-out problems\n"
    lines = [f"| replies | {' | '.join(measured)} | problems |", "|---|" + "---|" * (len(measured) + 1)]
    for decoding in ("sampled", "greedy"):
        cells = [_cell(look[decoding]) for look in measured.values()]
        lines.append(
            f"| {decoding} | {' | '.join(cells)} | {next(iter(measured.values()))[decoding]['n']:,} |"
        )
    yield "\n".join(lines) + "\n"
    yield "Mean score with 95 % intervals over held-out problems.\n"


def _look(run: RunDir, step: int) -> Mapping[str, Any] | None:
    if not run.evaluation(step).exists():
        return None
    look: dict[str, Any] = json.loads(run.evaluation(step).read_text(encoding="utf-8"))
    return look


def _cell(result: Mapping[str, Any]) -> str:
    return f"{100 * result['accuracy']:.1f} % ({100 * result['low']:.1f} to {100 * result['high']:.1f})"


def _sample_prompt(run: RunDir) -> str:
    """A problem of the kind that the model was trained for, where the run measured itself on some."""
    look = _look(run, 0)
    return str(look["items"][0]["prompt"]) if look and look["items"] else "What is 2 + 3?"


def _usage(name: str, prompt: str) -> str:
    return f"""\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{name}")
model = AutoModelForCausalLM.from_pretrained("{name}")
messages = [{{"role": "user", "content": {json.dumps(prompt, ensure_ascii=False)}}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
reply = model.generate(**inputs, max_new_tokens=256)
print(tokenizer.decode(reply[0, inputs["input_ids"].shape[1]:]))
```
"""
