"""Weights in parcels: every tensor arrives as it left, whatever its dtype and shape, in parcels of bounded size."""

from __future__ import annotations

import pytest
import torch

from reasonkit.cli.discover import _where
from reasonkit.train.parcels import pack, unpack

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
