"""The embedded engine: any full-attention decoder of transformers, on the CPU or one GPU, in this process.

This file is the part that waits: it turns concurrent `generate` calls into an ordered stream of requests for the
decoder (decoder.py), whose forwards run in one worker thread, so that verifiers and environments go on
meanwhile. Throughput on many GPUs is the vLLM engine's business.

Admission is deterministic. Between two steps the event loop gets SETTLE_PASSES rounds, so that every coroutine that
was waiting for a result, and needs nothing but the loop to go on, has submitted its next request or ended before
the next step is composed; requests then join in the order in which they were submitted. A client that waits for
something outside the event loop between two requests does so within `away`: it comes back AWAY_STEPS steps after
it left, no sooner and no later, and that step waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
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
from reasonkit.engines.slot_cache import grained, token_bytes
from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.records import Completion

LOGGER = logging.getLogger(__name__)

SETTLE_PASSES = 4
AWAY_STEPS = 32
"""Of the decoder, within which most programs and servers have answered: fewer, and it stands still more often."""
AWAY_SECONDS = 30.0
"""How long a step waits for those who are due. Then what follows depends on time, and no step waits any more."""

_Move = Callable[[Sequence[Request], Iterable[Request]], list[tuple[Request, Completion]]]


SLOTS = 256
"""Sequences decoded at once, unless told otherwise: fewer where memory has no room for so many long ones."""
CACHE_SHARE = 0.5
"""Of the device's memory, for keys and values. Not of what is free: what else runs must not decide who shares a
batch."""
GIB = 2**30


@dataclass(eq=False, slots=True)
class _Absence:
    """A client that is away."""

    due: int
    """The step before which it goes on."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    called: asyncio.Event = field(default_factory=asyncio.Event)


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
        self._token_bytes = token_bytes(model.config, model.dtype)
        self._memory = CACHE_SHARE * _memory_of(model.device)
        self._decoder = Decoder(
            model,
            eos_ids,
            tokenizer,
            max_slots=slots,
            context=self.context,
            room=int(self._memory // self._token_bytes),
        )
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decoder")
        self._serving: asyncio.Task[None] | None = None
        self._pending: dict[Request, asyncio.Future[Completion]] = {}
        self._arrivals: list[Request] = []
        self._dropped: list[Request] = []
        self._absent: list[_Absence] = []
        self._steps = 0
        self._news = False
        """Whether the worker is to come back after the step that it is at."""
        self._patient = True
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
        self._news = True
        self._serve_on()
        try:
            return await future
        finally:
            if self._pending.pop(request, None) is not None:
                self._dropped.append(request)
                self._news = True

    @contextlib.asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Where a client waits for what is outside the event loop; it leaves at a step that is fixed before."""
        self._check_open()
        if not self._patient:
            yield
            return
        absence = _Absence(self._steps + AWAY_STEPS)
        self._absent.append(absence)
        self._news = True
        self._serve_on()
        try:
            yield
            absence.over.set()
            await absence.called.wait()
        finally:  # one that failed or was cancelled is not waited for
            absence.over.set()
            if not absence.called.is_set():
                self._absent.remove(absence)

    async def load_weights(self, weights: WeightSource, version: int) -> None:
        """Replaces the weights between two steps; every later token of requests in flight matches the new ones."""
        self._check_open()
        self._news = True
        await asyncio.get_running_loop().run_in_executor(self._worker, self._decoder.load, weights, version)

    async def abort(self) -> None:
        """Ends all requests in flight at the next step, each with the tokens that it has so far."""
        self._news = True
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
        try:
            await _settle()
            while self._pending or self._absent:
                if not self._pending:  # nothing to decode until the first of them is back
                    self._steps = max(self._steps, min(absence.due for absence in self._absent))
                await self._call_back()
                if self._pending:
                    self._news = False
                    until = min((absence.due for absence in self._absent), default=math.inf)
                    await self._turn(partial(self._advance, until))
                await _settle()
        finally:
            self._news = True

    def _advance(
        self, until: float, arrivals: Sequence[Request], dropped: Iterable[Request]
    ) -> list[tuple[Request, Completion]]:
        """Steps, in the worker's thread, up to the first that matters to anyone: on a busy machine each change of
        threads is a wait for a core."""
        while True:
            finished = self._decoder.advance(arrivals, dropped)
            self._steps += 1
            if finished or self._news or self._steps >= until or self._decoder.idle:
                return finished
            arrivals, dropped = (), ()

    async def _call_back(self) -> None:
        """Those who are due go on, in the order in which they left; the next step waits for them."""
        due = [absence for absence in self._absent if absence.due <= self._steps]
        if not due:
            return
        try:
            async with asyncio.timeout(AWAY_SECONDS):
                for absence in due:
                    await absence.over.wait()
        except TimeoutError:
            LOGGER.warning(
                "an environment has kept the engine waiting for %g s; from here on the engine waits for none, and "
                "the run will not repeat to the last bit",
                AWAY_SECONDS,
            )
            self._patient = False
            due = list(self._absent)
        self._let_go(due)
        await _settle()

    def _let_go(self, absences: Sequence[_Absence]) -> None:
        for absence in absences:
            absence.called.set()
        self._absent = [absence for absence in self._absent if not absence.called.is_set()]

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
        self._let_go(self._absent)

    def _check_open(self) -> None:
        if self._closed:
            raise ReasonkitError("the engine is closed", "start another one")

    def _check(self, prompt_ids: Sequence[int], sampling: Sampling) -> None:
        self._check_open()
        check_request(prompt_ids, sampling, self.context)
        longest = grained(len(prompt_ids) + sampling.max_tokens)
        if longest * self._token_bytes > self._memory:
            raise ReasonkitError(
                f"a prompt of {len(prompt_ids)} tokens and max_tokens {sampling.max_tokens} take "
                f"{longest * self._token_bytes / GIB:.1f} GiB for keys and values, and the engine has "
                f"{self._memory / GIB:.1f} GiB, {CACHE_SHARE:.0%} of the device's memory",
                f"at most {int(self._memory // self._token_bytes)} tokens: lower rollout.max_tokens, or take a "
                "machine with more memory",
            )
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


def _memory_of(device: torch.device) -> int:
    """All of its bytes."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


async def _settle() -> None:
    for _ in range(SETTLE_PASSES):
        await asyncio.sleep(0)
