"""From a model's name on the command line to something that answers: found first, opened when its turn comes.

Finding reads names and files and loads nothing, so that every mistake in a list of models shows before the first
of them is loaded: which run and step, whether there is a tokenizer, whether the Hub has it. It also gives the
model its identity, a hash of the bytes of its weights, tokenizer and template: samples are kept under it, so a
folder whose weights have changed is another model. Of a model behind an API only its name and address are known.

Left out: training (it opens its own engine by its recipe), and which GPUs a model gets (placement.py).
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from reasonkit.dialogue import Dialogue
from reasonkit.engines import Chat, Engine, open_engine
from reasonkit.engines.http import open_chat, price_of
from reasonkit.engines.http_client import HttpSettings
from reasonkit.engines.http_ledger import Ledger, Price
from reasonkit.engines.names import ModelName, parse_model
from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.recipe import ModelConfig, Part
from reasonkit.rundir import RUNS, RunDir, find_runs, locate_run

WEIGHTS = ("*.safetensors", "*.bin")
ABOUT = ("*.json", "*.txt", "*.model", "*.jinja", "*.jinja2", "*.tiktoken")
"""Tokenizer, template, configuration."""
NOT_THE_MODEL = frozenset({"state.json", "trainer_state.json"})
"""What a training run keeps beside a model to resume from."""
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
ADAPTER = "adapter_config.json"
HTTP_IN_FLIGHT, LOCAL_IN_FLIGHT = 64, 256
UNKNOWN_CONTEXT = 1 << 30


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model that is there, not yet loaded."""

    text: str
    """As the user wrote it."""
    label: str
    """Short, for tables and folders."""
    engine: str
    """`transformers`, `vllm`, or the API's provider."""
    identity: str
    folder: Path | None = None
    """Of a model that is loaded here."""
    name: ModelName | None = None
    """Of one behind an API."""
    engines: int = 1
    """How many engines load it, to share its requests."""
    tensor_parallel: int = 1
    """GPUs that an engine takes."""

    @property
    def in_flight(self) -> int:
        """How many replies to ask for at once, unless told otherwise."""
        return LOCAL_IN_FLIGHT * self.engines if self.name is None else HTTP_IN_FLIGHT

    def price(self, prices: Mapping[str, Price]) -> Price | None:
        return price_of(self.name, prices) if self.name is not None else None


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A model that answers: an Engine with its Dialogue, or a Chat."""

    model: Engine | Chat
    dialogue: Dialogue | None
    context: int
    """The longest prompt and reply together; of a Chat, its server knows."""


def find_model(text: str, *, offline: bool = False) -> FoundModel:
    """The model that `text` means: RUN, RUN@STEP, a folder, hf:…, vllm:…, or an API's."""
    name = parse_model(text)
    if name.is_http:
        return FoundModel(text, name.name, name.engine, f"{name.engine}:{name.name}@{name.url}", name=name)
    engine = {"hf": "transformers", "vllm": "vllm"}.get(name.engine) or _best_engine()
    run = locate_run(name.name)
    if run is not None:
        step = _step_of(run, name)
        folder, label = run.checkpoint(step), f"{run.path.resolve().name}@{step}"
    else:
        folder = _folder_of(name, offline)
        label = (
            name.name.rstrip("/").rpartition("/")[2] if not folder.samefile(".") else folder.resolve().name
        )
    _check(folder, text)
    return FoundModel(text, label, engine, f"{engine}:{identity_of(folder)}", folder=folder)


def checkpoint_of(text: str) -> Path | None:
    """The folder that RUN or RUN@STEP means, without a look at its weights; None where `text` names no run."""
    name = parse_model(text)
    run = locate_run(name.name)
    return None if run is None else run.checkpoint(_step_of(run, name))


