"""The vLLM engine: throughput on GPUs, one or several to an engine. vLLM's build for CPUs serves tests.

vLLM's AsyncLLM lives in this process, its model in processes of its own. Ids go in and come out; nothing here
renders or re-tokenises. This file is requests, life and death; vllm_start.py turns options into a running AsyncLLM,
vllm_weights.py is the trainer's end of weight updates, vllm_shm.py the way that they take on CPUs.

Nothing waits for ever: every call has a deadline, and its error says which engine was stuck at what. An engine
whose process died or hangs, or whose update failed half-way, is broken for good: its processes are ended, all that
is in flight fails at once with the same `Broken`, and so does whatever comes later. Left out: images, pooling, and
several replicas in one engine (start several engines).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from reasonkit.engines import Sampling, WeightSource, check_request, cut_after
from reasonkit.engines.vllm_start import Running, adapter_of, start
from reasonkit.engines.vllm_weights import Sender, Transfer, checkpoint_layout
from reasonkit.errors import Broken, ReasonkitError, UsageError
from reasonkit.records import Completion, FinishReason, VersionSpan
from reasonkit.seeding import derive_seed

T = TypeVar("T")

SEQUENCES = 256
BUCKET_MB = 256
STALLED = 300.0
"""Seconds without a token for any request after which vLLM hangs. So long it waits itself for a worker's step."""
LOOKS = 10
"""So often in that time it is looked at. Counted, and not timed: a process that was stopped itself sees one."""
SHUTDOWN = 2.0
"""Seconds for vLLM's processes to end by themselves. They keep nothing, and are slow at ending."""
STOP_MARGIN = 8
"""Tokens before those that can spell a stop text: a decoder treats the first ones of a text differently."""
FIRST_VERSION = "default"
"""What vLLM calls the weights that it started with."""


