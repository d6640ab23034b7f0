"""Two ranks compute what one computes: losses, gradients, weights, checkpoints; and one that fails is named."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reasonkit.advantages import grpo, ppo
from reasonkit.errors import ConfigError, ReasonkitError
from reasonkit.losses import LOSSES
from reasonkit.recipe import LossConfig, TrainConfig
from reasonkit.records import Group
from reasonkit.train.critic import CriticSettings
from reasonkit.train.mesh import Mesh, check_parallel, shares
from reasonkit.train.packing import Batch, assemble, mini_batches, pack, rows
from reasonkit.train.rank import LearnerSettings
from reasonkit.train.ranks import Ranks
from reasonkit.train.sharded import ShardedLearner
from reasonkit.train.signals import Wanted, annotate
from reasonkit.train.ulysses import Neighbours
from tests.learners import local_learner
from tests.rollout_batches import random_groups
from tests.sharded_bench import VOCABULARY, Bench, make_bench
from tests.tiny_models import SHAPES, Shape, tiny_model

GROUPS = random_groups(VOCABULARY)
EVERYTHING = {"entropy": 0.05, "kl": 0.1}


@pytest.fixture(scope="module")
def two() -> Iterator[Ranks]:
    ranks = Ranks(2, make_bench, {}, threads=1)
    yield ranks
    ranks.close()


@pytest.fixture
def one() -> Bench:
    torch.set_num_threads(1)
    return Bench(Mesh(torch.device("cpu")))


def settings(loss: LossConfig | None = None, **train: Any) -> LearnerSettings:
    return LearnerSettings(
        loss=loss or LossConfig(**EVERYTHING),
        train=TrainConfig(**{"lr": 1e-3, "token_budget": 60, **train}),
        total_updates=4,
        max_tokens=32,
        temperature=0.7,
    )


def batch_of(groups: list[Group] = GROUPS) -> Batch:
    [batch] = mini_batches(assemble(groups, grpo(groups)), len(groups))
    return batch


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert one.keys() == other.keys()
    scale = max(each.abs().max().item() for each in one.values())
    assert scale > 1e-4, "zeros would equal anything"
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=tolerance * scale, msg=name)


def assert_same_gradients(one: Bench, several: Ranks, batch: Batch) -> None:
    mine, gradients = one.accumulate(batch)
    (theirs, sharded), *others = several.call("accumulate", batch)
    assert all(measured == theirs for measured, _ in others)
    assert theirs == pytest.approx(mine, rel=1e-5, abs=1e-6)
    assert_same(gradients, sharded)


@pytest.mark.parametrize("policy", LOSSES)
@pytest.mark.parametrize(
    "budget",
    [
        pytest.param(1, id="a row a sequence", marks=pytest.mark.slow),
        pytest.param(60, id="some rows"),
        pytest.param(10_000, id="one row", marks=pytest.mark.slow),
    ],
)
def test_every_loss_has_the_same_gradient_on_two_ranks(
    one: Bench, two: Ranks, policy: str, budget: int
) -> None:
    """Also where one of the two has nothing to do."""
    loss = LossConfig(policy=policy, **EVERYTHING)
    one.make("llama", settings(loss), 1.1)
    two.call("make", "llama", settings(loss, token_budget=budget), 1.1)
    assert_same_gradients(one, two, batch_of())


@pytest.mark.parametrize(
    "shape", ["llama", *(pytest.param(shape, marks=pytest.mark.slow) for shape in ("qwen2", "qwen3"))]
)
def test_updates_give_the_same_weights(one: Bench, two: Ranks, shape: Shape) -> None:
    for bench in (one, two):
        call(bench, "make", shape, settings(grad_clip=0.5))
    for seed in range(3):
        batch = batch_of(random_groups(VOCABULARY, seed=seed))
        mine, theirs = one.step(batch), two.call("step", batch)[0]
        assert mine["grad_norm"] > 0.5, "it must be clipped, or clipping is not tested"
        assert theirs == pytest.approx(mine, rel=1e-4, abs=1e-5)
    weights = one.weights()
    for sharded in two.call("weights"):
        assert_same(weights, sharded, tolerance=2e-4)
    [first, second] = two.call("held")
    assert max(first, second) < 0.55 * one.held(), "each holds half of weights and moments"


def call(bench: Bench | Ranks, method: str, *arguments: Any) -> Any:
    return bench.call(method, *arguments) if isinstance(bench, Ranks) else getattr(bench, method)(*arguments)


def test_logprobs_come_from_whoever_has_the_sample(one: Bench, two: Ranks) -> None:
    batch = batch_of()
    for bench in (one, two):
        call(bench, "make", "qwen3", settings(), 1.1)
    for reference in (False, True):
        first, second = two.call("logprobs", batch, reference)
        assert not first.keys() & second.keys()
        alone = one.logprobs(batch, reference)
        assert_same(dict(sorted(alone.items())), dict(sorted({**first, **second}.items())))  # type: ignore[arg-type]


def test_a_batch_with_nothing_to_learn_moves_all_ranks_alike(one: Bench, two: Ranks) -> None:
    batch = batch_of()
    [nothing] = mini_batches(assemble(GROUPS, [[0.0] * len(group.rollouts) for group in GROUPS]), len(GROUPS))
    for bench in (one, two):
        call(bench, "make", "llama", settings(LossConfig()))
        call(bench, "step", batch)
        call(bench, "step", nothing)
    assert_same(one.weights(), two.call("weights")[0], tolerance=2e-4)


@pytest.mark.parametrize("way", ["checkpoint_activations", "offload_optimizer", "offload_parameters"])
def test_saving_memory_changes_nothing_else(one: Bench, two: Ranks, way: str) -> None:
    one.make("llama", settings())
    two.call("make", "llama", settings(save_memory=[way]))
    for seed in range(2):
        batch = batch_of(random_groups(VOCABULARY, seed=seed))
        one.step(batch)
        two.call("step", batch)
    assert_same(one.weights(), two.call("weights")[0], tolerance=2e-4)


def test_the_critic_learns_the_same(one: Bench, two: Ranks) -> None:
    with_critic = LearnerSettings(
        loss=LossConfig(),
        train=TrainConfig(lr=1e-3, token_budget=60),
        total_updates=4,
        max_tokens=32,
        critic=CriticSettings(lr=0.01),
    )
    local = local_learner(
        tiny_model("llama", VOCABULARY),
        **{name: getattr(with_critic, name) for name in with_critic.__slots__},
    )
    groups = asyncio.run(annotate(GROUPS, local, Wanted(False, 0.0, True)))
    [batch] = mini_batches(assemble(groups, ppo(groups)), len(groups))
    for bench in (one, two):
        call(bench, "make", "llama", with_critic)
    for _ in range(2):
        mine, theirs = one.step(batch), two.call("step", batch)[0]
        assert theirs == pytest.approx(mine, rel=1e-3, abs=1e-5)
    first, second = two.call("values", batch)
    alone = one.values(batch)
    assert_same(dict(sorted(alone.items())), dict(sorted({**first, **second}.items())), 1e-3)  # type: ignore[arg-type]


def test_half_precision_gathers_half_and_keeps_float32_masters(one: Bench, two: Ranks) -> None:
    half = LearnerSettings(
        loss=LossConfig(), train=TrainConfig(), total_updates=1, max_tokens=32, dtype=torch.bfloat16
    )
    for bench in (one, two):
        call(bench, "make", "llama", half)
    mine, theirs = one.step(batch_of()), two.call("step", batch_of())[0]
    assert theirs["entropy"] == pytest.approx(mine["entropy"], rel=0.02)
    assert theirs["grad_norm"] == pytest.approx(mine["grad_norm"], rel=0.1)
    assert two.call("dtypes")[0] == {"masters": {torch.float32}, "weights": {torch.bfloat16}}


@pytest.mark.parametrize("saved_by", ["one", "two"])
@pytest.mark.parametrize("shape", [pytest.param("llama", marks=pytest.mark.slow), "qwen2"])
def test_a_checkpoint_goes_on_with_another_number_of_ranks(
    one: Bench, two: Ranks, tmp_path: Path, saved_by: str, shape: Shape
) -> None:
    """Weights, moments and position: three updates are one, a checkpoint, and two by the others."""
    batches = [batch_of(random_groups(VOCABULARY, seed=seed)) for seed in range(3)]
    saver, reader = (one, two) if saved_by == "one" else (two, one)
    for bench in (one, two):
        call(bench, "make", shape, settings(lr_schedule={"linear": {"warmup": 2}}))
    call(saver, "step", batches[0])
    call(saver, "save", tmp_path / "step_1")
    call(reader, "load", tmp_path / "step_1")
    before = [call(bench, "weights") for bench in (one, two)]
    assert all(torch.equal(before[0][name], before[1][0][name]) for name in before[0])
    for batch in batches[1:]:
        mine, theirs = one.step(batch), two.call("step", batch)[0]
        assert theirs["lr"] == mine["lr"]
    assert_same(one.weights(), two.call("weights")[0], tolerance=2e-4)


def test_what_ranks_save_is_a_plain_model_folder_of_that_moment(two: Ranks, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    for shape in ("llama", "qwen2"):
        two.call("make", shape, settings())
        two.call("step", batch_of())
        weights = two.call("weights")[0]
        two.call("save_while_training", tmp_path / shape, batch_of())
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / shape).state_dict()
        for name, tensor in weights.items():
            assert torch.equal(loaded[name], tensor), name
        assert not torch.equal(two.call("weights")[0]["model.norm.weight"], weights["model.norm.weight"])
        assert sorted(path.name for path in (tmp_path / shape / "training").iterdir()) == [
            "shard-00001-model-00001-of-00001.safetensors",
            "shard-00002-model-00001-of-00001.safetensors",
        ]
        assert not (tmp_path / shape / "sharded").exists()


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
@pytest.mark.parametrize("budget", [1, 40, 100, 1000])
def test_shares_hold_every_sample_once_and_are_alike(parts: int, budget: int) -> None:
    samples = batch_of(random_groups(VOCABULARY, groups=20)).samples
    shared = shares(samples, budget, parts)
    assert len(shared) == parts
    assert len({len(share) for share in shared}) == 1
    places = sorted(place for share in shared for row in share for prompt in row for place in prompt)
    assert places == list(range(len(samples)))
    alone = list(rows(samples, budget))
    assert len(shared[0]) == -(-len(alone) // parts), "no more rounds than the budget asks for"
    if parts == 1:
        assert shared == [alone], "a rank alone cuts as it always has"


def test_the_shares_of_a_batch_that_fits_one_row_are_about_equal() -> None:
    samples = batch_of(random_groups(VOCABULARY, groups=20)).samples
    loads = [sum(pack(samples, row).ids.numel() for row in share) for share in shares(samples, 100_000, 4)]
    assert max(loads) < 1.25 * min(loads)


def test_what_the_learner_cannot_do_is_said() -> None:
    with pytest.raises(ConfigError, match=r"tensor \(3\) does not divide .* \(4\)"):
        check_parallel(4, {"tensor": 3})
    with pytest.raises(
        ConfigError, match=r"sequence \(2\) and cluster\.parallel\.tensor \(2\) are both above 1"
    ):
        check_parallel(4, {"tensor": 2, "sequence": 2})
    with pytest.raises(ConfigError, match=r"sequence \(3\) does not divide .* \(4\)") as raised:
        check_parallel(4, {"sequence": 3})
    assert raised.value.hint == "--set cluster.learners=6"


@pytest.fixture(scope="module")
def neighbours() -> Iterator[Ranks]:
    ranks = Ranks(2, make_bench, {"sequence": 2}, threads=1)
    yield ranks
    ranks.close()


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("policy", ["clipped", "gspo"])
def test_neighbours_that_share_each_row_compute_what_one_does(
    one: Bench, neighbours: Ranks, shape: Shape, policy: str
) -> None:
    """Also losses that look at whole sequences; rows do not divide by two, and sequences are cut in the middle."""
    for budget in (1, 60):
        loss = LossConfig(policy=policy, **EVERYTHING)
        one.make(shape, settings(loss), 1.1)
        neighbours.call("make", shape, settings(loss, token_budget=budget), 1.1)
        assert_same_gradients(one, neighbours, batch_of())
        mine, theirs = one.step(batch_of()), neighbours.call("step", batch_of())[0]
        assert theirs == pytest.approx(mine, rel=1e-4, abs=1e-5)
        first, second = neighbours.call("logprobs", batch_of(), True)
        assert first.keys() == second.keys() == one.logprobs(batch_of(), True).keys()


@pytest.mark.slow
def test_heads_that_neighbours_cannot_share_are_an_error() -> None:
    with pytest.raises(
        ConfigError, match=r"sequence \(4\) does not divide the model's 2 key-value heads"
    ) as raised:
        Neighbours(None, 4, 0).check_heads(2)  # type: ignore[arg-type]
    assert raised.value.hint == "--set cluster.parallel.sequence=2"


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields", [{"r": 4}, {"r": 4, "use_dora": True}, {"r": 4, "modules_to_save": ["embed_tokens"]}], ids=str
)
def test_adapters_on_two_ranks(one: Bench, two: Ranks, tmp_path: Path, fields: dict[str, Any]) -> None:
    adapted = LearnerSettings(
        loss=LossConfig(**EVERYTHING),
        train=TrainConfig(lr=1e-2, token_budget=60),
        total_updates=4,
        max_tokens=32,
        lora=fields,
    )
    for bench in (one, two):
        call(bench, "make", "llama" if "modules_to_save" in fields else "qwen2", adapted)
    for seed in range(2):
        batch = batch_of(random_groups(VOCABULARY, seed=seed))
        mine, theirs = one.step(batch), two.call("step", batch)[0]
        assert theirs == pytest.approx(mine, rel=1e-3, abs=1e-5)
    assert_same(one.weights(), two.call("weights")[0], tolerance=1e-3)
    two.call("save", tmp_path / "step_2")
    one.load(tmp_path / "step_2")
    merged = two.call("weights")[0]
    assert all(torch.equal(weight, merged[name]) for name, weight in one.weights().items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("dies", "rank 1 of 2 ended by SIGKILL in misbehave"),
        ("hangs", "rank 1 of 2 has not moved on for 5 s in misbehave"),
        ("fails", "rank 1 of 2 failed in misbehave: ValueError: a thing went wrong"),
    ],
)
def test_the_rank_that_others_wait_for_is_named(how: str, said: str) -> None:
    ranks = Ranks(2, make_bench, {}, threads=1)
    ranks._stalled = 5.0
    try:
        with pytest.raises(ReasonkitError, match=said):
            ranks.call("misbehave", 1, how)
    finally:
        ranks.close()


class Told:
    """Stands for Ranks: what they are asked, in order."""

    def __init__(self, broken: bool) -> None:
        self.broken = broken
        self.asked: list[str] = []

    def call(self, method: str) -> None:
        self.asked.append(method)

    def close(self) -> None:
        self.asked.append("close")


@pytest.mark.parametrize(("broken", "asked"), [(False, ["saved", "close"]), (True, ["close"])])
def test_what_is_being_saved_is_finished_before_the_ranks_end_unless_one_is_lost(
    broken: bool, asked: list[str]
) -> None:
    ranks: Any = Told(broken)
    asyncio.run(ShardedLearner(ranks).close())
    assert ranks.asked == asked
