"""HttpChat against a real server on this machine: what is sent, kept, counted, priced; and every kind of fault."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reasonkit.engines import Reply, Sampling
from reasonkit.engines.http import HttpChat, open_chat
from reasonkit.engines.http_cache import ReplyCache
from reasonkit.engines.http_client import HttpSettings, RequestFailed
from reasonkit.engines.http_ledger import CostExceeded, Ledger, Price
from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.records import Message
from tests.chat_server import Drop, Fault, Garbage, Half, Hang, Refuse, Slow, serve_chat

QUICK = HttpSettings(request_seconds=60, attempts=3, first_pause=0.002, longest_pause=0.05)
IMPATIENT = replace(QUICK, request_seconds=0.3)
"""Where every attempt is going to hang."""
PATIENT = replace(QUICK, request_seconds=3.0)
"""Where the next attempt is not, and must not time out on a busy machine."""
ASKED: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 6 times 7?"},
]
SHORT = Sampling(max_tokens=50)


def forty_two(body: dict[str, Any]) -> str:
    return "It is 42"


def ask(chat: HttpChat, *samplings: Sampling, messages: list[Message] = ASKED) -> list[Reply | BaseException]:
    """All at once, in one event loop; failures stand beside replies."""

    async def run() -> list[Reply | BaseException]:
        async with chat, asyncio.timeout(60):
            return await asyncio.gather(
                *(chat.reply(messages, sampling) for sampling in samplings), return_exceptions=True
            )

    return asyncio.run(run())


def seeds(count: int) -> list[Sampling]:
    return [Sampling(max_tokens=50, seed=seed) for seed in range(count)]


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "REASONKIT_API_KEY", "VLLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)


class TestRequests:
    def test_a_reply_with_its_tokens(self) -> None:
        with serve_chat(forty_two) as server:
            (reply,) = ask(open_chat(f"openai:m@{server.url}"), SHORT)
        assert reply == Reply("It is 42", "stop", prompt_tokens=7, completion_tokens=3)
        assert server.seen[0].body == {
            "model": "m",
            "messages": ASKED,
            "max_tokens": 50,
            "temperature": 1.0,
            "top_p": 1.0,
            "seed": 0,
        }

    def test_vllm_is_told_everything_so_that_a_models_own_defaults_never_apply(self) -> None:
        with serve_chat(forty_two) as server:
            ask(open_chat(f"local:m@{server.url}"), Sampling(max_tokens=5, stop=("\n",)))
        body = server.seen[0].body
        assert (body["temperature"], body["top_p"], body["top_k"], body["min_p"]) == (1.0, 1.0, 0, 0.0)
        assert body["include_stop_str_in_output"] is True, "a stop text is kept in the reply"

    def test_anthropics_own_api(self) -> None:
        def answer(body: dict[str, Any]) -> dict[str, Any]:
            return {
                "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "forty"}],
                "stop_reason": "stop_sequence",
                "stop_sequence": "!",
                "usage": {"input_tokens": 9, "output_tokens": 2},
            }

        with serve_chat(answer) as server:
            chat = open_chat(f"anthropic:m@{server.url}")
            (reply,) = ask(chat, Sampling(max_tokens=5, temperature=0.0, top_k=3, stop=("!",)))
        assert reply == Reply("forty!", "stop", 9, 2)
        seen = server.seen[0]
        assert seen.path == "/v1/messages"
        assert seen.headers["anthropic-version"] == "2023-06-01"
        assert seen.body == {
            "model": "m",
            "system": "Be brief.",
            "messages": ASKED[1:],
            "max_tokens": 5,
            "temperature": 0.0,
            "top_k": 3,
            "stop_sequences": ["!"],
        }

    @pytest.mark.parametrize(
        ("finish", "expected"),
        [("stop", "stop"), ("length", "length"), ("content_filter", "stop"), ("tool_calls", "stop")],
    )
    def test_how_a_reply_ended(self, finish: str, expected: str) -> None:
        def answer(body: dict[str, Any]) -> dict[str, Any]:
            return {"choices": [{"message": {"content": "x"}, "finish_reason": finish}]}

        with serve_chat(answer) as server:
            (reply,) = ask(open_chat(f"openai:m@{server.url}"), SHORT)
        assert isinstance(reply, Reply)
        assert reply.finish_reason == expected

    def test_a_setting_that_an_api_lacks_is_an_error_and_never_dropped(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "k")
        (failure,) = ask(open_chat("openai:m"), Sampling(max_tokens=5, top_k=20))
        assert isinstance(failure, UsageError)
        assert "takes no top_k, which is 20" in failure.message

    def test_models_that_are_loaded_here_are_sent_elsewhere(self) -> None:
        with pytest.raises(UsageError, match="to be loaded here") as caught:
            open_chat("vllm:Qwen/Qwen3-8B")
        assert "local:Qwen/Qwen3-8B" in caught.value.hint


class TestCache:
    def chat(self, url: str, path: Path, name: str = "m", **options: Any) -> HttpChat:
        return open_chat(f"openai:{name}@{url}", cache=ReplyCache(path / "replies.sqlite"), **options)

    def test_a_second_run_asks_for_nothing_and_n_samples_differ(self, tmp_path: Path) -> None:
        with serve_chat(lambda body: f"sample {body['seed']}") as server:
            first = ask(self.chat(server.url, tmp_path), *seeds(4))
            again = self.chat(server.url, tmp_path)
            assert ask(again, *seeds(4)) == first
        assert [reply.text for reply in first if isinstance(reply, Reply)] == [
            f"sample {n}" for n in range(4)
        ]
        assert len(server.seen) == 4
        assert (again.ledger.asked, again.ledger.cached, again.ledger.answered) == (4, 4, 0)
        assert again.ledger.spent == 0

    @pytest.mark.parametrize(
        "other",
        [
            Sampling(max_tokens=51),
            Sampling(max_tokens=50, temperature=0.5),
            Sampling(max_tokens=50, top_p=0.5),
            Sampling(max_tokens=50, top_k=5),
            Sampling(max_tokens=50, min_p=0.1),
            Sampling(max_tokens=50, stop=("x",)),
            Sampling(max_tokens=50, seed=1),
            Sampling(max_tokens=50, seed=2**31),
        ],
    )
    def test_whatever_can_change_a_reply_is_part_of_its_key(self, other: Sampling, tmp_path: Path) -> None:
        with serve_chat(forty_two) as server:
            ask(self.chat(server.url, tmp_path), SHORT)
            ask(self.chat(server.url, tmp_path), other)
        assert len(server.seen) == 2

    def test_another_model_prompt_or_extra_is_another_request(self, tmp_path: Path) -> None:
        with serve_chat(forty_two) as server:
            ask(self.chat(server.url, tmp_path), SHORT)
            ask(self.chat(server.url, tmp_path, name="other"), SHORT)
            ask(self.chat(server.url, tmp_path), SHORT, messages=ASKED[1:])
            ask(self.chat(server.url, tmp_path, extra={"think": False}), SHORT)
        assert len(server.seen) == 4
        assert server.seen[3].body["think"] is False

    def test_failures_are_not_kept(self, tmp_path: Path) -> None:
        with serve_chat(forty_two, [Refuse(400)]) as server:
            (failure,) = ask(self.chat(server.url, tmp_path), SHORT)
            assert isinstance(failure, RequestFailed)
            assert isinstance(ask(self.chat(server.url, tmp_path), SHORT)[0], Reply)

    def test_a_file_that_is_no_cache_says_so(self, tmp_path: Path) -> None:
        (tmp_path / "replies.sqlite").write_text("not a database, but long enough to look at: " * 5)
        with pytest.raises(ReasonkitError, match="cannot be opened"):
            ReplyCache(tmp_path / "replies.sqlite")


PRICES = {"m": Price(1000.0, 10_000.0)}
"""A word of the prompt costs $0.001, one of the reply $0.01."""


class TestCost:
    def test_tokens_and_dollars_add_up(self) -> None:
        with serve_chat(forty_two) as server:
            chat = open_chat(f"openai:m@{server.url}", prices=PRICES)
            ask(chat, *seeds(10))
        assert (chat.ledger.prompt_tokens, chat.ledger.completion_tokens) == (70, 30)
        assert chat.ledger.spent == pytest.approx(10 * (7 * 0.001 + 3 * 0.01))

    def test_the_ceiling_holds_however_many_are_in_flight_and_what_was_answered_is_kept(
        self, tmp_path: Path
    ) -> None:
        ledger = Ledger(max_cost=2.0)
        with serve_chat(forty_two) as server:
            chat = open_chat(
                f"openai:m@{server.url}",
                ledger=ledger,
                prices=PRICES,
                cache=ReplyCache(tmp_path / "c.sqlite"),
            )
            answers = ask(chat, *seeds(100))
        replies = [answer for answer in answers if isinstance(answer, Reply)]
        stopped = [answer for answer in answers if isinstance(answer, CostExceeded)]
        assert len(replies) + len(stopped) == 100
        assert 30 <= len(replies) == len(server.seen)
        assert ledger.spent <= 2.0
        assert ledger.failed == {"max-cost": len(stopped)}
        assert stopped[0].exit_code == 3
        with serve_chat(forty_two):
            again = Ledger(max_cost=2.0)
            more = open_chat(
                f"openai:m@{server.url}",
                ledger=again,
                prices=PRICES,
                cache=ReplyCache(tmp_path / "c.sqlite"),
            )
            ask(more, *(seeds(100)[: len(replies)]))
        assert again.spent == 0.0

    def test_a_ceiling_without_a_price_is_refused_at_the_start(self) -> None:
        with pytest.raises(UsageError, match="price of 'openai:m@http://h/v1' is not known"):
            open_chat("openai:m@http://h/v1", ledger=Ledger(max_cost=1.0))

    def test_ones_own_server_is_free(self) -> None:
        with serve_chat(forty_two) as server:
            chat = open_chat(f"local:m@{server.url}", ledger=Ledger(max_cost=0.0))
            assert isinstance(ask(chat, SHORT)[0], Reply)

    def test_a_reply_without_token_counts_is_booked_at_the_most_it_can_have_cost(self) -> None:
        def uncounted(body: dict[str, Any]) -> dict[str, Any]:
            return {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}

        with serve_chat(uncounted) as server:
            chat = open_chat(f"openai:m@{server.url}", prices=PRICES)
            ask(chat, SHORT)
        assert chat.ledger.uncounted == 1
        assert chat.ledger.spent >= 50 * 0.01


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Hang(), "timeout"),
        (Refuse(429), "HTTP 429"),
        (Refuse(500, body="<h1>Internal Server Error</h1>"), "HTTP 500"),
        (Refuse(529), "HTTP 529"),
        (Half(), "unreadable"),
        (Garbage(), "unreadable"),
        (Garbage(b""), "unreadable"),
        (Garbage(b"\xff\x00"), "unreadable"),
        (Garbage(b"null"), "unreadable"),
        (Garbage(b"{}"), "unreadable"),
        (Garbage(b'{"choices": []}'), "unreadable"),
        (Garbage(b'{"choices": [{"message": {"content": 5}}]}'), "unreadable"),
        (Garbage(b"[" * 100_000), "unreadable"),
        (
            Garbage(b'{"choices": [{"message": {"content": "It is"}, "finish_reason": "abort"}]}'),
            "unreadable",
        ),
        (Slow(9.0), "timeout"),
        (Drop(), "connection"),
        (Drop(mid=True), "connection"),
    ],
    ids=lambda each: each if isinstance(each, str) else type(each).__name__,
)
class TestFaults:
    def test_one_is_survived(self, fault: Fault, kind: str) -> None:
        with serve_chat(forty_two, [fault]) as server:
            chat = open_chat(f"openai:m@{server.url}", settings=QUICK if kind != "timeout" else PATIENT)
            (reply,) = ask(chat, SHORT)
        assert isinstance(reply, Reply), reply
        assert reply.text == "It is 42"
        assert chat.ledger.retried == {kind: 1}
        assert (chat.ledger.asked, chat.ledger.answered, chat.ledger.failed) == (1, 1, {})

    def test_without_end_it_is_a_failure_that_names_its_cause(self, fault: Fault, kind: str) -> None:
        with serve_chat(forty_two, [fault] * 3) as server:
            chat = open_chat(f"openai:m@{server.url}", settings=QUICK if kind != "timeout" else IMPATIENT)
            (failure,) = ask(chat, SHORT)
        assert isinstance(failure, RequestFailed)
        assert failure.kind == kind
        assert f"m at 127.0.0.1:{server.server_address[1]} gave no reply in 3 attempts" in failure.message
        assert len(server.seen) == 3
        assert chat.ledger.retried == {kind: 2}
        assert (chat.ledger.answered, chat.ledger.failed) == (0, {kind: 1})


class TestChaos:
    def storm(self) -> Iterable[Fault | None]:
        kinds: tuple[Fault, ...] = (Refuse(500), Half(), Garbage(), Drop(), Refuse(429), Drop(mid=True))
        return (
            (Hang() if place in (5, 45) else kinds[place % 6]) if place % 2 else None for place in range(200)
        )

    def test_in_a_storm_every_request_ends_and_the_counts_add_up(self) -> None:
        with serve_chat(forty_two, self.storm()) as server:
            chat = open_chat(f"openai:m@{server.url}", settings=PATIENT)
            answers = ask(chat, *seeds(60))
        ledger = chat.ledger
        replies = sum(isinstance(answer, Reply) for answer in answers)
        failures = [answer for answer in answers if isinstance(answer, RequestFailed)]
        assert replies + len(failures) == 60
        assert replies > len(failures)
        assert ledger.asked == 60
        assert ledger.answered == replies
        assert ledger.failed.total() == len(failures)
        assert len(server.seen) == ledger.answered + ledger.retried.total() + ledger.failed.total()
        assert ledger.completion_tokens == 3 * replies

    def test_a_server_that_refuses_a_crowd_is_approached_by_fewer(self) -> None:
        with serve_chat(lambda body: "ok") as server:
            calm = open_chat(f"openai:m@{server.url}", settings=HttpSettings(concurrency=64))
            ask(calm, *seeds(100))
            assert calm._client.limit.size > 8
        with serve_chat(lambda body: "ok", [Refuse(429)] * 30) as server:
            pressed = open_chat(
                f"openai:m@{server.url}",
                settings=HttpSettings(attempts=20, first_pause=0.001, longest_pause=0.01),
            )
            answers = ask(pressed, *seeds(30))
            assert all(isinstance(answer, Reply) for answer in answers)
            assert pressed._client.limit.size < calm._client.limit.size

    def test_the_ceiling_of_requests_in_flight_is_kept(self) -> None:
        with serve_chat(lambda body: "ok") as server:
            ask(open_chat(f"openai:m@{server.url}", settings=HttpSettings(concurrency=3)), *seeds(20))
        assert server.most_at_once <= 3

    def test_a_cancelled_request_is_counted_and_frees_its_slot(self) -> None:
        with serve_chat(forty_two, [Hang()]) as server:
            chat = open_chat(f"openai:m@{server.url}", settings=HttpSettings(concurrency=1))

            async def run() -> Reply:
                async with chat, asyncio.timeout(30):
                    stuck = asyncio.create_task(chat.reply(ASKED, SHORT))
                    while not server.seen:
                        await asyncio.sleep(0.01)
                    stuck.cancel()
                    return await chat.reply(ASKED, SHORT)

            assert asyncio.run(run()).text == "It is 42"
        assert chat.ledger.failed == {"cancelled": 1}


class TestRefusals:
    def test_what_would_be_refused_again_is_not_repeated(self) -> None:
        with serve_chat(
            forty_two, [Refuse(400, body='{"error": {"message": "no such model: m"}}')]
        ) as server:
            chat = open_chat(f"openai:m@{server.url}", settings=QUICK)
            (failure,) = ask(chat, SHORT)
        assert isinstance(failure, RequestFailed)
        assert "no such model: m" in failure.message
        assert len(server.seen) == 1
        assert chat.ledger.failed == {"HTTP 400": 1}

    def test_an_empty_account_is_not_waited_for(self) -> None:
        body = '{"error": {"code": "insufficient_quota"}}'
        with serve_chat(forty_two, [Refuse(429, body=body)]) as server:
            (failure,) = ask(open_chat(f"openai:m@{server.url}", settings=QUICK), SHORT)
        assert isinstance(failure, RequestFailed)
        assert len(server.seen) == 1

    def test_retry_after_is_obeyed(self) -> None:
        with serve_chat(forty_two, [Refuse(429, {"Retry-After": "0.3"})]) as server:
            settings = HttpSettings(first_pause=0.001, longest_pause=1.0)
            chat = open_chat(f"openai:m@{server.url}", settings=settings)

            async def run() -> float:
                async with chat:
                    started = asyncio.get_running_loop().time()
                    await chat.reply(ASKED, SHORT)
                    return asyncio.get_running_loop().time() - started

            assert asyncio.run(run()) >= 0.3

    def test_a_server_that_asks_for_too_long_is_not_waited_for(self) -> None:
        with serve_chat(forty_two, [Refuse(429, {"Retry-After": "3600"})]) as server:
            (failure,) = ask(open_chat(f"openai:m@{server.url}", settings=QUICK), SHORT)
        assert isinstance(failure, RequestFailed)
        assert "not before 3600 s" in failure.message

    def test_no_server_at_all(self) -> None:
        (failure,) = ask(open_chat("openai:m@http://127.0.0.1:9/v1", settings=QUICK), SHORT)
        assert isinstance(failure, RequestFailed)
        assert failure.kind == "connection"


class TestSecrets:
    @pytest.mark.parametrize(
        "fault",
        [
            Refuse(401, body="bad key s3cret-key"),
            Refuse(400, body="you sent s3cret-key"),
            Garbage(b"s3cret-key"),
        ],
    )
    def test_a_key_is_sent_and_shows_nowhere_else(
        self,
        fault: Fault,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        (tmp_path / ".env").write_text("REASONKIT_API_KEY=s3cret-key\n")
        caplog.set_level(logging.DEBUG)
        cache = tmp_path / "c.sqlite"
        with serve_chat(forty_two, [None, *[fault] * 3]) as server:
            chat = open_chat(f"openai:m@{server.url}", settings=QUICK, cache=ReplyCache(cache))
            ask(chat, SHORT)
            (failure,) = ask(chat, Sampling(max_tokens=7))
        assert server.seen[0].headers["authorization"] == "Bearer s3cret-key"
        assert isinstance(failure, RequestFailed)
        assert "s3cret" not in f"{failure!r} {failure.hint} {chat.ledger.summary()}"
        assert "s3cret" not in caplog.text
        for file in tmp_path.glob("c.sqlite*"):
            assert b"s3cret" not in file.read_bytes()
