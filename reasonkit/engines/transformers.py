"""The embedded engine: any full-attention decoder of transformers, on the CPU or one GPU, in this process.

This file is the part that waits: it turns concurrent `generate` calls into an ordered stream of requests for the
decoder (decoder.py), whose forwards run in one worker thread, so that verifiers and environments go on
meanwhile. Throughput on many GPUs is the vLLM engine's business.

Admission is deterministic. Between two steps the event loop gets SETTLE_PASSES rounds, so that every coroutine that
was waiting for a result, and needs nothing but the loop to go on, has submitted its next request or ended before
the next step is composed; requests then join in the order in which they were submitted. Only a client that
waits for something outside the process between two requests can still arrive at a step that depends on time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from reasonkit.engines import Sampling, WeightSource, check_request
from reasonkit.engines.decoder import Decoder, Request
from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.records import Completion

SETTLE_PASSES = 4

_Move = Callable[[Sequence[Request], Iterable[Request]], list[tuple[Request, Completion]]]


SLOTS = 256
"""Sequences decoded at once, unless told otherwise."""


class TransformersEngine:
    """Implements reasonkit.engines.Engine. The model belongs to the engine from here on."""

    def __init__(
        self,
        model: PreTrainedModel,
        eos_ids: Iterable[int],
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        slots: int = SLOTS,
        context: int | None = None,
    ) -> None:
        """`context` limits prompt and reply together, below what the model allows. Without a tokenizer
        completions have no text, and stop texts are refused."""
        allowed = _context_of(model)
        self.context = allowed if context is None else min(context, allowed)
        self._tokenizer = tokenizer
        self._decoder = Decoder(model, eos_ids, tokenizer, max_slots=slots, context=self.context)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decoder")
        self._serving: asyncio.Task[None] | None = None
        self._pending: dict[Request, asyncio.Future[Completion]] = {}
        self._arrivals: list[Request] = []
        self._dropped: list[Request] = []
        self._closed = False

    @classmethod
    def from_path(
        cls,
        path: Path | str,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        slots: int = SLOTS,
        context: int | None = None,
    ) -> Self:
        """The engine of a Hugging Face model folder, with its tokenizer."""
        try:
            model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
            tokenizer = AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError) as error:
            raise ReasonkitError(
                f"no language model could be loaded from {path}: {error}",
                "give a folder with config.json, weights and tokenizer, as `reasonkit export` writes it",
            ) from error
        torch.nn.Module.to(model, device)
        return cls(
            model,
            end_of_turn_ids(model.config, model.generation_config, tokenizer),
            tokenizer,
            slots=slots,
            context=context,
        )

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        """One completion. Cancelling the call frees its slot at the next step."""
        self._check(prompt_ids, sampling)
        request = Request(tuple(prompt_ids), sampling)
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._pending[request] = future
        self._arrivals.append(request)
        self._serve_on()
        try:
            return await future
        finally:
            if self._pending.pop(request, None) is not None:
                self._dropped.append(request)

    async def load_weights(self, weights: WeightSource, version: int) -> None:
        """Replaces the weights between two steps; every later token of requests in flight matches the new ones."""
        self._check_open()
        await asyncio.get_running_loop().run_in_executor(self._worker, self._decoder.load, weights, version)

    async def abort(self) -> None:
        """Ends all requests in flight at the next step, each with the tokens that it has so far."""
        await self._turn(self._decoder.abort)

    async def close(self) -> None:
        """Ends the engine. Requests in flight fail."""
        if self._closed:
            return
        self._closed = True
        if self._serving is not None:
            self._serving.cancel()
        self._fail_pending(
            ReasonkitError(
                f"the engine was closed while {len(self._pending)} requests were in flight",
                "await every generate() before close()",
            )
        )
        await asyncio.to_thread(self._worker.shutdown)

    def _serve_on(self) -> None:
        """The serving task lives as long as there is work, so that an idle engine leaves none behind."""
        if self._serving is None or self._serving.done():
            self._serving = asyncio.get_running_loop().create_task(self._serve())
            self._serving.add_done_callback(self._after_serving)

    async def _serve(self) -> None:
        await _settle()
        while self._pending:
            await self._turn(self._decoder.advance)
            await _settle()

    async def _turn(self, move: _Move) -> None:
        """Hands what has changed to the decoder, and what it finished to those who wait."""
        arrivals, self._arrivals = self._arrivals, []
        dropped, self._dropped = self._dropped, []
        loop = asyncio.get_running_loop()
        for request, completion in await loop.run_in_executor(self._worker, move, arrivals, dropped):
            future = self._pending.pop(request, None)  # gone where its caller was cancelled during this step
            if future is not None and not future.done():
                future.set_result(completion)

    def _after_serving(self, task: asyncio.Task[None]) -> None:
        """A forward that failed fails every request: nothing waits on a dead engine."""
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            failure = ReasonkitError(
                f"the engine stopped: {type(error).__name__}: {error}",
                "out of memory? lower its slots or rollout.max_tokens",
            )
            failure.__cause__ = error
            self._closed = True
            self._fail_pending(failure)

    def _fail_pending(self, failure: ReasonkitError) -> None:
        pending, self._pending = self._pending, {}
        for future in pending.values():
            if not future.done():
                future.set_exception(failure)

    def _check_open(self) -> None:
        if self._closed:
            raise ReasonkitError("the engine is closed", "start another one")

    def _check(self, prompt_ids: Sequence[int], sampling: Sampling) -> None:
        self._check_open()
        check_request(prompt_ids, sampling, self.context)
        if sampling.stop and self._tokenizer is None:
            raise UsageError(
                f"stop texts {sampling.stop} need a tokenizer, and this engine was made without one",
                "pass the model's tokenizer to TransformersEngine",
            )


def end_of_turn_ids(
    config: PreTrainedConfig, generation: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    """Every token that ends a reply, wherever the model's folder names it."""
    text = config.get_text_config().to_dict()
    generated = None if generation is None else generation.eos_token_id
    named = (generated, text.get("eos_token_id"), tokenizer.eos_token_id)
    ids: set[int] = set()
    for entry in named:
        ids.update(entry if isinstance(entry, list) else [] if entry is None else [entry])
    return sorted(ids)


def _context_of(model: PreTrainedModel) -> int:
    """The longest sequence on which the engine's attention, which sees everything before, is the model's own."""
    config = model.config.get_text_config().to_dict()
    kinds = set(config.get("layer_types") or ["full_attention"]) - {"full_attention", "sliding_attention"}
    if kinds:
        raise ReasonkitError(
            f"{model.config.model_type} has layers of kind {', '.join(sorted(kinds))}; the transformers engine "
            "decodes attention layers only",
            "use the vllm engine (--set rollout.engine=vllm)",
        )
    positions: int = config["max_position_embeddings"]
    window: int | None = config.get("sliding_window")
    return positions if window is None else min(positions, window)


async def _settle() -> None:
    for _ in range(SETTLE_PASSES):
        await asyncio.sleep(0)
