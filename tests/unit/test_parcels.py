"""Weights in parcels: every tensor arrives as it left, whatever its dtype and shape, in parcels of bounded size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from reasonkit.cli.discover import _where
from reasonkit.errors import ReasonkitError
from reasonkit.train.lora import adapters, add_adapters, fill_adapters
from reasonkit.train.model import load_model
from reasonkit.train.parcels import pack, unpack
from reasonkit.train.weights import ModelWeights
from tests.tiny_models import tiny_model, tiny_tokenizer

WEIGHTS = {
    "matrix": torch.arange(12.0).reshape(3, 4),
    "half": torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "scalar": torch.tensor(3.0),
    "counts": torch.tensor([1, 2, 3]),
}


@pytest.mark.parametrize("limit", [1, 60, 10**6])
def test_what_is_packed_is_unpacked(limit: int) -> None:
    parcels = list(pack(WEIGHTS.items(), limit))
    assert sum(parcel.bytes for parcel in parcels) == sum(each.nbytes for each in WEIGHTS.values())
    assert all(parcel.bytes <= limit or len(parcel.names) <= 2 for parcel in parcels)
    got = dict(unpack(parcels))
    assert list(got) == list(WEIGHTS)
    for name, tensor in WEIGHTS.items():
        assert got[name].dtype == tensor.dtype
        assert got[name].shape == tensor.shape
        assert got[name].equal(tensor)


def test_parcels_are_copies() -> None:
    source = torch.zeros(3)
    parcels = list(pack([("a", source)]))
    source += 1
    first = dict(unpack(parcels))["a"]
    first += 5
    assert dict(unpack(parcels))["a"].tolist() == [0.0, 0.0, 0.0]


def test_the_list_of_runs_says_where_actors_are() -> None:
    names = ["learner-0", "learner-1", "engine-0"]
    placement = [{"name": name, "host": "a" if name != "learner-1" else "b"} for name in names]
    assert _where({"host": "a", "placement": placement}) == "a: 1 learner, b: 1 learner, a: 1 engine"
    assert _where({"host": "a"}) == "a"


def test_a_tensor_that_changes_on_its_way_is_named_in_debug_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not next(pack(WEIGHTS.items())).checksums
    monkeypatch.setenv("REASONKIT_DEBUG", "1")
    (parcel,) = pack(WEIGHTS.items())
    assert dict(unpack([parcel]))["half"].equal(WEIGHTS["half"])
    parcel.contents[1][0] ^= 1
    with pytest.raises(ReasonkitError, match="'half' left the learner with checksum"):
        list(unpack([parcel]))


def test_weights_travel_in_the_type_that_the_engine_computes_in() -> None:
    learner = tiny_model("llama", len(tiny_tokenizer()))
    whole, half = (dict(ModelWeights(learner, dtype)) for dtype in (torch.float32, torch.bfloat16))
    assert list(half) == list(whole)
    assert all(each.dtype == torch.bfloat16 for each in half.values())
    assert all(half[name].equal(each.bfloat16()) for name, each in whole.items())


def test_engines_get_adapters_alone_and_merge_them_into_a_base_of_their_own(tmp_path: Path) -> None:
    """What they sample from is what the learner has, although only adapters travelled."""
    tokenizer = tiny_tokenizer()
    tiny_model("llama", len(tokenizer)).save_pretrained(tmp_path)
    fields = {"r": 2, "target_modules": ["q_proj", "down_proj"]}
    learner = load_model(tmp_path)
    add_adapters(learner, fields, seed=1)
    with torch.no_grad():
        for name, tensor in learner.named_parameters():
            if ".lora_" in name:
                tensor.normal_()
    sent = list(pack(adapters(learner)))
    whole = sum(tensor.nbytes for _, tensor in ModelWeights(learner))
    assert 0 < sum(parcel.bytes for parcel in sent) < whole / 4

    engine = load_model(tmp_path)
    add_adapters(engine, fields, seed=2)
    fill_adapters(engine, unpack(sent))
    expected, got = dict(ModelWeights(learner)), dict(ModelWeights(engine))
    assert list(got) == list(expected)
    assert all(got[name].equal(tensor) for name, tensor in expected.items())
    with pytest.raises(ReasonkitError, match=r"only one of them has '.*q_proj.lora_"):
        fill_adapters(engine, [(name, tensor) for name, tensor in unpack(sent) if "q_proj" not in name])
