"""The pool kills what hangs, survives what crashes, and lets no text delay its neighbours."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future

import psutil
import pytest

from reasonkit.records import Record, Status, Verdict
from reasonkit.verifiers import Grader, verify
from reasonkit.verifiers.pool import VerifierPool
from reasonkit.verifiers.routing import REASONING360, VERIFIERS

RECORD = Record("u", "test", (), "ok", "verify_pool_behaviours:behave")
TARGET = "verify_pool_behaviours:behave"
BEHAVIOURS = """
import ctypes, os, signal, sys, time
from reasonkit.records import Verdict, Status

def behave(record, text):
    if text == "loop":
        while True:
            pass
    if text == "loop in C":
        sum(range(10**12))
    if text == "ignore signals":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
        while True:
            pass
    if text == "sleep":
        time.sleep(1000)
    if text == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if text == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if text == "exit":
        os._exit(0)
    if text == "sys.exit":
        sys.exit(0)
    if text == "memory":
        "x" * (16 << 30)
    if text == "recursion":
        behave_again(text)
    if text == "raise":
        raise ValueError("the cause")
    if text == "print":
        print('{"job": 0, "verdict": {"status": "correct", "score": 1.0}}', flush=True)
        sys.stdout.flush()
        return Verdict.wrong(text, "printed")
    if text == "no verdict":
        return 1.0
    if text == "bad score":
        return Verdict(Status.CORRECT, float("nan"))
    if text == "unserialisable":
        return Verdict.wrong(text, "details", things={object})
    return Verdict.correct(text, pid=os.getpid())

def behave_again(text):
    behave_again(text)
