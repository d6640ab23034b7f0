"""From groups to packed rows: what is trained on, what it is divided by, and how it lies in a row."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from reasonkit.advantages import grpo, reinforce_pp
from reasonkit.records import Group, Rollout, Segment
from reasonkit.train.packing import Sample, assemble, make_batch, micro_batches, mini_batches, pack
from tests.rollout_batches import RECORD, random_groups

ROLLOUT = Rollout("r1", 0, (), "", "stop", None, 1.0)


def group(*rollouts: tuple[Segment, ...]) -> Group:
    return Group(RECORD, tuple(replace(ROLLOUT, segments=segments) for segments in rollouts))


def segment(mask: str, logprob: float = -1.0) -> Segment:
    sampled = tuple(int(flag) for flag in mask)
    return Segment(tuple(range(10, 10 + len(mask))), sampled, tuple(logprob * flag for flag in sampled))


def samples_of(groups: list[Group]) -> list[Sample]:
    return [sample for row in assemble(groups, [[1.0] * len(g.rollouts) for g in groups]) for sample in row]


def test_only_sampled_tokens_are_scored() -> None:
    [[sample]] = assemble([group((segment("0011001"),))], [[0.5]])
    assert sample.scored.tolist() == [2, 3, 6]
    assert sample.old_logprobs.tolist() == [-1.0] * 3
    assert sample.advantages.tolist() == [0.5] * 3
    assert (sample.rollout_tokens, sample.prefix, sample.inputs) == (3, 2, 6)


def test_failed_rollouts_and_segments_without_a_sampled_token_are_left_out() -> None:
    groups = random_groups(40)
    failed = [rollout for each in groups for rollout in each.rollouts if not rollout.ok]
    segments = sum(len(rollout.segments) for each in groups for rollout in each.rollouts if rollout.ok)
    assert len(failed) == 1
    assert len(samples_of(groups)) == segments
    assert samples_of([group((segment("000"),), ())]) == []


def test_tokens_whose_logprob_the_engine_could_not_give_are_dropped() -> None:
    whole = segment("0111")
    broken = replace(whole, logprobs=(0.0, -1.0, float("nan"), float("-inf")))
    [sample] = samples_of([group((broken,))])
    assert sample.scored.tolist() == [1]
    assert sample.rollout_tokens == 1
    groups = [group((broken,), (whole,))]
    for advantages in (reinforce_pp(groups, gamma=0.5), reinforce_pp(groups), grpo(groups)):
        [samples] = assemble(groups, advantages)
        assert [sample.advantages.numel() for sample in samples] == [1, 3]


def test_a_segment_that_begins_with_a_sampled_token_is_refused() -> None:
    with pytest.raises(ValueError, match="no context"):
        samples_of([group((segment("11"),))])


def test_a_batch_counts_tokens_and_rollouts_not_segments() -> None:
    two_segments = (segment("0111"), segment("011"))
    batch = make_batch(samples_of([group(two_segments, (segment("01"),))]))
    assert (batch.tokens, batch.sequences, len(batch.samples)) == (6, 2, 3)


def test_samples_of_zero_advantage_count_too() -> None:
    [batch] = mini_batches(assemble([group((segment("011"),), (segment("01"),))], [[0.0, 0.0]]), 1)
    assert (batch.tokens, batch.sequences) == (3, 2)


def test_mini_batches_hold_whole_groups_in_order() -> None:
    grouped = assemble([group((segment("01"),), (segment("011"),)) for _ in range(5)], [[1.0, 2.0]] * 5)
    batches = mini_batches(grouped, 2)
    assert [len(batch.samples) for batch in batches] == [4, 4, 2]
    assert [sample for batch in batches for sample in batch.samples] == [s for row in grouped for s in row]


def test_a_shared_prompt_lies_in_the_row_once() -> None:
    prompt = (1, 2, 3)
    replies = [(7, 8), (9, 7, 8, 9)]
    samples = [
        Sample(
            torch.tensor(prompt + reply),
            torch.arange(3, 3 + len(reply)),
            old_logprobs=torch.zeros(len(reply)),
            sampler_logprobs=torch.zeros(len(reply)),
            advantages=torch.ones(len(reply)),
            rollout_tokens=2,
        )
        for reply in replies
    ]
    micro = pack(samples, [[0, 1]])
    # The prompt's last token predicts a first token, so each sequence has its own; nothing follows a last token.
    assert micro.ids.tolist() == [[1, 2, 3, 7, 3, 9, 7, 8]]
    assert micro.positions.tolist() == [[0, 1, 2, 3, 2, 3, 4, 5]]
    assert micro.sources.tolist() == [2, 3, 4, 5, 6, 7]
    assert micro.targets.tolist() == [7, 8, 9, 7, 8, 9]
    assert micro.sequences.tolist() == [0, 0, 1, 1, 1, 1]
    assert micro.layout.lengths == (6, 4)
    whole = micro.ids[0][micro.layout.spread].tolist()
    assert whole == [1, 2, 3, 9, 7, 8, 1, 2, 3, 7]
    assert [whole[place] for place in micro.layout.gather] == micro.ids[0].tolist()


@pytest.mark.parametrize("budget", [1, 20, 50, 10_000])
def test_micro_batches_hold_every_sample_once_within_the_budget(budget: int) -> None:
    samples = samples_of(random_groups(40))
    micros = list(micro_batches(samples, budget))
    assert sorted(place for micro in micros for place in micro.samples) == list(range(len(samples)))
    for micro in micros:
        assert micro.ids.numel() <= budget or len(micro.samples) == 1
        assert list(micro.layout.lengths) == sorted(micro.layout.lengths, reverse=True)
        whole = micro.ids[0][micro.layout.spread]
        assert torch.equal(whole[micro.layout.gather], micro.ids[0])
        for number, place in enumerate(micro.samples):
            sample, mine = samples[place], micro.sequences == number
            assert torch.equal(micro.targets[mine], sample.ids[sample.scored])
            assert torch.equal(micro.positions[0][micro.sources[mine]], sample.scored - 1)
            assert torch.equal(micro.ids[0][micro.sources[mine]], sample.ids[sample.scored - 1])
            assert torch.equal(micro.old_logprobs[mine], sample.old_logprobs)
    sequences = [
        whole.tolist()
        for micro in micros
        for whole in micro.ids[0][micro.layout.spread].split(list(micro.layout.lengths))
    ]
    assert sorted(sequences) == sorted(sample.ids[: sample.inputs].tolist() for sample in samples)


def test_the_longest_sequence_comes_first_so_that_memory_runs_out_at_once() -> None:
    samples = samples_of(random_groups(40))
    first = next(iter(micro_batches(samples, 30)))
    assert first.layout.lengths[0] == max(sample.inputs for sample in samples)


def replies(*lengths: tuple[int, int, int]) -> list[Sample]:
    """Samples of (prompt, tokens of it, tokens of what follows) that take so many tokens in a row."""
    samples = []
    for prompt, before, own in lengths:
        scored = torch.arange(before + 1, before + own + 1)
        nothing = torch.zeros(own)
        ids = torch.cat([torch.full((before + 1,), prompt), torch.full((own,), 99)])
        samples.append(Sample(ids, scored, nothing, nothing, nothing, own))
    assert [sample.inputs for sample in samples] == [before + own for _, before, own in lengths]
    return samples


def places_of(samples: list[Sample], budget: int) -> list[list[int]]:
    return [sorted(micro.samples) for micro in micro_batches(samples, budget)]


def test_a_sequence_goes_to_the_fullest_row_that_has_room_for_it() -> None:
    # One row after the other, in this order: 7 | 6 4 | 3 3 3 | 2 2, four rows for 30 tokens. Best fit fills three.
    samples = replies(*((prompt, 0, own) for prompt, own in enumerate((7, 6, 4, 3, 3, 3, 2, 2))))
    assert places_of(samples, 10) == [[0, 3], [1, 2], [4, 5, 6, 7]]


def test_sequences_of_a_prompt_stay_together_where_a_row_has_room_for_all() -> None:
    # Prompt 0 takes 2 + 3 + 3 = 8 of 12. Alone, one of its replies would fill up the row of 7; together they go to
    # the row of 4, and the prompt lies in one row only.
    samples = replies((0, 2, 3), (1, 0, 7), (0, 2, 3), (2, 0, 4))
    assert places_of(samples, 12) == [[1], [0, 2, 3]]


def test_a_prompt_of_more_than_a_row_is_cut_longest_first() -> None:
    samples = replies((0, 2, 1), (0, 2, 7), (0, 2, 5), (0, 2, 2))
    assert places_of(samples, 10) == [[0, 1], [2, 3]]


def test_no_samples_make_no_micro_batch() -> None:
    assert list(micro_batches([], 100)) == []
