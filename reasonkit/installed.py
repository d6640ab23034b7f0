"""What a result depends on besides its recipe: versions of packages, and the devices of this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from importlib import metadata


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def gpu_names() -> list[str]:
    """Of the GPUs that this process sees. It takes some memory of the first one, until the process ends."""
    import torch

    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
