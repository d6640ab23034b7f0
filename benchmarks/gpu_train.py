"""Training speed on one GPU: tokens/s, MFU and peak memory of Qwen2.5-shaped models on packed rows in bfloat16.

Weights and tokens are random: what is measured is one optimizer update of the learner that `reasonkit train` uses,
on sequences of mixed lengths that fill rows of 8k tokens. Needs torch, transformers, peft and reasonkit; TRL's
SFTTrainer trains on the same sequences beside it where it is installed (an update of imitation: TRL has no update
on given rollouts). Parity compares bfloat16 with float32 losses of one small model. Nothing here gates anything.

    python benchmarks/gpu_train.py                 # 0.5B, 1.5B and 7B on the GPU
    python benchmarks/gpu_train.py --smoke         # does it run? on a CPU, with a model of nothing
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROW = 8192
PROMPT = 256
LENGTHS = (4096, 2048, 1024, 1024)
"""Of the sequences of a row."""
SHAPES: dict[str, dict[str, int | bool]] = {
    "0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
             "num_key_value_heads": 2, "tie_word_embeddings": True, "vocab_size": 151_936},
    "1.5B": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
             "num_key_value_heads": 2, "tie_word_embeddings": True, "vocab_size": 151_936},
    "7B": {"hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28, "num_attention_heads": 28,
           "num_key_value_heads": 4, "tie_word_embeddings": False, "vocab_size": 152_064},
    "smoke": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "tie_word_embeddings": True, "vocab_size": 512},
}  # fmt: skip
WARM_UPS, STEPS = 2, 5


def make_model(shape: str, device: str, dtype: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    torch.manual_seed(0)
    config = Qwen2Config(max_position_embeddings=ROW, **SHAPES[shape])
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


def sequences(shape: str, rows: int) -> list[Any]:
    """Random ids, row by row."""
    import torch

    draw = torch.Generator().manual_seed(0)
    scale = 32 if shape == "smoke" else 1
    vocabulary = int(SHAPES[shape]["vocab_size"])
    return [
        torch.randint(vocabulary, (length // scale,), generator=draw)
        for _ in range(rows)
        for length in LENGTHS
    ]


def batch_of(ids: list[Any]) -> Any:
    import torch

    from reasonkit.train.packing import Sample, make_batch

    samples = []
    for sequence in ids:
        prompt = min(PROMPT, len(sequence) // 4)
        scored = torch.arange(prompt, len(sequence))
        numbers = torch.ones(len(scored))
        samples.append(Sample(sequence, scored, -numbers, -numbers, numbers, len(scored)))
    return make_batch(samples)


def our_steps(
    shape: str, device: str, dtype: Any, rows: int, policy: str, save_memory: list[str], compile_: bool
) -> Any:
    """Seconds of each update, the loss of each, and the rank that made them."""
    import torch

    from reasonkit.recipe import LossConfig, TrainConfig
    from reasonkit.train.mesh import Mesh, open_mesh
    from reasonkit.train.rank import LearnerSettings, Rank

    settings = LearnerSettings(
        loss=LossConfig(policy=policy),
        train=TrainConfig(lr=1e-6, token_budget=ROW, save_memory=save_memory, compile=compile_),
        total_updates=100,
        max_tokens=ROW,
        dtype=dtype,
    )
    with tempfile.TemporaryDirectory() as folder:
        mesh = (
            open_mesh(0, 1, device=device, address=f"file://{folder}/rendezvous", parallel={})
            if device == "cuda"
            else Mesh(torch.device(device))
        )
    rank = Rank(make_model(shape, device, torch.float32), settings, mesh=mesh)
    batch = batch_of(sequences(shape, rows))
    seconds, losses = [], []
    for _ in range(WARM_UPS + STEPS):
        started = time.perf_counter()
        losses.append(rank.step(batch)["loss"])  # reads numbers back, and so waits for the GPU
        seconds.append(time.perf_counter() - started)
    return seconds[WARM_UPS:], losses, batch


def trl_steps(shape: str, device: str, rows: int, save_memory: list[str]) -> list[float]:
    """The same sequences, one update of TRL's SFTTrainer each time."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.moments: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if device == "cuda":
                torch.cuda.synchronize()
            self.moments.append(time.perf_counter())

    ids = [sequence.tolist() for sequence in sequences(shape, rows)]
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=len(ids),
            max_steps=WARM_UPS + STEPS,
            max_length=None,
            bf16=device == "cuda",
            use_cpu=device == "cpu",
            gradient_checkpointing="checkpoint_activations" in save_memory,
            report_to="none",
            save_strategy="no",
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
        )
        trainer = SFTTrainer(
            model=make_model(shape, device, torch.float32),
            args=arguments,
            train_dataset=Dataset.from_list([{"input_ids": each} for each in ids]),
            processing_class=_tokenizer(),
            callbacks=[clock],
        )
        trainer.train()
    return [after - before for before, after in zip(clock.moments, clock.moments[1:], strict=False)][
        WARM_UPS - 1 :
    ]


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<end>": 0}, unk_token="<end>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>")


