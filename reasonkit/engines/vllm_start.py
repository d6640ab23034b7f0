"""Starting and ending vLLM: from an engine's options to a running AsyncLLM, and to no process left of it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from reasonkit.engines.vllm_weights import Transfer
from reasonkit.errors import MissingExtra, ReasonkitError, UsageError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

ADAPTER = "adapter_config.json"
ENVIRONMENT = {
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # stdout is for what a command prints
    "VLLM_LOGGING_LEVEL": "ERROR",  # its warnings are about its own choices
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # it would take the first cores, as every engine and a learner beside it
}
"""Unless the user has set them otherwise."""
CONTROLLER = "REASONKIT_CONTROLLER"
"""The environment variable that tells vLLM's workers whose end is theirs too."""
GPU_SHARE = 0.9
CPU_SHARE = 0.25
"""Of free memory, at most, for keys and values on a CPU, where others need memory too."""
CPU_BLOCK = 128
"""Tokens whose keys and values vLLM keeps together on CPUs."""
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM can be prepared for."""
ADAPTERS = 4
"""Adapters that one batch may mix."""
BACKENDS: dict[Transfer, str] = {"shm": "reasonkit_shm", "ipc": "ipc", "nccl": "nccl"}
KILLING = 5.0
"""Seconds for the operating system to end a process that was killed."""


@dataclass(frozen=True, slots=True)
class Running:
    """An AsyncLLM, and what an engine must know of its model."""

    llm: Any
    folder: Path
    """Of the model; of the base model, where there is an adapter."""
    adapter: Path | None
    """The folder of the adapter to sample with."""
    tokenizer: PreTrainedTokenizerBase
    eos_ids: list[int]
    tied: bool
    """The model's output embedding is its input embedding."""
    transfer: Transfer
    processes: tuple[Any, ...]
    """All that vLLM has started, also where one of them has lost its parent meanwhile."""
    segments: frozenset[str]
    """Names of the shared memory in which they exchange messages."""

    @property
    def workers(self) -> int:
        count: int = self.llm.vllm_config.parallel_config.world_size
        return count

    @property
    def context(self) -> int:
        length: int = self.llm.model_config.max_model_len
        return length

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.llm.model_config.dtype
        return dtype

    def end(self, patience: float) -> None:
        """No process is left when this returns, and no shared memory. Blocks."""
        import psutil  # type: ignore[import-untyped, unused-ignore]

        self.llm.shutdown(timeout=patience)
        psutil.wait_procs(self.processes, timeout=patience)
        self.kill()
        psutil.wait_procs(self.processes, timeout=KILLING)

    def kill(self) -> None:
        """Ends the processes without waiting for it, and removes what they would have removed."""
        import psutil  # type: ignore[import-untyped, unused-ignore]

        for process in self.processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for name in self.segments:
            with contextlib.suppress(FileNotFoundError):
                memory = SharedMemory(name)
                memory.close()
                memory.unlink()


def start(
    path: Path | str,
    *,
    dtype: str,
    context: int | None,
    tensor_parallel: int,
    memory: float | None,
    sequences: int,
    eager: bool,
    lora_rank: int,
    transfer: Transfer | None,
    sleeps: bool,
) -> Running:
    """Blocks until the model is loaded: ten seconds at best, minutes for a large one."""
    on_cpu = _import_vllm()
    way = _way(transfer, on_cpu)
    adapter = adapter_of(path) if (Path(path) / ADAPTER).exists() else None
    folder, rank = (Path(path), 0) if adapter is None else _base_of(adapter)
    rank = max(rank, lora_rank)
    arguments: dict[str, Any] = {
        "model": str(folder),
        "dtype": dtype,
        "max_model_len": context,
        "tensor_parallel_size": tensor_parallel,
        "max_num_seqs": sequences,
        "gpu_memory_utilization": memory or GPU_SHARE,
        "enforce_eager": on_cpu or eager,
        "enable_lora": rank > 0,
        "enable_sleep_mode": sleeps and not on_cpu,
        "seed": 0,
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",
        "skip_tokenizer_init": True,
        "use_tqdm_on_load": False,
        "worker_extension_cls": "reasonkit.engines.vllm_worker.Extension",
        "disable_log_stats": True,
    }
    if rank:
        arguments["max_lora_rank"] = next(each for each in LORA_RANKS if each >= rank)
        arguments["max_loras"] = ADAPTERS
    if on_cpu:  # a seeded prompt taken in by chunks ends vLLM's worker: generators of CPUs cannot step back
        arguments["enable_chunked_prefill"] = False
    try:
        tokenizer, eos_ids, tied = _about(folder if adapter is None else adapter, folder)
        llm = _launch(arguments, way, fit_memory=on_cpu and memory is None)
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise ReasonkitError(
            f"vLLM could not start on {folder}: {reason}",
            "its own messages stand above; reasonkit doctor says what this machine can do",
        ) from error
    processes = _family(llm)
    return Running(
        llm, folder, adapter, tokenizer, eos_ids, tied, way, processes, _shared_memory_of(processes)
    )


