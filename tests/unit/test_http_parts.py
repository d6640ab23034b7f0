"""The parts of the HTTP client by themselves: how many at once, what it costs, where keys come from."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from reasonkit.dotenv import read_dotenv, variable
from reasonkit.engines.http_client import seconds_of
from reasonkit.engines.http_ledger import CostExceeded, Ledger, Price, most_prompt_tokens, parse_prices
from reasonkit.engines.http_limit import AdaptiveLimit
from reasonkit.engines.http_providers import PROVIDERS, key_of, provider_at
from reasonkit.errors import UsageError


class TestLimit:
    def filled(self, limit: AdaptiveLimit, successes: int) -> int:
        """The size after so many successes while every slot is in use."""

        async def run() -> int:
            for _ in range(successes):
                async with asyncio.TaskGroup() as tasks:
                    held = asyncio.Event()
                    waiting = [tasks.create_task(self.hold(limit, held)) for _ in range(limit.size)]
                    while limit._busy < limit.size:
                        await asyncio.sleep(0)
                    limit.succeeded()
                    held.set()
                assert all(task.done() for task in waiting)
            return limit.size

        return asyncio.run(run())

    async def hold(self, limit: AdaptiveLimit, until: asyncio.Event) -> None:
        async with limit.slot():
            await until.wait()

    def test_it_grows_by_a_slot_a_success_until_the_first_complaint(self) -> None:
        assert self.filled(AdaptiveLimit(100, start=2), 5) == 7

    def test_it_never_passes_its_ceiling(self) -> None:
        assert self.filled(AdaptiveLimit(4, start=2), 9) == 4

    def test_a_complaint_halves_it_and_then_a_whole_round_adds_one(self) -> None:
        limit = AdaptiveLimit(100, start=8)
        limit.congested(0)
        assert limit.size == 4
        assert self.filled(limit, 3) == 4
        assert self.filled(limit, 1) == 5

    def test_echoes_of_one_congestion_cut_once(self) -> None:
        limit = AdaptiveLimit(100, start=16)
        for _ in range(16):
            limit.congested(0)
        assert limit.size == 8
        limit.congested(1)
        assert limit.size == 4

    def test_it_keeps_one_slot(self) -> None:
        limit = AdaptiveLimit(4, start=1)
        limit.congested(0)
        assert limit.size == 1

    def test_successes_below_the_limit_teach_nothing(self) -> None:
        limit = AdaptiveLimit(100, start=8)
        limit.succeeded()
        assert limit.size == 8

    def test_no_more_than_its_size_are_inside_and_all_get_in(self) -> None:
        limit, inside, most = AdaptiveLimit(3, start=3), 0, 0

        async def enter(place: int) -> None:
            nonlocal inside, most
            async with limit.slot() as mark:
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0)
                if place % 5 == 0:
                    limit.congested(mark)
                inside -= 1

        async def run() -> None:
            async with asyncio.TaskGroup() as tasks:
                for place in range(50):
                    tasks.create_task(enter(place))

        asyncio.run(run())
        assert most == 3
        assert limit.size == 1

    def test_a_cancelled_wait_loses_no_slot(self) -> None:
        limit = AdaptiveLimit(1)

        async def run() -> None:
            until = asyncio.Event()
            holder = asyncio.create_task(self.hold(limit, until))
            waiters = [asyncio.create_task(self.hold(limit, until)) for _ in range(3)]
            await asyncio.sleep(0)
            waiters[0].cancel()
            until.set()
            waiters[1].cancel()
            await asyncio.gather(holder, *waiters, return_exceptions=True)
            async with asyncio.timeout(5), limit.slot():
                pass

        asyncio.run(run())


class TestCosts:
    def test_a_price_is_of_a_million_tokens(self) -> None:
        assert Price(2.5, 10).of(1_000_000, 500_000) == 7.5

    def test_prices_are_read_by_model_even_where_its_address_has_an_equals_sign(self) -> None:
        prices = parse_prices(["openai:a=1,2", "openai:b@http://h/x=y=0.5,0"])
        assert prices == {"openai:a": Price(1, 2), "openai:b@http://h/x=y": Price(0.5, 0)}

    @pytest.mark.parametrize(
        "text", ["openai:a", "openai:a=1", "=1,2", "openai:a=x,1", "a=-1,1", "a=nan,1", "a=inf,1"]
    )
    def test_what_is_no_price_is_refused(self, text: str) -> None:
        with pytest.raises(UsageError, match="is no price"):
            parse_prices([text])

    def test_a_prompt_is_never_more_tokens_than_assumed(self) -> None:
        assert most_prompt_tokens([{"role": "user", "content": "π" * 100}]) >= 200

    def test_requests_in_flight_wait_for_room_under_the_ceiling_and_never_pass_it(self) -> None:
        ledger, running, most = Ledger(max_cost=1.0), 0, 0

        async def ask() -> bool:
            nonlocal running, most
            try:
                async with ledger.booking(0.3) as booking:
                    running += 1
                    most = max(most, running)
                    await asyncio.sleep(0)
                    booking.cost = 0.1
                    running -= 1
                    return True
            except CostExceeded:
                return False

        async def run() -> list[bool]:
            return await asyncio.gather(*(ask() for _ in range(20)))

        admitted = sum(asyncio.run(run()))
        assert most == 3
        assert admitted == 8, "0.3 fits beside 0.7 spent, and not beside 0.8"
        assert ledger.spent == pytest.approx(0.8)

    def test_what_may_have_been_charged_counts_in_full(self) -> None:
        ledger = Ledger(max_cost=1.0)

        async def run() -> None:
            with pytest.raises(ValueError):
                async with ledger.booking(0.4):
                    raise ValueError

        asyncio.run(run())
        assert ledger.spent == 0.4

    def test_an_unknown_price_says_so(self) -> None:
        ledger = Ledger()

        async def run() -> None:
            async with ledger.booking(None):
                pass

        asyncio.run(run())
        assert ledger.summary()["cost"] is None
        assert "cost unknown" in ledger.in_words()


class TestKeys:
    def test_a_dotenv_file_is_read(self, tmp_path: Path) -> None:
        file = tmp_path / ".env"
        file.write_text(
            "# keys\nA=1\nexport B = 'two words'\nC=\"x#y\" # said\nD=z # not this\n\nE=#nothing\nF=a=b\nno line\n"
        )
        assert read_dotenv(file) == {"A": "1", "B": "two words", "C": "x#y", "D": "z", "E": "", "F": "a=b"}

    def test_the_environment_wins_over_the_file_and_the_first_name_over_the_second(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / ".env").write_text("ANTHROPIC_API_KEY=filed\nCLAUDE_API_KEY=other\n")
        monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
        monkeypatch.delenv("CLAUDE_API_KEY", raising=False)
        assert variable("ANTHROPIC_API_KEY", "CLAUDE_API_KEY") == "filed"
        monkeypatch.setenv("CLAUDE_API_KEY", "set")
        assert variable("ANTHROPIC_API_KEY", "CLAUDE_API_KEY") == "set"

    @pytest.mark.parametrize(
        ("engine", "name"),
        [
            ("openai", "OPENAI_API_KEY"),
            ("anthropic", "ANTHROPIC_API_KEY"),
            ("anthropic", "CLAUDE_API_KEY"),
            ("mistral", "MISTRAL_API_KEY"),
            ("mistral", "MIXTRAL_API_KEY"),
            ("deepseek", "DEEPSEEK_API_KEY"),
            ("local", "VLLM_API_KEY"),
        ],
    )
    def test_each_provider_has_its_variables(
        self, engine: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for provider in PROVIDERS.values():
            for each in provider.keys:
                monkeypatch.delenv(each, raising=False)
        monkeypatch.setenv(name, "k3y\n")
        assert key_of(engine, provider_at(engine, "")) == "k3y"

    def test_a_providers_key_goes_to_no_other_host(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("OPENAI_API_KEY", "k3y")
        monkeypatch.delenv("REASONKIT_API_KEY", raising=False)
        assert key_of("openai", provider_at("openai", "http://elsewhere/v1")) == ""
        monkeypatch.setenv("REASONKIT_API_KEY", "own")
        assert key_of("openai", provider_at("openai", "http://elsewhere/v1")) == "own"

    def test_a_missing_key_names_its_variables(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("ANTHROPIC_API_KEY", "CLAUDE_API_KEY"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(UsageError, match="ANTHROPIC_API_KEY or CLAUDE_API_KEY is not set"):
            key_of("anthropic", provider_at("anthropic", ""))

    def test_a_key_that_cannot_be_sent_is_refused_without_showing_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "s3cret\r\nHost: evil")
        with pytest.raises(UsageError) as caught:
            key_of("openai", provider_at("openai", ""))
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", 0),
        ("7", 7),
        ("0.5", 0.5),
        ("-3", 0),
        ("soon", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("nan", 0),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str, seconds: float) -> None:
    assert seconds_of(header) == seconds


def test_a_date_to_come_is_waited_for() -> None:
    assert seconds_of("Fri, 01 Jan 2100 00:00:00 GMT") > 1e8
