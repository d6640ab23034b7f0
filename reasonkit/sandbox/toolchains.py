"""Which languages this machine can compile and run, and with what commands.

A toolchain is looked for on PATH; folders outside /usr that it needs are made visible inside the sandbox,
read-only. A job in a language without a toolchain is an error that says what to install, never a wrong answer.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from reasonkit.errors import ReasonkitError, UsageError, nearest
from reasonkit.sandbox.jobs import Limits

COMPILE_LIMITS = Limits(
    cpu_seconds=60.0, wall_seconds=120.0, memory_mb=3072, output_bytes=200_000, processes=True
)


def _run_binary(_path: str, _main: str, _memory_mb: int) -> list[str]:
    return ["./main"]


@dataclass(frozen=True)
class Language:
    """Commands are given the toolchain's path; to run, also the main class and the memory in MB.

    `artifacts` are patterns of what compiling leaves and running needs. A runtime that reserves far more
    addresses than it uses (`address_space` off) has its memory watched instead of its addresses limited.
    """

    name: str
    programs: tuple[str, ...]
    install: str
    source: str = ""
    compile: Callable[[str], list[str]] | None = None
    run: Callable[[str, str, int], list[str]] = _run_binary
    artifacts: tuple[str, ...] = ()
    address_space: bool = True
    processes: bool = False


def _run_java(path: str, main: str, memory_mb: int) -> list[str]:
    java = str(Path(path).with_name("java"))
    tuning = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Xss64m"]
    return [java, *tuning, f"-Xmx{max(memory_mb - 64, 32)}m", "-cp", ".", main]


def _compile_java(path: str) -> list[str]:
    return [
        path,
        "-J-XX:+UseSerialGC",
        "-J-XX:TieredStopAtLevel=1",
        "-J-XX:-UsePerfData",
        "-nowarn",
        "-d",
        ".",
    ]


_TABLE = {
    "python": Language("python", (), ""),
    "pytest": Language("pytest", (), "pip install pytest"),
    "cpp": Language(
        "cpp", ("g++",), "apt-get install g++", "main.cpp",
        compile=lambda path: [path, "-O2", "-std=gnu++17", "-o", "main", "main.cpp"],
        artifacts=("main",),
    ),
    "java": Language(
        "java", ("javac",), "apt-get install default-jdk-headless", "Main.java",
        compile=_compile_java, run=_run_java, artifacts=("*.class",), address_space=False,
    ),
    "nodejs": Language(
        "nodejs", ("node", "nodejs"), "apt-get install nodejs", "main.js",
        run=lambda path, _main, memory: [path, "--stack-size=65500", f"--max-old-space-size={memory}", "main.js"],
        address_space=False,
    ),
    "go": Language(
        "go", ("go",), "apt-get install golang-go", "main.go",
        compile=lambda path: [path, "build", "-o", "main", "main.go"],
        artifacts=("main",), address_space=False,
    ),
    "rust": Language(
        "rust", ("rustc",), "apt-get install rustc", "main.rs",
        compile=lambda path: [path, "-O", "--edition", "2021", "-o", "main", "main.rs"],
        artifacts=("main",),
    ),
    "bash": Language(
        "bash", ("bash",), "apt-get install bash", "main.sh",
        run=lambda path, _main, _memory: [path, "main.sh"], processes=True,
    ),
}  # fmt: skip

_ALIASES = {
    "py": "python", "python3": "python", "c++": "cpp", "cxx": "cpp", "javascript": "nodejs", "js": "nodejs",
    "node": "nodejs", "golang": "go", "rs": "rust", "sh": "bash", "shell": "bash",
}  # fmt: skip


def language(name: str) -> Language:
    known = _ALIASES.get(name.lower(), name.lower())
    if known not in _TABLE:
        raise UsageError(f"the sandbox runs no '{name}'", nearest(name, [*_TABLE, *_ALIASES]))
    return _TABLE[known]


def languages() -> dict[str, str | None]:
    """Each language with the path of its toolchain, or None where it is missing."""
    return {name: _toolchain(name) for name in _TABLE}


def toolchain(name: str, *, as_other_user: bool = False) -> str:
    """The path of a language's toolchain; an error with the install command where there is none that the worker's
    user can reach."""
    found = _toolchain(name)
    if found is not None and as_other_user and name != "python":
        usable = open_to_all(found) and (
            name != "pytest" or bool(site_packages(interpreter(as_other_user=True)))
        )
        found = found if usable else None
    if found is None:
        chosen = _TABLE[name]
        looked_for = " or ".join(chosen.programs) or name
        raise ReasonkitError(
            f"no toolchain for '{name}' on this machine ({looked_for} not found)", chosen.install
        )
    return found


@functools.cache
def _toolchain(name: str) -> str | None:
    if name == "python":
        return sys.executable
    if name == "pytest":
        spec = find_spec("pytest")
        return None if spec is None else spec.origin
    for program in _TABLE[name].programs:
        found = shutil.which(program)
        if found is not None:
            return _rustc_itself(found) if name == "rust" else str(Path(found).resolve())
    return None


def _rustc_itself(found: str) -> str | None:
    """rustup puts a chooser in front of the compiler, which needs its own configuration; the compiler does not."""
    asked = subprocess.run([found, "--print", "sysroot"], capture_output=True, text=True, check=False)
    compiler = Path(asked.stdout.strip(), "bin", "rustc")
    return str(compiler) if asked.returncode == 0 and compiler.exists() else None


def visible_folders() -> tuple[str, ...]:
    """Folders outside /usr that jobs need: the standard library, installed packages, toolchains."""
    base = Path(sys.base_prefix)
    wanted = [base / "bin", base / "lib", base / "lib64", *(Path(folder) for folder in site_packages())]
    for name in ("cpp", "java", "nodejs", "go", "rust"):
        path = _toolchain(name)
        if path is not None:
            wanted.append(Path(path).parent.parent)
    folders = sorted({str(folder.resolve()) for folder in wanted if folder.is_dir()})
    kept: list[str] = []
    for folder in folders:
        if not any(Path(folder).is_relative_to(outer) for outer in ("/usr", "/lib", "/bin", *kept)):
            kept.append(folder)
    return tuple(kept)


def site_packages(for_interpreter: str = "") -> list[str]:
    """Installed packages, which jobs may import, if the worker runs the interpreter that they are for."""
    if for_interpreter and for_interpreter != _base_interpreter():
        return []
    return sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})


def _base_interpreter() -> str:
    below: str = vars(sys)["_base_executable"]  # a virtual environment hides it everywhere else
    return str(Path(below).resolve())


def interpreter(*, as_other_user: bool) -> str:
    """The Python that workers run on: the one below this environment, or the system's when root's own lies
    where the unprivileged user that the worker becomes cannot look (`/root`)."""
    if not as_other_user or open_to_all(_base_interpreter()):
        return _base_interpreter()
    system = shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin")
    question = "import sys; print(*sys.version_info[:2])"
    if system is not None:
        answer = subprocess.run([system, "-c", question], capture_output=True, text=True, check=False)
        if answer.returncode == 0 and tuple(int(part) for part in answer.stdout.split()) >= (3, 11):
            return system
    raise ReasonkitError(
        f"unprivileged users cannot run {_base_interpreter()}, and there is no other Python 3.11",
        "apt-get install python3, or run reasonkit as an unprivileged user",
    )


def open_to_all(path: str) -> bool:
    parents = Path(path).resolve().parents
    return all(parent.stat().st_mode & 0o001 for parent in parents)


_JAVA_TYPE = re.compile(r"\b(?:class|interface|enum|record)\s+(\w+)")


def java_names(code: str) -> tuple[str, str]:
    """The file name that javac insists on and the class that holds `main`, as far as the text shows."""
    package = re.search(r"^\s*package\s+([\w.]+)\s*;", code, re.MULTILINE)
    public = re.search(
        r"\bpublic\s+(?:(?:final|abstract|strictfp)\s+)*(?:class|interface|enum|record)\s+(\w+)", code
    )
    entry = re.search(r"\bstatic\s+(?:final\s+)?void\s+main\s*\(", code)
    holder = public.group(1) if public else "Main"
    if entry:
        for declared in _JAVA_TYPE.finditer(code, 0, entry.start()):
            before = code[: declared.start()]
            if before.count("{") == before.count("}"):
                holder = declared.group(1)  # the last type at the top level before `main` is around it
    main = f"{package.group(1)}.{holder}" if package else holder
    return f"{public.group(1) if public else 'Main'}.java", main