class VllmEngine:
    """Implements reasonkit.engines.Engine, and Receiver of weight updates. Lives in one event loop."""

    def __init__(
        self,
        running: Running,
        *,
        name: str,
        deadline: float,
        update_deadline: float,
        stalled: float,
        bucket_mb: int,
        sleeps: bool,
    ) -> None:
        self.name = name
        self.workers = running.workers
        self.context = running.context
        self._running = running
        self._llm = running.llm
        self._deadline = deadline
        self._update_deadline = update_deadline
        self._stalled = stalled
        self._bucket_mb = bucket_mb
        self._sleeps = sleeps
        self._asleep = False
        self._sender: Sender | None = None
        self._updating = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._request_numbers = itertools.count()
        self._adapter_numbers = itertools.count(1)
        self._in_flight: dict[str, asyncio.Timeout] = {}
        self._watching: asyncio.Task[None] | None = None
        self._moved = False
        self._paused = False
        self._failure: ReasonkitError | None = None
        self._closed = False
        self._adapter = None if running.adapter is None else self._numbered(running.adapter)
        self._note_progress()

    @classmethod
    def from_path(
        cls,
        path: Path | str,
        *,
        dtype: str = "bfloat16",
        context: int | None = None,
        tensor_parallel: int = 1,
        memory: float | None = None,
        sequences: int = SEQUENCES,
        eager: bool = False,
        lora_rank: int = 0,
        transfer: Transfer | None = None,
        bucket_mb: int = BUCKET_MB,
        sleeps: bool = False,
        deadline: float = 3600.0,
        update_deadline: float = 300.0,
        stalled: float = STALLED,
        name: str = "vllm",
    ) -> Self:
        """The engine of a Hugging Face model folder, or of a LoRA adapter's folder, with which it then samples.

        `context` limits prompt and reply together; null takes what the model allows.
        `tensor_parallel` is how many GPUs (on a CPU, processes) share the model.
        `memory` is the share of the device's memory to use; null takes 0.9 of a GPU, on a CPU what may be needed.
        `sequences` are sampled at once; more wait.
        `eager` does without compilation and CUDA graphs: a faster start, slower replies. CPUs always do without.
        `lora_rank` is the highest rank of adapters that `adapter` will load.
        `transfer` is the way that new weights take: `ipc` from a learner on the same GPUs, `nccl` from other GPUs,
        `shm` on CPUs; null is `shm` on CPUs and `ipc` on GPUs. They come in buckets of `bucket_mb`.
        `sleeps` lets the engine hand its GPU memory to a learner on the same GPUs.
        `deadline` is how many seconds a reply may take, waiting included; `update_deadline`, a weight update.
        `stalled` is after how many seconds without a token for any of its requests the engine is given up.
        `name` is what errors and logs call the engine.
        """
        running = start(
            path,
            dtype=dtype,
            context=context,
            tensor_parallel=tensor_parallel,
            memory=memory,
            sequences=sequences,
            eager=eager,
            lora_rank=lora_rank,
            transfer=transfer,
            sleeps=sleeps,
        )
        return cls(
            running,
            name=name,
            deadline=deadline,
            update_deadline=update_deadline,
            stalled=stalled,
            bucket_mb=bucket_mb,
            sleeps=sleeps,
        )

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        """One completion. Cancelling the call ends it within vLLM too."""
        return await self.sample(prompt_ids, sampling, self._adapter)

    async def sample(self, prompt_ids: Sequence[int], sampling: Sampling, adapter: Any) -> Completion:
        """`generate` with this adapter of vLLM's, or with none."""
        from vllm.v1.engine.exceptions import EngineDeadError

        self._check_open()
        check_request(prompt_ids, sampling, self.context)
        request = f"{self.name}-{next(self._request_numbers)}"
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        try:
            async with asyncio.timeout(self._deadline) as scope:
                self._in_flight[request] = scope
                try:
                    return await self._reply(request, prompt_ids, sampling, adapter)
                finally:
                    del self._in_flight[request]  # while its deadline can still be moved
        except TimeoutError:
            raise self._failure or ReasonkitError(
                f"{self.name} did not end its reply to a prompt of {len(prompt_ids)} tokens within "
                f"{self._deadline:g} s; {len(self._in_flight)} other requests are in flight",
                "ask for fewer tokens, or give replies longer with the engine's option deadline",
            ) from None
        except EngineDeadError as error:
            raise self._break(f"{self.name} died while it sampled") from error

    async def load_weights(self, weights: WeightSource, version: int) -> None:
        """Replaces the weights. Requests in flight stay, and sample each later token from the new ones."""
        self._check_open()
        if self._adapter is not None:
            raise UsageError(
                f"{self.name} samples with the adapter {self._adapter.lora_path}, whose base takes no new weights",
                "start the engine from a whole model: reasonkit export merges an adapter",
            )
        async with self._updating:
            self.live_here()
            sender = self._own_sender()
            await asyncio.to_thread(sender.prepare, weights, version)
            sending = asyncio.create_task(asyncio.to_thread(sender.send))
            try:
                await asyncio.shield(sending)
            except asyncio.CancelledError:
                await asyncio.wait(
                    {sending}
                )  # until its own deadline: an engine left half-way would be useless
                if (error := sending.exception()) is not None:
                    self._break(str(error))
                raise
            except Exception as error:
                raise self._break(str(error)) from error

    async def sleep(self) -> None:
        """Hands its GPU memory to a learner, weights included, until the next `load_weights`. What is asked
        meanwhile waits. On a CPU nothing is freed."""
        self._check_open()
        if not self._sleeps:
            raise UsageError(f"{self.name} was not started to sleep", "start it with the option sleeps: true")
        await self._call("fell asleep", self._llm.sleep(level=2, mode="keep"), self._update_deadline)
        self._asleep = self._paused = True

    async def abort(self) -> None:
        """Ends all requests in flight, each with the tokens that it has so far."""
        self._check_open()
        await self._call("ended its requests", self._llm.abort(list(self._in_flight)), self._update_deadline)

    async def adapter(self, folder: Path | str) -> Adapted:
        """The engine as it samples with a LoRA adapter, beside the others that it serves."""
        self._check_open()
        adapter = self._numbered(adapter_of(folder))
        await self._call(f"loaded {folder}", self._llm.add_lora(adapter), self._update_deadline)
        return Adapted(self, adapter)

    async def drop(self, adapter: Any) -> None:
        await self._call(
            "dropped an adapter", self._llm.remove_lora(adapter.lora_int_id), self._update_deadline
        )

    async def close(self) -> None:
        """Ends the engine and its processes. Requests in flight fail."""
        if self._closed:
            return
        self._closed = True
        self._fail_all(
            ReasonkitError(
                f"{self.name} was closed while {len(self._in_flight)} requests were in flight",
                "await every generate() before close()",
            )
        )
        await asyncio.sleep(0)  # they leave before what they wait on goes
        if self._watching is not None:
            self._watching.cancel()
        if self._sender is not None:
            self._sender.close()
        await asyncio.to_thread(self._running.end, SHUTDOWN)
        self._llm.engine_core.resources.ctx.destroy(linger=0)  # vLLM leaves it open
        self._llm.shutdown = lambda: (
            None
        )  # collected, it would do it again, and fail while the interpreter ends

    def live_here(self) -> None:
        """Whoever sends weights from a thread of its own reaches the engine through the running event loop."""
        self._loop = asyncio.get_running_loop()

    def control(self, step: str, argument: Mapping[str, Any] | None = None) -> Future[None]:
        """A step of a weight update, asked for by a sender's thread."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(self.update_step(step, argument), self._loop)

    async def update_step(self, step: str, argument: Mapping[str, Any] | None = None) -> None:
        """A step of a weight update: what an actor that holds this engine hands on."""
        from vllm.distributed.weight_transfer.base import (
            WeightTransferInitRequest,
            WeightTransferUpdateRequest,
        )

        llm, values = self._llm, dict(argument or {})
        match step:
            case "pause":
                await self._pause()
            case "init":
                await self._call(
                    step, llm.init_weight_transfer_engine(WeightTransferInitRequest(values)), None
                )
            case "start":
                await self._call(step, llm.start_weight_update(), None)
            case "update":
                await self._call(step, llm.update_weights(WeightTransferUpdateRequest(values)), None)
            case "finish":
                await self._call(step, llm.finish_weight_update(), None)
            case "version":
                await self._call(step, llm.update_weight_version(str(values["version"])), None)
            case "resume":
                await self._resume()
            case _:
                raise ValueError(f"a weight update has no step '{step}'")

    async def _pause(self) -> None:
        """Requests are kept, what they remember of the old weights is not: they compute it anew from their ids."""
        self._paused = True
        if self._asleep:
            await self._call("pause", self._llm.wake_up(["weights"]), None)
        else:
            await self._call("pause", self._llm.pause_generation(mode="keep", clear_cache=True), None)

    async def _resume(self) -> None:
        if self._asleep:
            await self._call("resume", self._llm.wake_up(["kv_cache"]), None)
            self._asleep = False
        else:
            await self._call("resume", self._llm.resume_generation(), None)
        self._paused = False

    def _own_sender(self) -> Sender:
        if self._sender is None:
            running = self._running
            self._sender = Sender(
                [self],
                checkpoint_layout(running.folder, tied=running.tied),
                transfer=running.transfer,
                dtype=running.dtype,
                bucket_bytes=self._bucket_mb * 10**6,
                deadline=self._update_deadline,
            )
        return self._sender

    async def _reply(
        self, request: str, prompt_ids: Sequence[int], sampling: Sampling, adapter: Any
    ) -> Completion:
        from vllm.inputs.engine import tokens_input

        prompt = list(prompt_ids)
        outputs = self._llm.generate(
            tokens_input(prompt), self._params(sampling), request, lora_request=adapter
        )
        begun = prompt[len(prompt) - sampling.drawn :]
        seen, cut, last = 0, None, None
        async for output in outputs:
            last = output.outputs[0]
            if sampling.stop and cut is None:
                cut = self._stopped([*begun, *last.token_ids], seen + len(begun), sampling.stop)
                seen = len(last.token_ids)
                if cut is not None:
                    cut -= len(begun)
                    if not output.finished:
                        await self._llm.abort(request)
        return self._completion(last, cut, sampling.stop)

    def _params(self, sampling: Sampling) -> Any:
        """Stop texts are not vLLM's: it does not look at what a continued reply began with."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        seed = sampling.seed
        if sampling.drawn:  # vLLM's draws cannot begin in their middle, and must not begin again
            seed = derive_seed(seed, "continued", sampling.drawn)
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            min_p=sampling.min_p,
            max_tokens=sampling.max_tokens,
            seed=seed,
            stop_token_ids=self._running.eos_ids,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.CUMULATIVE if sampling.stop else RequestOutputKind.FINAL_ONLY,
            skip_clone=True,
        )

    def _stopped(self, ids: list[int], seen: int, stops: Sequence[str]) -> int | None:
        """How many ids there are when the first stop text is complete. Every token but a special one writes a byte,
        so no more than the longest stop text has bytes can take part."""
        window = max(len(text.encode()) for text in stops) + STOP_MARGIN
        for end in range(seen + 1, len(ids) + 1):
            tail = self._decoded(ids[max(0, end - window) : end])
            if any(text in tail for text in stops):
                return end
        return None

    def _completion(self, reply: Any, cut: int | None, stops: Sequence[str]) -> Completion:
        reason = "stop" if cut is not None else reply.finish_reason
        if reason not in ("stop", "length", "abort"):
            raise ReasonkitError(
                f"{self.name} ended a reply with '{reason}'", "look for vLLM's own message above"
            )
        count = len(reply.token_ids) if cut is None else cut
        ids = tuple(reply.token_ids[:count])
        return Completion(
            token_ids=ids,
            logprobs=tuple(reply.logprobs.logprobs[:count]) if ids else (),
            finish_reason=cast(FinishReason, reason),
            versions=tuple(
                VersionSpan(_version(span.version), span.start, min(span.end, count))
                for span in reply.weight_versions or ()
                if span.start < count
            ),
            text=cut_after(self._decoded(list(ids)), stops),
        )

    def _decoded(self, ids: list[int]) -> str:
        text = self._running.tokenizer.decode(ids, skip_special_tokens=True)
        assert isinstance(text, str)
        return text

    def _numbered(self, folder: Path) -> Any:
        from vllm.lora.request import LoRARequest

        number = next(self._adapter_numbers)
        return LoRARequest(f"adapter-{number}", number, str(folder))

    async def _call(self, doing: str, call: Coroutine[Any, Any, T], deadline: float | None) -> T:
        """Await vLLM, but no longer than its processes live, or than the deadline. A sender has its own."""
        from vllm.v1.engine.exceptions import EngineDeadError

        task = asyncio.ensure_future(call)
        self._llm._run_output_handler()  # vLLM would start it with the first request only
        life = self._llm.output_handler  # it ends when vLLM finds that a process of the engine has
        try:
            await asyncio.wait({task, life}, timeout=deadline, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not task.done():
            task.cancel()
            if life.done():
                raise self._break(f"{self.name} died before it {_DONE.get(doing, doing)}")
            raise self._break(f"{self.name} had not {_DONE.get(doing, doing)} after {deadline:g} s")
        try:
            return task.result()
        except EngineDeadError as error:
            raise self._break(f"{self.name} died before it {_DONE.get(doing, doing)}") from error

    def _note_progress(self) -> None:
        """vLLM tells its requests nothing before they end, so what its processes say is listened to."""
        core = self._llm.engine_core
        hear = core.get_output_async

        async def heard() -> Any:
            outputs = await hear()
            self._moved = True
            return outputs

        core.get_output_async = heard

    async def _watch(self) -> None:
        """While there are requests, some of them get tokens, unless all wait for new weights."""
        quiet = 0
        while self._in_flight:
            await asyncio.sleep(self._stalled / LOOKS)
            quiet = 0 if self._moved or self._paused else quiet + 1
            self._moved = False
            if quiet == LOOKS:
                self._break(
                    f"{self.name} has had no token for any of its {len(self._in_flight)} requests for "
                    f"{self._stalled:g} s"
                )
                return

    def _break(self, cause: str) -> ReasonkitError:
        """The engine is of no use from here on; everything in flight fails with the cause. Its processes are ended
        at once: one that hangs does not see that whoever started it has ended."""
        if self._failure is None:
            self._fail_all(Broken(cause, "look for vLLM's own messages above, and start the engine again"))
            self._running.kill()
        assert self._failure is not None
        return self._failure

    def _fail_all(self, failure: ReasonkitError) -> None:
        self._failure = failure
        now = asyncio.get_running_loop().time()
        for scope in self._in_flight.values():
            if not scope.expired():
                scope.reschedule(now)

    def _check_open(self) -> None:
        if self._closed:
            raise ReasonkitError(f"{self.name} is closed", "start another one")
        if self._failure is not None:
            raise self._failure


_DONE = {
    "pause": "paused for new weights",
    "init": "took part in the beginning of weight updates",
    "start": "was ready for new weights",
    "update": "loaded new weights",
    "finish": "had loaded all new weights",
    "version": "noted the version of its weights",
    "resume": "went on with new weights",
}


@dataclass(frozen=True, slots=True)
class Adapted:
    """Implements Engine: a VllmEngine that samples with a LoRA adapter. Closing it leaves the VllmEngine open."""

    engine: VllmEngine
    lora: Any

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        return await self.engine.sample(prompt_ids, sampling, self.lora)

    async def load_weights(self, weights: WeightSource, version: int) -> None:  # noqa: ARG002
        raise UsageError("an adapter serves evaluation: it takes no new weights", "load another adapter")

    async def close(self) -> None:
        await self.engine.drop(self.lora)


def _version(label: str) -> int:
    return 0 if label == FIRST_VERSION else int(label)
