"""What an evaluation was made with, for evaluation.json: enough to make it again, or to say why it differs."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reasonkit import __version__, verifiers
from reasonkit.evaluate.run import Options
from reasonkit.evaluate.work import TaskPlan
from reasonkit.installed import gpu_names, versions
from reasonkit.models import FoundModel

PACKAGES = ("torch", "transformers", "tokenizers", "vllm", "math-verify", "reasoning-gym")


def about(models: Sequence[FoundModel], plans: Sequence[TaskPlan], options: Options) -> dict[str, Any]:
    """All but the models' identities, which the folder itself keeps."""
    return {
        "version": __version__,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "names": {found.label: found.text for found in models},
        "tasks": {plan.name: dict(plan.pins or {}) for plan in plans},
        "grader": {"mode": options.grader, "source": grader_version()},
        "packages": versions(PACKAGES),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "gpus": gpu_names(),
    }


def grader_version() -> str:
    """A hash of the verifiers' source: verdicts under one hash are comparable."""
    assert verifiers.__file__ is not None
    total = hashlib.blake2b(digest_size=8)
    for file in sorted(Path(verifiers.__file__).parent.glob("*.py")):
        total.update(file.read_bytes())
    return total.hexdigest()