def measure(what: str, options: argparse.Namespace) -> dict[str, Any]:
    """One model, in this process."""
    import torch

    from reasonkit.train.flops import ModelFlops, peak_flops

    device = "cuda" if torch.cuda.is_available() else "cpu"
    who, _, shape = what.partition(":")
    half = torch.bfloat16
    if who == "parity":
        losses = {
            str(dtype): our_steps(shape, device, dtype, 1, "nll", [], False)[1][0]
            for dtype in (torch.float32, half)
        }
        whole, low = losses.values()
        return {**losses, "difference": abs(low - whole) / abs(whole)}
    if who == "trl":
        seconds = trl_steps(shape, device, options.rows, options.save_memory)
        batch = batch_of(sequences(shape, options.rows))
    else:
        seconds, _, batch = our_steps(
            shape, device, half, options.rows, who, options.save_memory, options.compile
        )
    tokens = sum(sample.ids.numel() for sample in batch.samples)
    operations = ModelFlops.of(make_model(shape, "meta", half).config).training(
        tokens, batch.tokens, [sample.ids.numel() for sample in batch.samples]
    )
    second = statistics.median(seconds)
    peak = peak_flops(torch.cuda.get_device_name()) if device == "cuda" else None
    return {
        "seconds": second,
        "tokens_per_second": tokens / second,
        "tflops": operations / second / 1e12,
        "mfu": operations / second / peak if peak else None,
        "peak_gigabytes": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
    }


def alone(what: str, options: argparse.Namespace) -> dict[str, Any]:
    """In a process of its own, so that peaks of memory do not mix."""
    arguments = [sys.executable, __file__, "--one", what, "--rows", str(options.rows)]
    arguments += [f"--save-memory={way}" for way in options.save_memory]
    done = subprocess.run(
        [*arguments, *(["--compile"] if options.compile else [])], check=False, capture_output=True, text=True
    )
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1][:100]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="a tiny model, on whatever there is")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["0.5B", "1.5B", "7B"])
    parser.add_argument("--rows", type=int, default=4, help="rows of 8k tokens an update")
    parser.add_argument("--save-memory", action="append", default=[])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options)))
        return
    shapes = ["smoke"] if options.smoke else options.shapes
    small = "smoke" if options.smoke else "0.5B"
    # The loss that RL takes, that of imitation, and TRL's imitation.
    learners = ["clipped", "nll", *(["trl"] if importlib.util.find_spec("trl") else [])]
    results = {f"{who}:{shape}": alone(f"{who}:{shape}", options) for shape in shapes for who in learners}
    results[f"parity:{small}"] = alone(f"parity:{small}", options)
    print(f"{'':>14} {'s/update':>9} {'tokens/s':>10} {'TFLOP/s':>8} {'MFU':>6} {'peak GB':>8}")
    for what, row in results.items():
        if "failed" in row or what.startswith("parity"):
            print(f"{what:>14} {row}")
            continue
        mfu = "–" if row["mfu"] is None else f"{row['mfu']:.1%}"
        memory = "–" if row["peak_gigabytes"] is None else f"{row['peak_gigabytes']:.1f}"
        print(
            f"{what:>14} {row['seconds']:>9.3f} {row['tokens_per_second']:>10,.0f} {row['tflops']:>8.2f} {mfu:>6} "
            f"{memory:>8}  {row['device']}"
        )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
