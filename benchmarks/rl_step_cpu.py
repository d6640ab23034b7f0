"""Tokens per second of a full RL step on a CPU (generate, score, update), beside TRL's GRPOTrainer.

Both sides get the same model, prompts, group size, reward and length distribution, in one process each, one
after the other, on two threads. The model is random; a constant direction in its residual stream
sets the end-of-sequence probability, so that reply lengths are geometric (mean a quarter of the maximum) or all
equal. Half of the prompts have a reward that every reply earns: groups without variance, as in real training.

    python benchmarks/rl_step_cpu.py            # needs trl; prints a table
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

THREADS = 2
PROMPTS, GROUP, PROMPT_TOKENS = 32, 8, 32
VOCABULARY = 256
STEPS = 6  # the first is warm-up and not counted
CASES = {"tail": 128, "uniform": 64}
"""Name to longest reply. On `tail` the mean is a quarter of it."""


def make_model(folder: Path, case: str) -> None:
    """A 0.67M-parameter Llama whose end-of-sequence probability is set by hand."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 20.0  # dominates the norm, so it is a constant after it
        model.lm_head.weight[:, 0] = 0.0
        model.lm_head.weight[0, 0] = -10.0  # padding is never sampled
        rate = 4 / CASES[case] if case == "tail" else 0.0
        odds = rate / (1 - rate) * VOCABULARY if rate else 0.0
        constant = math.sqrt(config.hidden_size)
        model.lm_head.weight[1, 0] = math.log(odds) / constant if odds else -10.0
    model.save_pretrained(folder)
    words = {"<pad>": 0, "<eos>": 1, **{f"t{number}": number for number in range(2, VOCABULARY)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="t2"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")
    fast.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    fast.save_pretrained(folder)


def prompts(step: int) -> list[str]:
    """The step's prompts. An even number at the front means: every reply earns the same."""

    def word(row: int, place: int) -> str:
        digest = hashlib.blake2b(f"{step},{row},{place}".encode(), digest_size=4).digest()
        return f"t{2 + int.from_bytes(digest, 'big') % (VOCABULARY - 2)}"

    return [
        " ".join([f"t{100 + row}", *(word(row, place) for place in range(1, PROMPT_TOKENS))])
        for row in range(PROMPTS)
    ]


def reward(prompt: str, reply: str) -> float:
    if int(prompt.split()[0][1:]) % 2 == 0:
        return 1.0
    return float(hashlib.blake2b(reply.encode(), digest_size=1).digest()[0] % 2)


def trl_steps(folder: Path, case: str) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(THREADS)
    times: list[float] = []
    tokens: list[int] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_args: Any, **_kwargs: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_args: Any, **_kwargs: Any) -> None:
            times.append(time.perf_counter() - self.started)

    def score(prompts: list[str], completions: list[str], completion_ids: Any, **_: Any) -> list[float]:
        tokens.append(sum(map(len, completion_ids)))
        return [reward(prompt, reply) for prompt, reply in zip(prompts, completions, strict=True)]

    with tempfile.TemporaryDirectory() as out:
        config = GRPOConfig(
            output_dir=out,
            per_device_train_batch_size=PROMPTS * GROUP,
            num_generations=GROUP,
            max_completion_length=CASES[case],
            temperature=1.0,
            beta=0.0,
            learning_rate=1e-6,
            max_steps=STEPS,
            logging_steps=1000,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            shuffle_dataset=False,
            disable_tqdm=True,
        )
        rows = [{"prompt": prompt} for step in range(STEPS) for prompt in prompts(step)]
        trainer = GRPOTrainer(
            model=str(folder),
            reward_funcs=score,
            args=config,
            train_dataset=Dataset.from_list(rows),
            callbacks=[Clock()],
        )
        trainer.train()
    return {"times": times, "tokens": tokens}


def reasonkit_steps(folder: Path, case: str, skip: bool) -> dict[str, Any]:
    import torch

    torch.set_num_threads(THREADS)
    return asyncio.run(_reasonkit_steps(folder, case, skip))


async def _reasonkit_steps(folder: Path, case: str, skip: bool) -> dict[str, Any]:
    from reasonkit.advantages import grpo
    from reasonkit.dialogue import Dialogue
    from reasonkit.engines.transformers import TransformersEngine
    from reasonkit.envs.single_turn import SingleTurn
    from reasonkit.recipe import LossConfig, RolloutConfig, TrainConfig
    from reasonkit.records import Message, Record, Verdict
    from reasonkit.rewards import RewardSum
    from reasonkit.rollouts import Draw, Rollouts
    from reasonkit.train.learner import LocalLearner
    from reasonkit.train.model import load_model, load_tokenizer
    from reasonkit.train.packing import assemble, mini_batches

    async def grade(record: Record, text: str) -> Verdict:
        score = reward(record.prompt[0]["content"], text)
        return Verdict.correct(None) if score else Verdict.wrong(None, "")

    tokenizer = load_tokenizer(folder)
    engine = TransformersEngine.from_path(folder, slots=PROMPTS * GROUP)
    rollouts = Rollouts(
        engine,
        Dialogue(tokenizer),
        SingleTurn,
        grade,
        RewardSum({"correctness": 1.0}),
        RolloutConfig(max_tokens=CASES[case]),
        context=512,
        seed=0,
    )
    learner = LocalLearner(
        load_model(folder),
        loss=LossConfig(),
        train=TrainConfig(lr=1e-6),
        skip_zero_advantage=skip,
        total_updates=STEPS,
        max_tokens=CASES[case],
    )
    times, tokens, parts = [], [], []
    for step in range(STEPS):
        records = [
            Record(
                str(row),
                "bench",
                (Message(role="user", content=prompt),),
                "",
                metadata={"prompt_format": "raw"},
            )
            for row, prompt in enumerate(prompts(step))
        ]
        started = time.perf_counter()
        groups = await rollouts.groups(records, Draw("train", step, GROUP))
        sampled = time.perf_counter()
        (batch,) = mini_batches(assemble(groups, grpo(groups)), PROMPTS)
        await learner.step(batch)
        learned = time.perf_counter()
        await engine.load_weights(learner.weights(), version=step + 1)
        times.append(time.perf_counter() - started)
        tokens.append(sum(rollout.sampled_tokens for group in groups for rollout in group.rollouts))
        parts.append((sampled - started, learned - sampled))
    await engine.close()
    return {"times": times, "tokens": tokens, "parts": parts}


def measure(side: str, case: str) -> dict[str, Any]:
    """One side in a process of its own, so that neither warms the other's caches or threads."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        command = [sys.executable, __file__, "--side", side, "--case", case, "--out", str(out)]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env={**os.environ, "TQDM_DISABLE": "1"}
        )
        if done.returncode:
            sys.exit(f"{side} failed on {case}:\n{done.stderr[-2000:]}")
        result: dict[str, Any] = json.loads(out.read_text())
        return result


def rate(result: dict[str, Any]) -> float:
    """Median tokens per second over the steps after the first."""
    return statistics.median(
        count / spent for count, spent in zip(result["tokens"][1:], result["times"][1:], strict=True)
    )


def main() -> None:
    print(
        f"RL step, {PROMPTS}×{GROUP} samples, 0.67M-parameter Llama, {THREADS} threads, median of {STEPS - 1} steps"
    )
    print(f"{'lengths':10}{'side':34}{'tokens/s':>10}{'ratio':>8}{'s/step':>9}{'mean length':>13}")
    for case in CASES:
        peer = measure("trl", case)
        for side, name in (
            ("trl", "TRL GRPOTrainer"),
            ("reasonkit", "reasonkit"),
            ("reasonkit-all", "reasonkit, zero advantages kept"),
        ):
            result = peer if side == "trl" else measure(side, case)
            mean = statistics.mean(result["tokens"]) / (PROMPTS * GROUP)
            print(
                f"{case:10}{name:34}{rate(result):10,.0f}{rate(result) / rate(peer):8.2f}"
                f"{statistics.median(result['times'][1:]):9.2f}{mean:13.1f}"
            )
            if "parts" in result:
                sampling, learning = (
                    statistics.median(part[at] for part in result["parts"][1:]) for at in (0, 1)
                )
                print(f"{'':10}  of which generate and score {sampling:.2f} s, update {learning:.2f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", choices=["trl", "reasonkit", "reasonkit-all"])
    parser.add_argument("--case", choices=list(CASES))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.side is None:
        main()
    else:
        with tempfile.TemporaryDirectory() as folder:
            make_model(Path(folder), arguments.case)
            if arguments.side == "trl":
                steps = trl_steps(Path(folder), arguments.case)
            else:
                steps = reasonkit_steps(Path(folder), arguments.case, skip=arguments.side == "reasonkit")
        arguments.out.write_text(json.dumps(steps))
