"""`reasonkit export`: a checkpoint becomes a model folder that transformers loads, with a truthful card."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.export import export_checkpoint, model_card
from reasonkit.rundir import RunDir
from tests.synthetic_run import write_run

STEPS = 4


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run with the checkpoints of two steps, each a real tiny model with what resuming needs beside it."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    run = write_run(tmp_path / "runs" / "mine", steps=STEPS)
    config = LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(
            models.WordLevel({str(digit): digit for digit in range(16)}, unk_token="0")
        ),
        unk_token="0",
    )
    for step in (2, STEPS):
        torch.manual_seed(step)
        LlamaForCausalLM(config).save_pretrained(run.checkpoint(step))
        tokenizer.save_pretrained(run.checkpoint(step))
        (run.checkpoint(step) / "training").mkdir()
        (run.checkpoint(step) / "training" / "training.safetensors").write_bytes(b"0" * 100)
        (run.checkpoint(step) / "state.json").write_text("{}")
    return run


def front_matter(card: str) -> dict[str, object]:
    content: dict[str, object] = yaml.safe_load(card.split("---\n")[1])
    return content


def test_the_folder_loads_in_transformers_with_the_checkpoints_weights(run: RunDir, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    exported = export_checkpoint(run, None, tmp_path / "out")
    assert exported.step == STEPS
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    original = AutoModelForCausalLM.from_pretrained(run.checkpoint(STEPS))
    other = AutoModelForCausalLM.from_pretrained(run.checkpoint(2))
    assert model.lm_head.weight.equal(original.lm_head.weight)
    assert not model.lm_head.weight.equal(other.lm_head.weight)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").vocab_size == 16


def test_what_only_resuming_needs_stays_behind(run: RunDir, tmp_path: Path) -> None:
    export_checkpoint(run, None, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    assert not names & {"training", "state.json"}


def test_a_step_can_be_chosen(run: RunDir, tmp_path: Path) -> None:
    assert export_checkpoint(run, 2, tmp_path / "out").step == 2
    assert (tmp_path / "out/model.safetensors").read_bytes() == (
        run.checkpoint(2) / "model.safetensors"
    ).read_bytes()


def test_a_step_that_was_not_kept_names_those_that_were(run: RunDir, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no checkpoint of step 3, only of 2, 4") as error:
        export_checkpoint(run, 3, tmp_path / "out")
    assert f"{run.path}@4" in error.value.hint


def test_a_run_without_checkpoints_says_so(tmp_path: Path) -> None:
    with pytest.raises(ReasonkitError, match="has no checkpoint yet"):
        export_checkpoint(write_run(tmp_path / "run", steps=2), None, tmp_path / "out")


def test_an_existing_folder_is_never_written_over(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        export_checkpoint(run, None, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious"]


def test_an_empty_folder_is_filled(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export_checkpoint(run, None, tmp_path / "out")
    assert (tmp_path / "out" / "config.json").exists()


class TestCard:
    def test_it_says_what_was_measured(self, run: RunDir) -> None:
        card = model_card(run, STEPS, "mine")
        after = run.info()["after"]["sampled"]
        assert "architecture `llama`" in card
        assert (
            f"{100 * after['accuracy']:.1f} % ({100 * after['low']:.1f} to {100 * after['high']:.1f})" in card
        )
        assert "torch 2.13.0" in card
        assert "4 steps of `grpo`" in card

    def test_numbers_of_another_step_are_not_claimed(self, run: RunDir) -> None:
        card = model_card(run, 2, "mine")
        table = next(line for line in card.splitlines() if line.startswith("| replies"))
        assert "before" in table
        assert "after" not in table

    def test_a_model_from_scratch_names_no_base_and_local_data_no_dataset(self, run: RunDir) -> None:
        metadata = front_matter(model_card(run, STEPS, "mine"))
        assert metadata["library_name"] == "transformers"
        assert "base_model" not in metadata
        assert "datasets" not in metadata

    def test_hub_names_are_linked(self, run: RunDir) -> None:
        run.recipe.write_text(
            "name: x\nmodel: {path: Qwen/Qwen3-0.6B}\ndata: {train: [{name: 'hf:org/problems@main'}]}\n"
        )
        metadata = front_matter(model_card(run, STEPS, "mine"))
        assert metadata["base_model"] == "Qwen/Qwen3-0.6B"
        assert metadata["datasets"] == ["org/problems"]

    def test_nothing_unknown_is_left_to_fill_in(self, run: RunDir) -> None:
        card = model_card(run, STEPS, "mine").lower()
        assert not [
            word for word in ("more information needed", "unknown", "none", "null", "todo") if word in card
        ]
