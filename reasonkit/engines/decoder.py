"""Continuous batching without the asyncio: requests in, one token a step for every live row, completions out.

Rows join and leave between steps. Which requests share a batch, and in which rows, is a function of the order in
which they were submitted and of the number of steps taken, never of time, because the shape of a batch changes
the low bits of what a matrix product gives. All per-token work is on tensors; Python touches a request when it
joins and when it leaves (and on every token only where it has stop texts).

A request joins with all of its prompt but the last token prefilled; that one is its first decoding step, so
every token is sampled by the same code. Requests with equal prompts share one prefill, copied. Left out: whatever
waits (transformers.py), speculative decoding, paged memory.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel, PreTrainedTokenizerBase

from reasonkit.engines import Sampling, WeightSource, cut_after
from reasonkit.engines.sampling import Draws, sample
from reasonkit.engines.slot_cache import Decode, Prefill, SlotCache, attend, grained
from reasonkit.errors import ReasonkitError
from reasonkit.records import Completion, FinishReason, VersionSpan

ATTENTION = "reasonkit_slots"
PREFILL_TOKENS = {"cpu": 2048, "cuda": 16384}
"""Of one prefill forward, padding included: what a core's cache holds, what fills a GPU."""
REFILL = 8
"""Waiting requests join once this fraction (1/REFILL) of the slots is free: a small prefill costs nearly as much
time as a large one."""


@dataclass(eq=False, slots=True)
class Request:
    """A prompt on its way through the decoder."""

    prompt: Sequence[int]
    sampling: Sampling
    versions: list[tuple[int, int]] = field(default_factory=list)
    """(version, first token of the reply that it sampled), oldest first."""


