"""Programs in every language that this machine has: streams, status, limits, files, compiled once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from reasonkit.errors import UsageError
from reasonkit.sandbox import Limits, ProgramJob, ProgramResult, RunStatus, languages, open_sandbox
from reasonkit.sandbox.local import LocalSandbox

S = RunStatus
ECHO = {
    "python": "import sys; print(input(), *sys.argv[1:])",
    "cpp": "#include <iostream>\nint main(int n, char** a) { std::string s; std::cin >> s;"
    ' std::cout << s << " " << a[1] << "\\n"; }',
    "java": "import java.util.*; public class Echo { static class Node {} public static void main(String[] a) {"
    ' System.out.println(new Scanner(System.in).next() + " " + a[0]); } }',
    "nodejs": "console.log(require('fs').readFileSync(0, 'utf8').trim(), process.argv[2])",
    "go": 'package main\nimport ("fmt"; "os")\nfunc main() { var s string; fmt.Scan(&s);'
    " fmt.Println(s, os.Args[1]) }",
    "rust": "fn main() { let mut s = String::new(); std::io::stdin().read_line(&mut s).unwrap();"
    ' println!("{} {}", s.trim(), std::env::args().nth(1).unwrap()); }',
    "bash": 'read -r line; echo "$line" "$1"',
}
BROKEN = {
    "cpp": "int main() { return undefined_name; }",
    "java": "class A { nonsense }",
    "go": "package main\nfunc main() { undefined() }",
    "rust": "fn main() { undefined(); }",
}
HOARD = {
    "cpp": "#include <cstring>\nint main() { for (;;) { char* p = new char[1 << 24]; memset(p, 1, 1 << 24); } }",
    "java": "import java.util.*; class A { public static void main(String[] a) { List<int[]> l = new ArrayList<>();"
    " for (;;) l.add(new int[1 << 20]); } }",
    "nodejs": "const l = []; for (;;) l.push(Buffer.alloc(1 << 24, 1));",
    "python": "l = []\nwhile True: l.append(b'x' * (1 << 24))",
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[LocalSandbox]:
    opened = asyncio.run(open_sandbox(workers=2))
    assert isinstance(opened, LocalSandbox)
    yield opened
    opened.close_blocking()


def needs(language: str) -> None:
    if languages()[language] is None:
        pytest.skip(f"no toolchain for {language} here")


def run(sandbox: LocalSandbox, language: str, code: str, **options: object) -> ProgramResult:
    return sandbox.run_blocking(ProgramJob(language, code, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("language", ECHO)
def test_a_program_reads_its_input_and_arguments(sandbox: LocalSandbox, language: str) -> None:
    needs(language)
    done = run(sandbox, language, ECHO[language], stdin="hello\n", args=("world",))
    assert (done.status, done.stdout, done.return_code) == (S.OK, "hello world\n", 0), done


@pytest.mark.parametrize("language", BROKEN)
def test_what_does_not_compile_says_why(sandbox: LocalSandbox, language: str) -> None:
    needs(language)
    done = run(sandbox, language, BROKEN[language])
    assert done.status == S.COMPILE_ERROR
    assert "error" in done.compile_output or "undefined" in done.compile_output


@pytest.mark.parametrize("language", HOARD)
def test_memory_is_bounded_in_every_runtime(sandbox: LocalSandbox, language: str) -> None:
    needs(language)
    done = run(sandbox, language, HOARD[language], limits=Limits(memory_mb=256, cpu_seconds=20))
    assert done.status == S.MEMORY, done


def test_a_source_is_compiled_once_for_all_its_tests(sandbox: LocalSandbox) -> None:
    needs("cpp")
    code = (
        "#include <iostream>\nint main() { int n; std::cin >> n; std::cout << n * n; return n == 3; } // once"
    )

    before = len(sandbox._compiler._known)

    async def scenario() -> list[ProgramResult]:
        return list(
            await asyncio.gather(*(sandbox.run(ProgramJob("cpp", code, stdin=str(n))) for n in range(8)))
        )

    results = asyncio.run(scenario())
    assert [result.stdout for result in results] == [str(n * n) for n in range(8)]
    assert [result.return_code for result in results] == [0, 0, 0, 1, 0, 0, 0, 0]
    assert len(sandbox._compiler._known) == before + 1


def test_the_compiler_is_in_the_sandbox_too(sandbox: LocalSandbox) -> None:
    needs("cpp")
    done = run(sandbox, "cpp", '#include "/etc/shadow"\nint main() {}')
    assert done.status == S.COMPILE_ERROR
    assert "root:" not in done.compile_output


def test_files_go_in_and_chosen_files_come_out(sandbox: LocalSandbox) -> None:
    code = "import pathlib\ntext = pathlib.Path('data/in.txt').read_text()\npathlib.Path('out').mkdir()\n"
    code += "pathlib.Path('out/a.txt').write_text(text[::-1])\npathlib.Path('b.bin').write_bytes(b'b')"
    done = run(sandbox, "python", code, files={"data/in.txt": b"abc"}, collect=("out/*.txt",))
    assert done.status == S.OK, done
    assert dict(done.files) == {"out/a.txt": b"cba"}


@pytest.mark.parametrize("name", ["../up", "/abs", "a/../../b", ""])
def test_files_with_names_that_lead_out_are_refused(sandbox: LocalSandbox, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be called"):
        run(sandbox, "python", "", files={name: b""})


def test_exit_status_and_signals(sandbox: LocalSandbox) -> None:
    assert run(sandbox, "python", "import sys; sys.exit(7)").return_code == 7
    assert run(sandbox, "python", "import sys; sys.exit('why')").stderr == "why\n"
    failed = run(sandbox, "python", "print('x'); 1/0")
    assert (failed.status, failed.stdout, failed.return_code) == (S.RUNTIME_ERROR, "x\n", 1)
    assert "ZeroDivisionError" in failed.stderr
    crashed = run(sandbox, "bash", "kill -SEGV $$")
    assert (crashed.status, crashed.return_code) == (S.RUNTIME_ERROR, -11)


def test_cpu_wall_and_output_limits(sandbox: LocalSandbox) -> None:
    spin = run(sandbox, "bash", "while :; do :; done", limits=Limits(cpu_seconds=0.4))
    assert spin.status == S.CPU_TIMEOUT
    children = "for i in 1 2 3 4; do (while :; do :; done) & done; wait"
    shared = run(sandbox, "bash", children, limits=Limits(cpu_seconds=0.6))
    assert shared.status == S.CPU_TIMEOUT
    assert shared.cpu_seconds < 3
    sleeper = run(sandbox, "bash", "sleep 60", limits=Limits(wall_seconds=0.3))
    assert sleeper.status == S.WALL_TIMEOUT
    flood = run(sandbox, "bash", "yes", limits=Limits(output_bytes=5000))
    assert (flood.status, len(flood.stdout)) == (S.OUTPUT_LIMIT, 5000)


def test_a_program_that_cannot_be_executed_is_the_programs_fault(sandbox: LocalSandbox) -> None:
    """A solution must not be able to turn a wrong answer into an infrastructure error that is not counted."""
    needs("cpp")
    code = 'asm(".section .interp,\\"a\\"\\n.ascii \\"/nonexistent\\\\0\\"\\n.text");\nint main() {}'
    done = run(sandbox, "cpp", code)
    assert done.status in (S.RUNTIME_ERROR, S.COMPILE_ERROR, S.OK)
    assert done.status != S.SANDBOX_ERROR
