"""A job's limits begin when its walls stand. In a process of its own, whose children all end with the job."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, os, socket, sys, time
from types import SimpleNamespace
from reasonkit.sandbox.worker import watch

before, after = map(float, sys.argv[1:])

def burn(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass

told, tell = os.pipe()
here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
if (pid := os.fork()) == 0:
    os.setsid()
    burn(before)
    os.write(tell, b"R%f\\n" % time.process_time())
    burn(after)
    os._exit(0)
os.close(tell)
job = {"cpu_seconds": 0.15, "wall_seconds": 60.0, "processes": False, "address_space": True}
own = float(watch.await_preparation(pid, told)[1:])
ending = watch.supervise(pid, job, here, SimpleNamespace(mounted=True), own, private_pids=False)
print(json.dumps([ending.stopped, ending.cpu]))
"""


@pytest.mark.parametrize(
    ("before", "after", "stopped"), [(0.3, 0.0, None), (0.0, 60.0, "cpu"), (0.3, 60.0, "cpu")]
)
def test_what_comes_before_the_walls_is_not_the_jobs(
    before: float, after: float, stopped: str | None
) -> None:
    command = [sys.executable, "-c", SCRIPT, str(before), str(after)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    ended, cpu = json.loads(done.stdout)
    assert ended == stopped
    assert (cpu > 0.15) == (stopped == "cpu")