class Decoder:
    """One model and its live rows. Not thread-safe: one caller at a time."""

    def __init__(
        self,
        model: PreTrainedModel,
        eos_ids: Iterable[int],
        tokenizer: PreTrainedTokenizerBase | None,
        *,
        max_slots: int,
        context: int,
        room: int,
    ) -> None:
        """`room` is how many tokens memory holds the keys and values of."""
        AttentionInterface.register(ATTENTION, attend)
        model.set_attn_implementation(ATTENTION)
        self._model = model.train(False)
        self._tokenizer = tokenizer
        self._max_slots = max_slots
        self._room = room
        self._device = model.device
        self._eos = torch.tensor(sorted(set(eos_ids)), dtype=torch.long, device=self._device)
        self._waiting: deque[Request] = deque()
        self._live: list[Request] = []
        self._version = 0
        self._cache = SlotCache(model.config.get_text_config().num_hidden_layers, max_slots, context, room)
        self._columns = torch.arange(context, device=self._device)
        # The state of row i is row i of each of these.
        self._tokens = torch.zeros(max_slots, context, dtype=torch.long, device=self._device)
        self._logprobs = torch.zeros(max_slots, context, device=self._device)
        self._integers = torch.zeros(max_slots, 5, dtype=torch.long, device=self._device)
        self._floats = torch.zeros(max_slots, 3, device=self._device)
        self._length, self._start, self._limit, self._seed, self._top_k = self._integers.unbind(1)
        self._temperature, self._top_p, self._min_p = self._floats.unbind(1)

    @property
    def idle(self) -> bool:
        return not self._live and not self._waiting

    @torch.inference_mode()
    def advance(
        self, arrivals: Sequence[Request], dropped: Iterable[Request]
    ) -> list[tuple[Request, Completion]]:
        """One step: takes in arrivals, forgets the dropped, admits, decodes. Returns what finished."""
        self._waiting.extend(arrivals)
        self._drop(set(dropped))
        self._admit()
        if not self._live:
            return []
        ended = self._decode()
        if not ended:
            return []
        completions = self._completions(ended)
        self._release([row for row, _ in ended])
        return completions

    @torch.inference_mode()
    def abort(
        self, arrivals: Sequence[Request], dropped: Iterable[Request]
    ) -> list[tuple[Request, Completion]]:
        """Ends every request where it stands."""
        self._waiting.extend(arrivals)
        self._drop(set(dropped))
        completions = self._completions([(row, "abort") for row in range(len(self._live))])
        completions += [(request, Completion((), (), "abort", (), "")) for request in self._waiting]
        self._waiting.clear()
        self._live.clear()
        return completions

    @torch.no_grad()
    def load(self, weights: WeightSource, version: int) -> None:
        """New weights for all tokens from here on: what live rows remember of the old ones is computed anew."""
        held = self._model.state_dict()
        given = dict(weights)
        _check_fit(held, given, version)
        for name, tensor in given.items():
            held[name].copy_(tensor)
        self._version = version
        for row, request in enumerate(self._live):
            request.versions.append((version, int(self._length[row]) - len(request.prompt)))
        with torch.inference_mode():
            self._prefill(0)

    def _drop(self, dropped: set[Request]) -> None:
        if dropped:
            self._waiting = deque(request for request in self._waiting if request not in dropped)
            self._release([row for row, request in enumerate(self._live) if request in dropped])

    def _admit(self) -> None:
        """Fills free rows in the order of submission, once enough of them are free."""
        if not self._waiting:
            return
        free = self._max_slots - len(self._live)
        if self._live and free < min(len(self._waiting), -(-self._max_slots // REFILL)):
            return
        count = self._fitting(free)
        if count == 0 or (
            self._live and count < min(len(self._waiting), (len(self._live) + count) // REFILL)
        ):
            return
        first = len(self._live)
        self._live.extend(self._waiting.popleft() for _ in range(count))
        self._seat(first)
        self._prefill(first)

    def _fitting(self, free: int) -> int:
        """How many of those who wait memory has room for, were all rows to become as long as the longest may."""
        longest = max(map(_longest, self._live), default=0)
        for count, request in enumerate(itertools.islice(self._waiting, free)):
            longest = max(longest, _longest(request))
            if (len(self._live) + count + 1) * grained(longest) > self._room:
                return count
        return min(free, len(self._waiting))

    def _seat(self, first: int) -> None:
        """Writes the state of the rows from `first` on, whose requests are new."""
        requests = self._live[first:]
        width = max(len(request.prompt) for request in requests)
        padded = [[*request.prompt, *[0] * (width - len(request.prompt))] for request in requests]
        rows = slice(first, len(self._live))
        self._tokens[rows, :width] = torch.tensor(padded)
        self._integers[rows] = torch.tensor([_integers(request) for request in requests])
        self._floats[rows] = torch.tensor([_floats(request.sampling) for request in requests])
        for request in requests:
            request.versions.append((self._version, 0))

    def _prefill(self, first: int) -> None:
        """Keys and values of all but the last token of rows `first` and later, each distinct prefix once."""
        owners: dict[tuple[int, ...], int] = {}
        sizes: dict[int, int] = {}
        copies: list[tuple[int, int]] = []
        lengths = self._length[: len(self._live)].tolist()
        seated = lengths[first:]
        known = self._tokens[first : len(self._live), : max(seated, default=0)].tolist()
        for row, (size, ids) in enumerate(zip(seated, known, strict=True), start=first):
            owner = owners.setdefault(tuple(ids[: size - 1]), row)
            if owner == row:
                sizes[row] = size - 1
            else:
                copies.append((owner, row))
        self._cache.reserve(len(self._live), max(lengths, default=0))
        for chunk in _prefill_chunks(sizes, PREFILL_TOKENS[self._device.type]):
            slots = torch.tensor(chunk, device=self._device)
            width = max(sizes[row] for row in chunk)
            self._cache.expect(Prefill(slots))
            self._forward(self._tokens[slots, :width], self._columns[:width].unsqueeze(0), None)
        if copies:
            owning, sharing = (torch.tensor(rows, device=self._device) for rows in zip(*copies, strict=True))
            self._cache.copy(owning, sharing, max(sizes.values()))

    def _decode(self) -> list[tuple[int, FinishReason]]:
        """One token for every live row. Returns the rows that ended, and why."""
        rows = len(self._live)
        length = self._length[:rows]
        width = int(length.max())
        self._cache.reserve(rows, width)
        last = (length - 1).unsqueeze(1)
        self._cache.expect(Decode(last.squeeze(1), width))
        hidden = self._columns[:width] > last
        mask = torch.zeros(hidden.shape, dtype=self._model.dtype, device=self._device)
        mask.masked_fill_(hidden, -torch.inf)
        logits = self._forward(self._tokens[:rows].gather(1, last), last, mask[:, None, None])
        draws = Draws(
            temperature=self._temperature[:rows],
            top_p=self._top_p[:rows],
            min_p=self._min_p[:rows],
            top_k=self._top_k[:rows],
            seed=self._seed[:rows],
            position=length - self._start[:rows],
        )
        tokens, logprobs = sample(logits[:, -1].float(), draws)
        column = length.unsqueeze(1)
        self._tokens[:rows].scatter_(1, column, tokens.unsqueeze(1))
        self._logprobs[:rows].scatter_(1, column, logprobs.unsqueeze(1))
        length += 1
        return self._ended(tokens, length)

    def _ended(self, tokens: Tensor, length: Tensor) -> list[tuple[int, FinishReason]]:
        stopped = torch.isin(tokens, self._eos)
        full = length >= self._limit[: len(length)]
        reasons: dict[int, FinishReason] = {}
        for row in full.nonzero().flatten().tolist():
            reasons[row] = "length"
        for row in stopped.nonzero().flatten().tolist():
            reasons[row] = "stop"
        for row, request in enumerate(self._live):
            if request.sampling.stop and self._says_stop(row, request):
                reasons[row] = "stop"
        return sorted(reasons.items())

    def _says_stop(self, row: int, request: Request) -> bool:
        """Whether the newest token completed a stop text. Every token but a special one writes a byte, so no more
        tokens than the longest stop text has bytes can take part; a few more keep the decoder's first-token
        quirks out of the comparison."""
        stop = request.sampling.stop
        start, end = len(request.prompt) - request.sampling.drawn, int(self._length[row])
        window = max(len(text.encode()) for text in stop) + 8
        tail = self._decoded(self._tokens[row, max(start, end - window) : end].tolist())
        return any(text in tail for text in stop)

    def _completions(self, ended: Sequence[tuple[int, FinishReason]]) -> list[tuple[Request, Completion]]:
        """What these rows have sampled, row by row."""
        rows = torch.tensor([row for row, _ in ended], dtype=torch.long, device=self._device)
        lengths = self._length[rows].tolist()
        width = max(lengths, default=0)
        tokens = self._tokens[rows, :width].tolist()
        logprobs = self._logprobs[rows, :width].tolist()
        completions = []
        for (row, reason), end, ids, logs in zip(ended, lengths, tokens, logprobs, strict=True):
            request = self._live[row]
            start = len(request.prompt)
            reply = ids[start:end]
            completion = Completion(
                token_ids=tuple(reply),
                logprobs=tuple(logs[start:end]),
                finish_reason=reason,
                versions=_spans(request.versions, end - start),
                text=cut_after(self._decoded(reply), request.sampling.stop),
            )
            completions.append((request, completion))
        return completions

    def _decoded(self, token_ids: list[int]) -> str:
        if self._tokenizer is None:
            return ""
        text = self._tokenizer.decode(token_ids, skip_special_tokens=True)
        assert isinstance(text, str)
        return text

    def _release(self, leaving: Sequence[int]) -> None:
        """Frees these rows; the last live rows move into the holes, so that live rows are the first ones."""
        gone = set(leaving)
        staying = len(self._live) - len(gone)
        holes = [row for row in leaving if row < staying]
        movers = [row for row in range(staying, len(self._live)) if row not in gone]
        if holes:
            sources, targets = (torch.tensor(moved, device=self._device) for moved in (movers, holes))
            width = int(self._length[sources].max())
            self._cache.copy(sources, targets, width)
            self._tokens[targets, :width] = self._tokens[sources, :width]
            self._logprobs[targets, :width] = self._logprobs[sources, :width]
            self._integers[targets] = self._integers[sources]
            self._floats[targets] = self._floats[sources]
        for hole, mover in zip(holes, movers, strict=True):
            self._live[hole] = self._live[mover]
        del self._live[staying:]

    def _forward(self, ids: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        logits: Tensor = self._model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits


def _check_fit(held: dict[str, Tensor], given: dict[str, Tensor], version: int) -> None:
    """Before anything is overwritten: a model of half new weights must not go on sampling."""
    for name, tensor in given.items():
        if name not in held:
            raise ReasonkitError(
                f"the weights of version {version} hold '{name}', which the engine's model does not have",
                "export the weights under the names of the model's own state dict",
            )
        if tensor.shape != held[name].shape:
            raise ReasonkitError(
                f"'{name}' is {tuple(tensor.shape)} in the weights of version {version} and "
                f"{tuple(held[name].shape)} in the engine's model",
                "load the engine from the model that is trained",
            )
    loaded = {held[name].data_ptr() for name in given}  # tied weights come under one of their names
    missing = sorted(name for name, tensor in held.items() if tensor.data_ptr() not in loaded)
    if missing:
        raise ReasonkitError(
            f"the weights of version {version} lack {len(missing)} of the model's {len(held)} tensors, "
            f"'{missing[0]}' first",
            "export all weights of the model",
        )


def _longest(request: Request) -> int:
    """Tokens that a row may come to hold."""
    return len(request.prompt) + request.sampling.max_tokens


def _integers(request: Request) -> list[int]:
    size, sampling = len(request.prompt), request.sampling
    return [size, size - sampling.drawn, _longest(request), sampling.seed % 2**63, sampling.top_k]


def _floats(sampling: Sampling) -> list[float]:
    return [sampling.temperature, sampling.top_p, sampling.min_p]


def _spans(versions: Sequence[tuple[int, int]], sampled: int) -> tuple[VersionSpan, ...]:
    """Which version sampled which tokens. Versions that came and went between two tokens have no span."""
    ends = [first for _, first in versions[1:]] + [sampled]
    return tuple(
        VersionSpan(version, first, end)
        for (version, first), end in zip(versions, ends, strict=True)
        if end > first
    )


def _prefill_chunks(sizes: dict[int, int], budget: int) -> list[list[int]]:
    """Rows of similar size together, so that little is padding, and few enough for a bounded forward."""
    chunks: list[list[int]] = []
    room = 0
    for row in sorted(sizes, key=lambda row: (-sizes[row], row)):
        if sizes[row] == 0:
            continue
        if room < 1:
            chunks.append([])
            room = max(1, budget // sizes[row])
        chunks[-1].append(row)
        room -= 1
    return chunks
