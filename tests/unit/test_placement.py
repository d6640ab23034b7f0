"""Which models get how many engines, and what the flags come to: no model and no Ray."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from reasonkit.cluster_host import VISIBLE
from reasonkit.engines.names import parse_model
from reasonkit.errors import UsageError
from reasonkit.models import FoundModel
from reasonkit.placement import Places, find_places


def local(label: str, engine: str = "vllm") -> FoundModel:
    return FoundModel(f"{engine}:{label}", label, engine, label, folder=Path(label))


API = FoundModel("openai:m@http://h/v1", "m", "openai", "m", name=parse_model("openai:m@http://h/v1"))


@pytest.mark.parametrize(
    ("engines", "models", "copies", "at_once"),
    [
        (8, 2, [4, 4], 2),
        (8, 3, [3, 3, 2], 3),
        (2, 2, [1, 1], 2),
        (2, 5, [1, 1, 1, 1, 1], 2),
        (4, 1, [4], 1),
    ],
)
def test_models_share_the_engines(engines: int, models: int, copies: list[int], at_once: int) -> None:
    places = Places(engines, 2, on_gpus=True, actors=True)
    shared = places.share([local(f"m{number}") for number in range(models)])
    assert [found.engines for found in shared] == copies
    assert {found.tensor_parallel for found in shared} == {2}
    assert places.at_once(shared) == at_once
    assert shared[0].in_flight == 256 * copies[0]


def test_a_model_behind_an_api_takes_no_place_and_waits_for_none() -> None:
    places = Places(4, actors=True)
    shared = places.share([API, local("a"), local("b")])
    assert shared[0] is API
    assert [found.engines for found in shared[1:]] == [2, 2]
    assert places.at_once(shared) == 3
    assert find_places(None, 1, 3, [API]) == Places()


def test_without_actors_models_come_one_after_the_other() -> None:
    assert Places().at_once([local("a"), local("b"), API]) == 1


class TestFlags:
    @pytest.fixture(autouse=True)
    def machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One with eight GPUs."""
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setenv(VISIBLE, "0,1,2,3,4,5,6,7")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)

    @pytest.mark.parametrize(
        ("gpus", "tp", "engines", "expected"),
        [
            (None, 1, None, Places(8, 1, on_gpus=True, actors=True)),
            (None, 2, None, Places(4, 2, on_gpus=True, actors=True)),
            ("4", 4, None, Places(1, 4, on_gpus=True)),
            ("1", 1, None, Places(1, 1, on_gpus=True)),
            ("6", 2, 2, Places(2, 2, on_gpus=True, actors=True)),
        ],
    )
    def test_an_engine_for_every_tp_gpus(
        self, gpus: str | None, tp: int, engines: int | None, expected: Places
    ) -> None:
        assert find_places(gpus, tp, engines, [local("a")]) == expected

    def test_gpus_may_be_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import os

        assert find_places("0-2,5", 1, None, [local("a")]).engines == 4
        assert os.environ[VISIBLE] == "0,1,2,5"

    def test_without_a_gpu_engines_are_what_was_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        assert find_places(None, 1, None, [local("a")]) == Places()
        assert find_places(None, 1, 2, [local("a")]) == Places(2, actors=True)

    @pytest.mark.parametrize(
        ("gpus", "tp", "engines", "engine", "message"),
        [
            ("16", 1, None, "vllm", "--gpus 16 asks for 16 GPUs, and 8 are there"),
            ("0", 1, None, "vllm", "--gpus '0' is neither a number nor a list"),
            ("a-b", 1, None, "vllm", "--gpus 'a-b' is neither"),
            ("2", 4, None, "vllm", "--engines 1 with --tp 4 take 4 GPUs, and 2 are to be used"),
            (None, 4, 3, "vllm", "--engines 3 with --tp 4 take 12 GPUs, and 8 are to be used"),
            (None, 2, None, "transformers", "which the transformers engine that loads 'a' cannot"),
        ],
    )
    def test_what_cannot_be_had_is_said(
        self, gpus: str | None, tp: int, engines: int | None, engine: str, message: str
    ) -> None:
        with pytest.raises(UsageError, match=message):
            find_places(gpus, tp, engines, [local("a", engine)])

    def test_a_cluster_gives_a_number_and_no_names(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
        with pytest.raises(UsageError, match="names GPUs of one machine, but RAY_ADDRESS is set"):
            find_places("0-3", 1, None, [local("a")])
