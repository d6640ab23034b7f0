"""Every check of the project, each in its own virtual environment. `nox -l` lists them.

The virtualenv backend with pip, always: torch, vllm and transformers are pinned in step, and pip's own
settings (an index of CPU builds, say) must apply.
"""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "virtualenv"
nox.options.sessions = ["lint", "tests"]
nox.options.reuse_existing_virtualenvs = True
nox.needs_version = ">=2025.5.1"

PYPROJECT = nox.project.load_toml("pyproject.toml")


def install(session: nox.Session, *groups: str) -> None:
    """The package as a user gets it, with the named dependency groups."""
    # torch first and by its own range: no other package's requirement may pick the build.
    session.install("torch>=2.13,<2.14")
    session.install(
        "-e", ".", *(each for group in groups for each in nox.project.dependency_groups(PYPROJECT, group))
    )


@nox.session
def lint(session: nox.Session) -> None:
    """Style, types, layering and size ceilings."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports")
    session.run("python", "tests/ceilings.py")


@nox.session
def tests(session: nox.Session) -> None:
    """The default test run."""
    install(session, "tests")
    session.run("pytest", "-n", "2", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Tests that are left out of the default run: full audits, soaks, long attacks."""
    install(session, "tests")
    session.run("pytest", "-m", "slow", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks, each beside its peer: `nox -s bench -- rl_step_cpu`. Nothing here gates anything."""
    install(session, "tests", "bench")
    names = session.posargs or ["help", "generate", "rl_step_cpu"]
    for name in names:
        session.run("python", f"benchmarks/{name}.py")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation as a site, every link and page checked."""
    session.install("zensical>=0.1,<1")
    session.run("zensical", "build", "--clean", "--strict")