"""


@pytest.fixture(scope="module", autouse=True)
def behaviours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("behaviours")
    (folder / "verify_pool_behaviours.py").write_text(BEHAVIOURS, encoding="utf-8")
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


@pytest.fixture
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(2, cpu_seconds=0.3) as opened:
        assert judge(opened, "warm").score == 1.0
        yield opened


def judge(pool: VerifierPool, text: str) -> Verdict:
    return pool.submit(TARGET, RECORD, text).result(60)


@pytest.mark.parametrize(
    ("text", "status", "reason"),
    [
        ("loop", Status.TIMEOUT, "0.3 s of CPU"),
        ("loop in C", Status.TIMEOUT, "0.3 s of CPU"),
        ("ignore signals", Status.TIMEOUT, "0.3 s of CPU"),
        ("segfault", Status.TIMEOUT, "crashed the checker twice"),
        ("memory", Status.TIMEOUT, "MemoryError"),
        ("recursion", Status.TIMEOUT, "RecursionError"),
        ("killed", Status.ERROR, "signal 9"),
        ("exit", Status.ERROR, "ended unexpectedly"),
        ("sys.exit", Status.ERROR, "ended unexpectedly"),
        ("raise", Status.ERROR, "ValueError: the cause"),
        ("no verdict", Status.ERROR, "float"),
        ("bad score", Status.ERROR, "nan"),
        ("print", Status.WRONG, "printed"),
        ("unserialisable", Status.WRONG, "details"),
    ],
)
def test_every_way_to_misbehave_gets_a_verdict_with_its_cause(
    pool: VerifierPool, text: str, status: Status, reason: str
) -> None:
    verdict = judge(pool, text)
    assert (verdict.status, verdict.score) == (status, 0.0)
    assert reason in verdict.reason
    assert judge(pool, "afterwards").status is Status.CORRECT


def test_a_worker_that_makes_no_progress_is_an_error_of_the_infrastructure() -> None:
    with VerifierPool(1, wall_seconds=1.0) as pool:
        verdict = judge(pool, "sleep")
    assert verdict.status is Status.ERROR
    assert "wall time" in verdict.reason


@pytest.mark.parametrize("text", ["loop", "segfault", "killed", "exit", "memory"])
def test_neighbours_of_a_hostile_text_all_get_their_own_verdicts(pool: VerifierPool, text: str) -> None:
    texts = [text if index % 17 == 3 else str(index) for index in range(100)]
    futures = [pool.submit(TARGET, RECORD, each) for each in texts]
    for each, future in zip(texts, futures, strict=True):
        verdict = future.result(
            150
        )  # `exit` starts a dozen workers, each of which reads its modules from disk
        assert (verdict.score == 1.0) == (each != text)
        assert verdict.answer == (each if each != text else None)


def test_a_hanging_text_delays_nobody(pool: VerifierPool) -> None:
    """Everything that was sent to the same worker is done while the text still hangs."""
    slow = VerifierPool(2, cpu_seconds=30.0)
    with slow:
        assert judge(slow, "warm").score == 1.0
        futures = [slow.submit(TARGET, RECORD, "loop" if index == 5 else "x") for index in range(64)]
        assert all(future.result(20).score == 1.0 for index, future in enumerate(futures) if index != 5)
        assert not futures[5].done()


def wait_until_gone(processes: list[psutil.Process]) -> None:
    """A fork of a killed worker belongs to init, which may take its time to bury it: a zombie is gone too."""
    deadline = time.monotonic() + 20

    def lives(process: psutil.Process) -> bool:
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    while alive := [process for process in processes if lives(process)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.02)


def test_closing_ends_the_workers_and_answers_whoever_waits() -> None:
    others = set(psutil.Process().children(recursive=True))  # of pools that other tests hold
    pool = VerifierPool(2, cpu_seconds=100.0)
    assert judge(pool, "warm").score == 1.0
    futures = [pool.submit(TARGET, RECORD, "loop") for _ in range(10)]
    workers = [each for each in psutil.Process().children(recursive=True) if each not in others]
    assert workers
    time.sleep(0.2)
    pool.close()
    assert {future.result(0).status for future in futures} == {Status.ERROR}
    assert all("closed" in future.result(0).reason for future in futures)
    wait_until_gone(workers)
    assert "closed" in pool.submit(TARGET, RECORD, "late").result(0).reason


def test_workers_end_with_a_parent_that_is_killed(tmp_path) -> None:
    script = (
        "import time; from reasonkit.verifiers.pool import VerifierPool; from reasonkit.records import Record\n"
        "if __name__ == '__main__':\n"
        "    pool = VerifierPool(1); print(pool.submit('verify_pool_behaviours:behave', "
        "Record('', '', (), ''), 'x').result().details['pid'], flush=True); time.sleep(100)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment, text=True
    ) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    worker.wait(10)


def test_many_threads_share_a_pool(pool: VerifierPool) -> None:
    verdicts: list[Verdict] = []

    def ask(name: int) -> None:
        verdicts.extend(judge(pool, f"{name}-{index}") for index in range(20))

    threads = [threading.Thread(target=ask, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {verdict.answer for verdict in verdicts} == {f"{n}-{i}" for n in range(8) for i in range(20)}


def test_submitting_waits_for_room() -> None:
    with VerifierPool(1, cpu_seconds=0.3, max_pending=2) as pool:
        futures: list[Future[Verdict]] = []

        def submit() -> None:
            futures.extend(pool.submit(TARGET, RECORD, "loop") for _ in range(3))

        thread = threading.Thread(target=submit)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        thread.join(20)
        assert [future.result(20).status for future in futures] == [Status.TIMEOUT] * 3


def test_no_signal_handler_is_installed(pool: VerifierPool) -> None:
    handled = (signal.SIGALRM, signal.SIGPROF, signal.SIGCHLD, signal.SIGTERM, signal.SIGPIPE)
    before = [signal.getsignal(number) for number in handled]
    judge(pool, "loop")
    assert [signal.getsignal(number) for number in handled] == before


def test_verdicts_do_not_depend_on_the_load_of_the_machine() -> None:
    """CPU time and not wall time decides, so busy cores change no verdict."""
    records = [
        (Record("a", "math", (), r"\frac{1}{2}"), r"\boxed{\sqrt{\frac14}}"),
        (Record("b", "math", (), "12"), r"\boxed{\binom{1000000}{500000}}"),
        (Record("c", "math", (), "x^2+2x+1"), r"\boxed{(x+1)^2}"),
    ]
    with VerifierPool(2) as pool:

        def statuses() -> list[Status]:
            target = "reasonkit.verifiers.math:verify_math"
            return [pool.submit(target, record, text).result(120).status for record, text in records]

        quiet = statuses()
        spinners = [
            subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)
        ]
        try:
            busy = statuses()
        finally:
            for spinner in spinners:
                spinner.kill()
                spinner.wait()
    assert quiet == busy == [Status.CORRECT, Status.TIMEOUT, Status.CORRECT]


def test_a_grader_judges_inside_asyncio() -> None:
    async def grade() -> list[Verdict]:
        async with Grader(workers=1) as grader:
            return list(await asyncio.gather(*(grader.verify(RECORD, str(index)) for index in range(50))))

    verdicts = asyncio.run(grade())
    assert [verdict.answer for verdict in verdicts] == [str(index) for index in range(50)]


def test_a_grader_turns_what_a_verifier_raises_into_an_error() -> None:
    verdict = verify(Record("u", "openai/gsm8k", (), "no number"), "#### 5")
    assert verdict.status is Status.ERROR
    assert "no number" in verdict.reason


def test_a_reply_of_absurd_length_is_not_judged() -> None:
    verdict = verify(Record("u", "s", (), "1", "exact"), "1" * 1_000_001)
    assert verdict.status is Status.TIMEOUT


IMPORTED_WHILE_JUDGING = r"""
import importlib, sys
from reasonkit.records import Record
from reasonkit.registry import load
from reasonkit.verifiers.worker import PRELOADS
target = sys.argv[1]
for name in PRELOADS[target.partition(":")[0]]:
    importlib.import_module(name)
verify, before = load(target), set(sys.modules)
for gold, reply in [("1/2", "2/4"), (r"\sqrt{8}", r"2\sqrt{2}"), ("x^2+1", "1+x^2"), (r"\ln 2", r"\log 4/2")]:
    verify(Record("r", "math", ({"role": "user", "content": "?"},), gold), r"\boxed{" + reply + "}")
print(*{name.partition(".")[0] for name in set(sys.modules) - before} & {"math_verify", "sympy"})
"""


@pytest.mark.parametrize("routes", [VERIFIERS, REASONING360], ids=["strict", "reasoning360"])
def test_the_clock_of_a_verdict_does_not_run_while_libraries_are_imported(routes: dict[str, str]) -> None:
    """A fresh installation's first import compiles them: seconds, of which a verdict has one and a half."""
    command = [sys.executable, "-c", IMPORTED_WHILE_JUDGING, routes["math"]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
