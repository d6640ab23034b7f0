"""The trainer's end of vLLM's weight updates, as far as it needs no vLLM: ranks, deadlines, names, refusals."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from reasonkit.engines.vllm import VllmEngine
from reasonkit.engines.vllm_weights import Client, Source, checkpoint_layout
from reasonkit.errors import MissingExtra, ReasonkitError

LAYOUT = {"model.embed_tokens.weight": (7, 4), "model.norm.weight": (4,)}


class Told:
    """An engine that notes what it is told. What it answers is decided by the test."""

    def __init__(self, name: str, workers: int, answer: BaseException | None = None, *, mute: bool = False):
        self.name = name
        self.workers = workers
        self.heard: list[tuple[str, Mapping[str, Any] | None]] = []
        self._answer = answer
        self._mute = mute

    def control(self, step: str, argument: Mapping[str, Any] | None = None) -> Future[None]:
        self.heard.append((step, argument))
        call: Future[None] = Future()
        if self._answer is not None:
            call.set_exception(self._answer)
        elif not self._mute:
            call.set_result(None)
        return call


def client(*engines: Told, deadline: float = 30.0) -> Client:
    made = Client(engines, deadline)
    made.begin()
    return made


def test_each_engines_workers_get_the_ranks_after_the_last_ones() -> None:
    engines = Told("a", 2), Told("b", 4), Told("c", 1)
    together = client(*engines)
    together.init_weight_transfer_engine({"rank_offset": 1, "world_size": 1 + together.workers})
    assert [engine.heard for engine in engines] == [
        [("init", {"rank_offset": offset, "world_size": 8})] for offset in (1, 3, 7)
    ]


def test_a_backend_without_ranks_is_begun_alike_everywhere() -> None:
    engines = Told("a", 2), Told("b", 4)
    client(*engines).init_weight_transfer_engine({"packed": True})
    assert [engine.heard for engine in engines] == [[("init", {"packed": True})]] * 2


def test_an_engine_that_fails_is_named_with_its_step() -> None:
    broken = Told("engine 3", 1, RuntimeError("no such tensor"))
    with pytest.raises(ReasonkitError, match="engine 3 failed at step 'start' of a weight update: no such"):
        client(Told("engine 2", 1), broken).start_weight_update()


def test_an_engine_that_does_not_answer_is_named_at_the_deadline() -> None:
    silent = client(Told("engine 1", 1), Told("engine 2", 1, mute=True), deadline=0.05)
    with pytest.raises(
        ReasonkitError, match=r"^engine 2 did not end step 'finish' .* within the 0.05 s"
    ) as late:
        silent.finish_weight_update()
    assert "update_deadline" in late.value.hint


def test_the_deadline_is_one_for_all_steps_of_an_update() -> None:
    """Many steps that are each in time do not add up to for ever."""
    mute = Told("engine", 1, mute=True)
    slow = client(mute, deadline=0.2)
    for _ in range(2):
        with pytest.raises(ReasonkitError, match="did not end"):
            slow.start_weight_update()
        threading.Event().wait(0.01)
    assert len(mute.heard) == 2


def test_handles_of_cuda_ipc_travel_as_text() -> None:
    engine = Told("engine", 1)
    client(engine).update_weights({"names": ["a"], "ipc_handles": {"gpu": (1, b"x")}, "tensor_sizes": None})
    [(step, argument)] = engine.heard
    assert step == "update"
    assert argument is not None
    assert set(argument) == {"names", "ipc_handles_pickled"}
    assert isinstance(argument["ipc_handles_pickled"], str)


def weights(**other: Tensor) -> list[tuple[str, Tensor]]:
    return list(
        {"model.embed_tokens.weight": torch.ones(7, 4), "model.norm.weight": torch.ones(4), **other}.items()
    )


def sent(source: Source) -> dict[str, Tensor]:
    return dict(iter(source))


def test_tensors_are_sent_in_the_engines_dtype_under_the_checkpoints_names() -> None:
    source = Source(LAYOUT, torch.bfloat16)
    wrapped = [
        (f"_orig_mod.{name}".replace("model.", "model._checkpoint_wrapped_module."), tensor)
        for name, tensor in weights()
    ]
    source.take(wrapped, version=1)
    assert {name: tensor.dtype for name, tensor in sent(source).items()} == dict.fromkeys(
        LAYOUT, torch.bfloat16
    )
    assert source.bytes == 2 * (7 * 4 + 4)
    assert source.largest == 2 * 7 * 4


def test_parameters_are_sent_without_their_graph() -> None:
    source = Source({"a": (3,)}, torch.float32)
    source.take([("a", torch.nn.Parameter(torch.ones(3)))], version=1)
    assert not sent(source)["a"].requires_grad


def test_tied_embeddings_are_sent_once() -> None:
    source = Source(LAYOUT, torch.float32)
    source.take(weights(**{"lm_head.weight": torch.ones(7, 4)}), version=1)
    assert list(sent(source)) == list(LAYOUT)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (weights(extra=torch.ones(1)), "hold 'extra', which the checkpoint"),
        (
            weights(**{"model.norm.weight": torch.ones(5)}),
            r"is \(5,\) in the weights of version 4 and \(4,\)",
        ),
        (weights()[:1], r"lack 1 of the model's 2 tensors, 'model.norm.weight'"),
    ],
)
def test_weights_that_do_not_fit_are_refused(given: Sequence[tuple[str, Tensor]], complaint: str) -> None:
    with pytest.raises(ReasonkitError, match=complaint):
        Source(LAYOUT, torch.float32).take(given, version=4)


def test_every_update_sends_what_the_weights_are_then() -> None:
    class Changing:
        value = 0.0

        def __iter__(self) -> Iterator[tuple[str, Tensor]]:
            yield "a", torch.full((2,), self.value)

    changing, source = Changing(), Source({"a": (2,)}, torch.float32)
    for value in (1.0, 2.0):
        changing.value = value
        source.take(changing, version=int(value))
        assert sent(source)["a"].tolist() == [value, value]


def test_the_layout_is_read_from_all_files_of_a_checkpoint(tmp_path: Path) -> None:
    save_file({"model.embed_tokens.weight": torch.ones(7, 4)}, tmp_path / "model-1.safetensors")
    save_file(
        {
            "model.norm.weight": torch.ones(4),
            "lm_head.weight": torch.ones(7, 4),
            "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2),
        },
        tmp_path / "model-2.safetensors",
    )
    assert checkpoint_layout(tmp_path, tied=True) == LAYOUT
    assert checkpoint_layout(tmp_path, tied=False) == {**LAYOUT, "lm_head.weight": (7, 4)}


def test_a_checkpoint_without_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReasonkitError, match="has no safetensors file"):
        checkpoint_layout(tmp_path, tied=False)


def test_a_machine_without_vllm_is_told_what_to_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtra, match="the vllm engine needs the extra 'vllm'") as missing:
        VllmEngine.from_path(tmp_path)
    for tool in ("pip install", "pipx install", "uv tool install"):
        assert f'{tool} "reasonkit[vllm]"' in missing.value.hint.replace("--force ", "")
