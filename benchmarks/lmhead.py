"""Peak memory and time of log-probs and their gradients: the sliced head beside full logits, at 152k vocabulary.

Each measurement is a process of its own, so that peaks do not mix; the memory shown is what forward and backward
add to a process that already holds weights and gradients. Nothing here gates anything.

    python benchmarks/lmhead.py
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

VOCABULARY, WIDTH = 151_936, 128
TOKENS = (256, 512, 1024, 2048)
REPEATS = 3


def measure(kind: str, tokens: int) -> dict[str, float]:
    """Forward and backward in this process."""
    import torch

    from reasonkit.train.lm_head import score

    torch.manual_seed(0)
    hidden = torch.randn(tokens, WIDTH).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH).requires_grad_()
    weight.grad, hidden.grad = torch.zeros_like(weight), torch.zeros_like(hidden)
    targets = torch.randint(VOCABULARY, (tokens,))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        if kind == "sliced":
            logprobs, _ = score(hidden, weight, None, targets, 1.0)
        else:
            logits = torch.nn.functional.linear(hidden, weight)
            logprobs = logits.log_softmax(1).gather(1, targets[:, None])[:, 0]
        logprobs.sum().backward()
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"megabytes": (peak - before) / 1024, "seconds": statistics.median(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--one", nargs=2, metavar=("KIND", "TOKENS"), help=argparse.SUPPRESS)
    one = parser.parse_args().one
    if one is not None:
        print(json.dumps(measure(one[0], int(one[1]))))
        return
    print(f"vocabulary {VOCABULARY}, width {WIDTH}, float32, forward and backward, median of {REPEATS}\n")
    print(f"{'tokens':>8} {'full: MB':>10} {'s':>7} {'sliced: MB':>12} {'s':>7}")
    for tokens in TOKENS:
        full, sliced = (
            json.loads(
                subprocess.run(
                    [sys.executable, __file__, "--one", kind, str(tokens)],
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout
            )
            for kind in ("full", "sliced")
        )
        print(
            f"{tokens:>8} {full['megabytes']:>10.0f} {full['seconds']:>7.2f} "
            f"{sliced['megabytes']:>12.0f} {sliced['seconds']:>7.2f}"
        )


if __name__ == "__main__":
    main()