def adapter_of(folder: Path | str) -> Path:
    """The folder, where it holds a LoRA adapter as peft saves it."""
    if not (Path(folder) / ADAPTER).exists():
        raise UsageError(f"{folder} holds no adapter: it has no {ADAPTER}", "give a folder that peft saved")
    return Path(folder).resolve()


def _import_vllm() -> bool:
    """Whether it is the build for CPUs. What it logs is decided when it is first imported."""
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])  # until it reads that itself
    if importlib.util.find_spec("vllm") is None:
        raise MissingExtra("vllm", "the vllm engine")
    from vllm.platforms import current_platform

    on_cpu: bool = current_platform.is_cpu()
    return on_cpu


def _way(asked: Transfer | None, on_cpu: bool) -> Transfer:
    way: Transfer = asked or ("shm" if on_cpu else "ipc")
    if (way == "shm") != on_cpu:
        raise UsageError(
            f"weights cannot go by '{way}' to an engine on {'a CPU' if on_cpu else 'GPUs'}",
            "transfer: shm" if on_cpu else "transfer: ipc   or   transfer: nccl",
        )
    if way == "ipc":  # its handles are pickled, by this process alone
        os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
    return way


def _base_of(adapter: Path) -> tuple[Path, int]:
    """The folder of the model that an adapter is for, and the adapter's rank."""
    about = json.loads((adapter / ADAPTER).read_text(encoding="utf-8"))
    return Path(about["base_model_name_or_path"]), int(about["r"])


def _about(named: Path, folder: Path) -> tuple[PreTrainedTokenizerBase, list[int], bool]:
    """The tokenizer at `named`, the ids that end a reply, and whether embeddings are tied."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    from reasonkit.engines.transformers import end_of_turn_ids

    config = AutoConfig.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(named)
    has_own = (folder / "generation_config.json").exists()
    generation = GenerationConfig.from_pretrained(folder) if has_own else None
    tied = bool(config.get_text_config().tie_word_embeddings)
    return tokenizer, end_of_turn_ids(config, generation, tokenizer), tied


def _launch(arguments: dict[str, Any], way: Transfer, *, fit_memory: bool) -> Any:
    from vllm.config.weight_transfer import WeightTransferConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    backend = BACKENDS[way]
    args = AsyncEngineArgs(**arguments, weight_transfer_config=WeightTransferConfig(backend=backend))
    config = args.create_engine_config(UsageContext.ENGINE_CONTEXT)
    if fit_memory and config.cache_config.kv_cache_memory_bytes is None:
        config.cache_config.kv_cache_memory_bytes = _cpu_cache_bytes(config)
    os.environ[CONTROLLER] = str(os.getpid())
    return AsyncLLM.from_vllm_config(config, disable_log_stats=True)


def _cpu_cache_bytes(config: Any) -> int:
    """For keys and values: what as many replies of full length as may run at once need, within limits."""
    import psutil  # type: ignore[import-untyped, unused-ignore]

    model, parallel = config.model_config, config.parallel_config
    token = (
        2
        * model.get_num_layers(parallel)
        * model.get_num_kv_heads(parallel)
        * model.get_head_size()
        * model.dtype.itemsize
    )
    blocks = config.scheduler_config.max_num_seqs * -(-model.max_model_len // CPU_BLOCK) + 1
    return int(min(blocks * CPU_BLOCK * token, CPU_SHARE * psutil.virtual_memory().available))


def _family(llm: Any) -> tuple[Any, ...]:
    """The processes that vLLM has started, and those that they have."""
    import psutil  # type: ignore[import-untyped, unused-ignore]

    parents = [psutil.Process(process.pid) for process in llm.engine_core.resources.engine_manager.processes]
    return (*parents, *(child for parent in parents for child in parent.children(recursive=True)))


def _shared_memory_of(processes: Iterable[Any]) -> frozenset[str]:
    """Python's own kind, which is a file in memory that processes map."""
    mapped = (Path(mapping.path) for process in processes for mapping in process.memory_maps())
    return frozenset(path.name for path in mapped if path.match("/dev/shm/psm_*"))
