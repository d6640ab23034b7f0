"""What requests came to: counts, tokens and dollars, and the ceiling that they must stay under.

One Ledger serves all models of a command, so one ceiling covers them together. A request is admitted only when the
most that it can cost, beside the most that those in flight can still cost, fits under the ceiling; so the
ceiling holds with any number of requests in flight. What a server may have charged without telling (a timeout,
a dropped connection, a reply without token counts) is booked at that most. Prices are the user's to give: a
built-in list would go out of date, and a ceiling computed from it would not hold.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from reasonkit.errors import PartlyDone, UsageError
from reasonkit.records import Message

TEMPLATE_TOKENS = 64
"""Allowed for what a chat template adds around one message."""


class CostExceeded(PartlyDone):
    """The next request might pass the ceiling. What was answered before is kept."""


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per million tokens."""

    prompt: float
    completion: float

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


FREE = Price(0.0, 0.0)


def parse_prices(texts: Sequence[str]) -> dict[str, Price]:
    """`MODEL=IN,OUT`, one for each model, as --price takes them."""
    prices: dict[str, Price] = {}
    for text in texts:
        model, _, figures = text.rpartition("=")
        try:
            prompt, completion = (float(figure) for figure in figures.split(","))
        except ValueError:
            prompt = completion = -1.0
        if not model or not (0 <= prompt < float("inf") and 0 <= completion < float("inf")):
            raise UsageError(
                f"'{text}' is no price",
                "--price MODEL=IN,OUT in dollars per million tokens: openai:NAME=2.5,10",
            )
        prices[model] = Price(prompt, completion)
    return prices


def most_prompt_tokens(messages: Sequence[Message]) -> int:
    """No tokenizer makes more tokens than bytes."""
    return sum(len(message["content"].encode()) + TEMPLATE_TOKENS for message in messages)


@dataclass(slots=True)
class Booking:
    """One request in flight: what it can cost at most, and, once known, what it did."""

    most: float | None
    cost: float | None = None


class Ledger:
    """Counts add up: `asked = cached + answered + failed`, once nothing is in flight."""

    def __init__(self, max_cost: float | None = None) -> None:
        self.max_cost = max_cost
        self.asked = self.cached = self.answered = 0
        self.failed: Counter[str] = Counter()
        """Requests that were given up, by cause."""
        self.retried: Counter[str] = Counter()
        """Attempts that were repeated, by cause."""
        self.prompt_tokens = self.completion_tokens = 0
        self.uncounted = 0
        """Replies that came without token counts."""
        self.spent = 0.0
        self.unpriced = 0
        """Requests to models of unknown price; `spent` leaves them out."""
        self._in_flight = 0
        self._promised = 0.0
        self._settled = asyncio.Event()

    @asynccontextmanager
    async def booking(self, most: float | None) -> AsyncIterator[Booking]:
        """Room for one request that costs `most` at most; None where its price is unknown."""
        booking = Booking(most)
        promised = most or 0.0
        while self.max_cost is not None and self.spent + self._promised + promised > self.max_cost:
            if not self._in_flight:
                raise CostExceeded(
                    f"the next request may cost ${promised:.4f}, and ${self.spent:.4f} of "
                    f"${self.max_cost:g} are spent",
                    "raise --max-cost and run the same command again: finished work is kept",
                )
            self._settled.clear()
            await self._settled.wait()
        self._in_flight += 1
        self._promised += promised
        try:
            yield booking
        finally:
            self._in_flight -= 1
            self._promised = self._promised - promised if self._in_flight else 0.0
            self._book(booking)
            self._settled.set()

    def _book(self, booking: Booking) -> None:
        if booking.most is None:
            self.unpriced += 1
        else:
            self.spent += booking.most if booking.cost is None else booking.cost

    def summary(self) -> dict[str, Any]:
        """For a results file. `cost` is null where a price is unknown."""
        return {
            "requests": self.asked,
            "cached": self.cached,
            "answered": self.answered,
            "failed": dict(self.failed),
            "retried": dict(self.retried),
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "uncounted_replies": self.uncounted,
            "cost": None if self.unpriced else self.spent,
        }

    def in_words(self) -> str:
        cost = "cost unknown (no --price)" if self.unpriced else f"${self.spent:.4f}"
        parts = [
            f"{self.asked} requests ({self.cached} from the cache)",
            f"{self.prompt_tokens} + {self.completion_tokens} tokens",
            cost,
        ]
        parts += [
            f"{sum(counts.values())} {what}"
            for what, counts in (("retried", self.retried), ("failed", self.failed))
            if counts
        ]
        return ", ".join(parts)
