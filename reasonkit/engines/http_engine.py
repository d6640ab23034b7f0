"""An Engine behind HTTP: a server that takes token ids and returns them, as vLLM's does (`vllm serve`).

It samples for evaluation and filtering. Weights cannot be put into it: training has engines of its own. A server
that does not speak ids, or that re-tokenises the prompt, is refused with the first request. What it calls a
log-probability depends on how it was started; where that matters, it is tested before it is believed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from reasonkit.engines import Sampling, WeightSource
from reasonkit.engines.http import SEEDS, finish_reason, headers_for, price_of
from reasonkit.engines.http_client import HttpClient, HttpSettings, RequestFailed
from reasonkit.engines.http_ledger import Booking, Ledger, Price
from reasonkit.engines.http_providers import key_of, provider_at
from reasonkit.engines.names import ModelName
from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.records import Completion, VersionSpan

PATH = "/completions"
_NO_IDS = "serve the model with vLLM: vllm serve MODEL; any other server can be asked for text only"
_PROCESSED = "start it with: vllm serve MODEL --logprobs-mode processed_logprobs"
_UNKNOWN_FORM = frozenset({"HTTP 400", "HTTP 404", "HTTP 405", "HTTP 422"})
_CERTAIN = -1e-3
"""A token that is all but certain has nearly the same log-probability at every temperature."""


class HttpEngine:
    """Implements reasonkit.engines.Engine, but for `load_weights`. Versions are always 0."""

    def __init__(
        self,
        model: ModelName,
        *,
        ledger: Ledger | None = None,
        prices: Mapping[str, Price] | None = None,
        settings: HttpSettings | None = None,
    ) -> None:
        if not model.is_http or model.engine == "anthropic":
            raise UsageError(
                f"'{model.text}' is no server of token ids", f"write local:{model.name}@http://HOST:8000/v1"
            )
        provider = provider_at(model.engine, model.url)
        key = key_of(model.engine, provider)
        self._title = f"{model.name} at {urlsplit(provider.url).netloc}"
        self._model = model.name
        self._price = price_of(model, prices or {})
        self.ledger = ledger or Ledger()
        self._client = HttpClient(
            self._title,
            provider.url,
            headers_for(provider, key),
            key,
            self.ledger,
            settings or HttpSettings(),
        )
        self._logprobs_known = False

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        if not self._logprobs_known and not _is_plain(sampling):
            await self._check_logprobs(prompt_ids)
        choice = await self._choice(_body(self._model, prompt_ids, sampling), prompt_ids, sampling.max_tokens)
        ids = tuple(choice["token_ids"])
        return Completion(
            token_ids=ids,
            logprobs=tuple(choice["logprobs"]["token_logprobs"]),
            finish_reason=finish_reason(choice["finish_reason"]),
            versions=(VersionSpan(0, 0, len(ids)),) if ids else (),
            text=choice["text"],
        )

    async def load_weights(self, weights: WeightSource, version: int) -> None:  # noqa: ARG002
        raise ReasonkitError(
            f"{self._title}: weights cannot be loaded into a server over HTTP",
            "train with rollout.engine vllm or transformers",
        )

    async def close(self) -> None:
        await self._client.close()

    async def _choice(self, body: dict[str, Any], prompt_ids: Sequence[int], length: int) -> dict[str, Any]:
        """The server's one choice, in which ids and log-probabilities belong together."""

        def read(answer: Any, booking: Booking) -> dict[str, Any]:
            choice: dict[str, Any] = answer["choices"][0]
            if choice.get("token_ids") is None or choice.get("prompt_token_ids") is None:
                raise RequestFailed(
                    "no token ids", f"{self._title} answers with text and returns no token ids", _NO_IDS
                )
            if choice["prompt_token_ids"] != list(prompt_ids):
                raise RequestFailed(
                    "no token ids",
                    f"{self._title} changed the prompt: {len(prompt_ids)} tokens were sent, "
                    f"{len(choice['prompt_token_ids'])} were read",
                    _NO_IDS,
                )
            ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
            if len(ids) != len(logprobs) or not all(isinstance(value, float | int) for value in logprobs):
                raise ValueError(f"{len(ids)} ids and {len(logprobs)} log-probabilities")
            finish_reason(choice["finish_reason"])
            self.ledger.prompt_tokens += len(prompt_ids)
            self.ledger.completion_tokens += len(ids)
            if self._price is not None:
                booking.cost = self._price.of(len(prompt_ids), len(ids))
            return choice

        self.ledger.asked += 1
        most = self._price.of(len(prompt_ids), length) if self._price is not None else None
        try:
            choice = await self._client.post(PATH, body, read, most)
        except RequestFailed as error:
            if error.kind in _UNKNOWN_FORM:
                error.hint = _NO_IDS
            raise
        self.ledger.answered += 1
        return choice

    async def _check_logprobs(self, prompt_ids: Sequence[int]) -> None:
        """Processed log-probabilities change with the temperature; raw ones do not, and cannot be used here."""
        best = []
        for temperature in (1.0, 2.0):
            body = _body(self._model, prompt_ids, Sampling(max_tokens=1, temperature=temperature))
            choice = await self._choice(body | {"logprobs": 1}, prompt_ids, 1)
            best.append(max(choice["logprobs"]["top_logprobs"][0].values()))
        if max(best) > _CERTAIN:
            return  # says nothing; the next prompt may
        if abs(best[0] - best[1]) < 1e-6:
            raise ReasonkitError(
                f"{self._title} reports log-probabilities before temperature and truncation, not those that it "
                "samples from",
                _PROCESSED,
            )
        self._logprobs_known = True


def _is_plain(sampling: Sampling) -> bool:
    """Drawn from the model's own distribution, where raw and processed log-probabilities are the same."""
    return sampling.temperature in (0.0, 1.0) and (sampling.top_p, sampling.top_k, sampling.min_p) == (
        1.0,
        0,
        0.0,
    )


def _body(model: str, prompt_ids: Sequence[int], sampling: Sampling) -> dict[str, Any]:
    """Every setting is sent: vLLM takes what is left out from the model's generation_config.json."""
    return {
        "model": model,
        "prompt": list(prompt_ids),
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": 1.0,
        "seed": sampling.seed % SEEDS,
        "stop": list(sampling.stop),
        "include_stop_str_in_output": True,
        "add_special_tokens": False,
        "logprobs": 0,
        "return_token_ids": True,
    }