def base_of(folder: Path) -> Path:
    """The folder of the model that the folder's adapters belong to; of a whole model, the folder itself."""
    adapter = folder / ADAPTER
    if not adapter.exists():
        return folder
    base = Path(json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"])
    if not base.is_dir():
        raise UsageError(
            f"{folder} holds adapters of '{base}', which is no folder here",
            f"write the base's folder into {adapter} as base_model_name_or_path",
        )
    return base


def merge(folder: Path, out: Path) -> None:
    """Write the whole model that the folder's adapters make of their base, and their tokenizer, to `out`."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(base_of(folder), dtype="auto")
    PeftModel.from_pretrained(base, folder).merge_and_unload().save_pretrained(out)
    AutoTokenizer.from_pretrained(folder).save_pretrained(out)


def distinct(models: Sequence[FoundModel]) -> list[FoundModel]:
    """The same models under labels that tell them apart: with their engine, or else as they were written."""
    ways = (
        [found.label for found in models],
        [f"{found.engine}:{found.label}" for found in models],
        [found.text for found in models],
    )
    for labels in ways:
        if len(set(labels)) == len(labels):
            return [replace(found, label=label) for found, label in zip(models, labels, strict=True)]
    raise UsageError(f"a model is named twice: {', '.join(ways[-1])}", "name each model once")


def newest_checkpoint() -> str:
    """`RUN@STEP` of the newest run in ./runs: its best checkpoint, or the last of a run that has not validated."""
    for run in find_runs(RUNS):
        steps = run.checkpoints()
        if steps:
            best = run.info().get("best")
            return f"{run.path}@{best if best in steps else steps[-1]}"
    raise UsageError(
        f"no model is named, and no run in {RUNS} has a checkpoint", "reasonkit eval TASK -m MODEL"
    )


@contextlib.asynccontextmanager
async def load_here(found: FoundModel, in_flight: int) -> AsyncIterator[Engine]:
    """An engine in this process."""
    engine = load_engine(found, in_flight)
    try:
        yield engine
    finally:
        await engine.close()


def load_engine(found: FoundModel, in_flight: int) -> Engine:
    """`found` by its engine, for so many requests at once."""
    from transformers.utils import logging

    assert found.folder is not None
    logging.disable_progress_bar()  # a bar for every file it reads is none of ours
    with _whole(found.folder, found.engine) as folder:
        return open_engine(folder, _part(found, in_flight), _settings(folder, _context(folder)))


Load = Callable[[FoundModel, int], AbstractAsyncContextManager[Engine]]
"""load_here, or whatever else loads a found model for so many requests at once: in other processes."""


@contextlib.asynccontextmanager
async def open_model(
    found: FoundModel,
    *,
    in_flight: int | None = None,
    ledger: Ledger | None = None,
    prices: Mapping[str, Price] | None = None,
    http: HttpSettings | None = None,
    load: Load = load_here,
) -> AsyncIterator[OpenModel]:
    """`found`, loaded and ready for so many requests at once; closed at the end. Ledger, prices and http are for
    APIs only, `load` for all others."""
    in_flight = in_flight or found.in_flight
    if found.name is not None:
        settings = replace(http or HttpSettings(), concurrency=in_flight)
        async with open_chat(found.name, ledger=ledger, prices=prices, settings=settings) as chat:
            yield OpenModel(chat, None, context=UNKNOWN_CONTEXT)
        return
    assert found.folder is not None
    from transformers import AutoTokenizer

    dialogue = Dialogue(AutoTokenizer.from_pretrained(found.folder))
    async with load(found, in_flight) as engine:
        yield OpenModel(engine, dialogue, _context(found.folder))


def _context(folder: Path) -> int:
    """How long prompt and reply together may be: of adapters, as their base says."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base_of(folder))
    length: int = config.get_text_config().max_position_embeddings
    return length


def identity_of(folder: Path) -> str:
    """A hash of what decides a model's replies. Reads every byte: weights that change keep their size."""
    import xxhash

    total = xxhash.xxh3_128()
    files = {file for pattern in (*WEIGHTS, *ABOUT) for file in folder.glob(pattern)}
    for file in sorted(files):
        if file.name in NOT_THE_MODEL:
            continue
        total.update(file.name.encode())
        with file.open("rb") as content:
            while block := content.read(1 << 22):
                total.update(block)
    base = base_of(folder)
    if base != folder:
        total.update(identity_of(base).encode())
    return total.hexdigest()


def _best_engine() -> str:
    """vLLM where it is installed and there is a GPU for it."""
    import torch

    usable = torch.cuda.is_available() and importlib.util.find_spec("vllm") is not None
    return "vllm" if usable else "transformers"


def _step_of(run: RunDir, name: ModelName) -> int:
    steps = run.checkpoints()
    if not steps:
        raise UsageError(f"{run.path} has no checkpoint yet", f"reasonkit train --resume {run.path}")
    if not name.at:
        return steps[-1]
    if not name.at.isdecimal() or int(name.at) not in steps:
        kept = ", ".join(map(str, steps))
        raise UsageError(
            f"{run.path} keeps no checkpoint of step {name.at}, only of {kept}", f"{run.path}@{steps[-1]}"
        )
    return int(name.at)


def _folder_of(name: ModelName, offline: bool) -> Path:
    path = Path(name.name).expanduser()
    if path.is_dir():
        return path
    if name.engine == "" or name.name.startswith((".", "/", "~")) or name.name.count("/") != 1:
        raise UsageError(
            f"'{name.text}' is no run, and no folder of that name exists",
            "reasonkit list runs, or hf:ORG/NAME for a model of the Hub",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        found = snapshot_download(
            name.name, revision=name.at or None, allow_patterns=[*WEIGHTS, *ABOUT], local_files_only=offline
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ReasonkitError(
            f"the model '{name.name}' could not be fetched from the Hub: {reason}",
            "give a local folder, or without --offline check the name, HF_TOKEN and the network",
        ) from error
    return Path(found)


def _check(folder: Path, text: str) -> None:
    """What every model folder must hold, said before anything is loaded."""
    if not any((folder / each).exists() for each in ("config.json", ADAPTER)):
        raise UsageError(
            f"'{text}': {folder} is no model folder, it has no config.json", "reasonkit export RUN OUT"
        )
    if not any((folder / each).exists() for each in TOKENIZERS):
        raise UsageError(
            f"'{text}': {folder} has no tokenizer, none of {', '.join(TOKENIZERS)}",
            "copy the tokenizer's files from the model that it was made of",
        )
    if not any(next(folder.glob(pattern), None) for pattern in WEIGHTS):
        raise UsageError(f"'{text}': {folder} has no weights, no *.safetensors", "reasonkit export RUN OUT")


@contextlib.contextmanager
def _whole(folder: Path, engine: str) -> Iterator[Path]:
    """A folder that the engine can load: `folder`, or a temporary one in which its adapters are merged."""
    if engine == "vllm" or base_of(folder) == folder:  # vLLM samples with adapters as they are
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="reasonkit-merged-") as temporary:
        merge(folder, Path(temporary))
        yield Path(temporary)


def _part(found: FoundModel, in_flight: int) -> Part:
    import torch

    if found.engine == "transformers":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return Part(found.engine, {"slots": in_flight, "device": device})
    return Part(found.engine, {"tensor_parallel": found.tensor_parallel})


def _settings(folder: Path, context: int) -> ModelConfig:
    import torch

    dtype = "bfloat16" if torch.cuda.is_available() else "float32"
    return ModelConfig.model_validate({"path": str(folder), "dtype": dtype, "context": context})
