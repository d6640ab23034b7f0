"""Two nodes of a real Ray cluster, in two network namespaces of this machine, and the link between them cut."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster_runs import PATIENCE, Running, assert_learned, uids

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

HEAD, OTHER = "10.77.0.1", "10.77.0.2"
PORT = 6379


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Nodes:
    """Two machines, as far as a network goes: `here` and `there`, with a cable between them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[subprocess.Popen[bytes]] = []
        mine = os.getpid()
        self.here, self.there = f"rk{mine}a", f"rk{mine}b"
        self._cable = f"rk{mine}v"  # an interface's name has 15 letters at most
        ip("link", "add", f"{self._cable}a", "type", "veth", "peer", "name", f"{self._cable}b")
        for space, end, address, peer in (
            (self.here, "a", HEAD, OTHER),
            (self.there, "b", OTHER, HEAD),
        ):
            ip("netns", "add", space)
            ip("link", "set", f"{self._cable}{end}", "netns", space)
            ip("-n", space, "address", "add", f"{address}/24", "dev", f"{self._cable}{end}")
            ip("-n", space, "link", "set", "lo", "up")
            ip("-n", space, "link", "set", f"{self._cable}{end}", "up")
            ip("-n", space, "route", "add", "default", "via", peer)  # by which Ray learns its own address

    def join(self, space: str, address: str, cpus: int) -> None:
        """Start Ray there; the first one is the head."""
        first = not self._started
        how = (
            ["--head", f"--port={PORT}", "--include-dashboard=false"]
            if first
            else [f"--address={HEAD}:{PORT}"]
        )
        start = [str(Path(sys.executable).with_name("ray")), "start", *how, "--block"]
        start += [f"--node-ip-address={address}", f"--num-cpus={cpus}"]
        # Ray gives up after half a minute, which is short on a busy machine.
        patient = f"for attempt in 1 2 3 4 5 6; do {shlex.join(start)} && break; sleep 3; done"
        environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
        with (self._folder / f"node{len(self._started)}.log").open("wb") as log:
            self._started.append(
                subprocess.Popen(
                    [*inside(space), "bash", "-c", patient], stdout=log, stderr=log, env=environment
                )
            )

    def cut(self) -> None:
        ip("-n", self.there, "link", "set", f"{self._cable}b", "down")

    def wait(self, count: int) -> None:
        subprocess.run(
            [*inside(self.here), sys.executable, "-m", "reasonkit.cluster_survey", str(count), str(PATIENCE)],
            check=True,
        )

    def close(self) -> None:
        there = [psutil.Process(node.pid) for node in self._started if node.poll() is None]
        family = [process for node in there for process in (node, *node.children(recursive=True))]
        for stop in (psutil.Process.terminate, psutil.Process.kill):
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    stop(process)
            _, family = psutil.wait_procs(family, timeout=30)
        for node in self._started:
            node.wait()
        for space in (self.here, self.there):
            subprocess.run(["ip", "netns", "delete", space], check=False, capture_output=True)


def inside(space: str) -> list[str]:
    return ["ip", "netns", "exec", space]


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces take root and iproute2")
    space = f"rk{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", space], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody make network namespaces")
    ip("netns", "delete", space)
    monkeypatch.setenv("RAY_ADDRESS", f"{HEAD}:{PORT}")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    opened = Nodes(tmp_path)
    yield opened
    opened.close()


def test_two_nodes_train_and_a_cut_link_is_named_and_survived_once_there_is_another_node(
    tmp_path: Path, nodes: Nodes
) -> None:
    nodes.join(nodes.here, HEAD, cpus=2)
    nodes.join(nodes.there, OTHER, cpus=1)
    nodes.wait(2)
    doctor = [*inside(nodes.here), sys.executable, "-m", "reasonkit", "doctor", "--cluster", "--json"]
    found = subprocess.run(doctor, check=True, capture_output=True, text=True)
    checks = {check["name"]: check for check in json.loads(found.stdout)}
    assert checks.keys() == {f"node {HEAD}", f"node {OTHER}", f"{HEAD} to {OTHER}", f"{OTHER} to {HEAD}"}
    assert all(check["state"] == "ok" for check in checks.values())
    with Running(
        tmp_path, "--preset", "tiny-ray", "--out", "run", "--max-restarts", "2", within=inside(nodes.here)
    ) as running:
        running.until_step(2)
        places = {each["name"]: each["node"] for each in running.run.info()["placement"]}
        assert sorted(places.values()) == [HEAD, HEAD, OTHER]
        (cut_off,) = (name for name, node in places.items() if node == OTHER)
        nodes.cut()
        nodes.join(nodes.here, HEAD, cpus=1)
        assert running.process.wait(PATIENCE * 2) == 0, running.said()
        assert f"{cut_off} (process " in running.said()
    assert_learned(running.run)
    steps = running.run.info()["steps"]
    asked = Counter(uid for step in uids(running.run, steps) for uid in step)
    assert len(asked) == steps * 32, "no record is lost or sampled twice"
    assert set(asked.values()) == {16}
    places = {each["name"]: each["node"] for each in running.run.info()["placement"]}
    assert set(places.values()) == {HEAD}
