"""The benchmark of training on a GPU runs where there is none, and says what it could not measure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "gpu_train.py"


@pytest.mark.slow
def test_its_smoke_run_measures_every_learner_and_the_loss_of_half_precision(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--smoke", "--json", str(figures)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(figures.read_text())
    assert {"clipped:smoke", "nll:smoke", "parity:smoke"} <= rows.keys()
    for name in ("clipped:smoke", "nll:smoke"):
        assert rows[name]["tokens_per_second"] > 0, rows[name]
        if not torch.cuda.is_available():
            assert rows[name]["mfu"] is None, "of a CPU no peak is known"
            assert rows[name]["peak_gigabytes"] is None
    assert 0 < rows["parity:smoke"]["difference"] < 0.01, rows["parity:smoke"]
