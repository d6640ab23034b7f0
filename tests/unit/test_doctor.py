"""`reasonkit doctor`: what it finds is true here, and each shortfall comes with its mend."""

from __future__ import annotations

import json
import platform
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path

import pytest
import typer

from reasonkit import cluster_survey
from reasonkit.cli import doctor


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    """A server that stands in for the Hub; it answers with the status in its `answer`."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(self.server.answer)  # type: ignore[attr-defined]
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.answer = 200  # type: ignore[attr-defined]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_command_prints_one_json_document_about_this_machine(endpoint: HTTPServer) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "reasonkit", "doctor", "--json"], capture_output=True, text=True, check=True
    )
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert platform.python_version() in checks["python"]["found"]
    assert checks["torch"]["state"] == "ok"
    assert metadata.version("torch").partition("+")[0] in checks["torch"]["found"]
    assert checks["transformers"]["found"] == metadata.version("transformers")
    assert checks["hub"]["state"] == "ok"
    assert {
        "devices",
        "ray",
        "packages",
        "vllm",
        "sandbox",
        "disk for runs",
        "disk for data",
    } <= checks.keys()
    silent = {name for name, check in checks.items() if check["state"] != "ok" and not check["mend"]}
    assert silent <= {"vllm", "packages"}, (
        "without a GPU vLLM is no loss; each wrong package has its own line"
    )


class TestTorch:
    def test_a_torch_that_cannot_be_imported_is_reported_and_the_rest_goes_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "torch.py").write_text(
            "raise OSError('libcudart.so.12: cannot open shared object file')\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        [check] = doctor.check_torch()
        assert check.state == "broken"
        assert "libcudart.so.12" in check.found
        assert "pip install 'torch" in check.mend

    def test_a_torch_that_crashes_the_interpreter_is_survived(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "torch.py").write_text("import os; os.abort()\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        [check] = doctor.check_torch()
        assert check.state == "broken"
        assert "exit code" in check.found

    def test_the_command_then_fails(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "torch.py").write_text("raise ImportError('broken')\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setattr(doctor, "CHECKS", (doctor.check_python, doctor.check_torch))
        with pytest.raises(typer.Exit) as stopped:
            doctor.doctor(json_=False)
        assert stopped.value.exit_code == 1
        out = capsys.readouterr().out
        assert "ImportError: broken" in out
        assert "pip install 'torch" in out


class TestPackages:
    def versions(self, monkeypatch: pytest.MonkeyPatch, **changed: str | None) -> list[doctor.Check]:
        real = doctor.installed
        monkeypatch.setattr(
            doctor, "installed", lambda name: changed[name] if name in changed else real(name)
        )
        return doctor.check_packages()

    def test_a_version_outside_the_tested_range_is_noted_with_the_line_that_mends_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checks = {check.name: check for check in self.versions(monkeypatch, transformers="4.40.0")}
        assert checks["transformers"].state == "note"
        assert "4.40.0" in checks["transformers"].found
        assert f"{sys.executable} -m pip install 'transformers" in checks["transformers"].mend

    def test_a_missing_package_is_broken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        checks = {check.name: check for check in self.versions(monkeypatch, ray=None)}
        assert checks["ray"].state == "broken"
        assert checks["packages"].state == "broken"


class TestHub:
    def test_a_hub_that_fails_is_noted(self, endpoint: HTTPServer) -> None:
        endpoint.answer = 503  # type: ignore[attr-defined]
        [check] = doctor.check_hub()
        assert check.state == "note"
        assert "503" in check.found

    def test_a_hub_that_does_not_answer_is_no_failure(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
            monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
            [check] = doctor.check_hub()
        assert check.state == "note"
        assert "HF_ENDPOINT" in check.mend

    def test_offline_mode_is_respected(self, endpoint: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        [check] = doctor.check_hub()
        assert "HF_HUB_OFFLINE" in check.found


def test_room_is_measured_where_data_would_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REASONKIT_DATA", str(tmp_path / "not" / "yet"))
    data = doctor.check_disk()[1]
    assert str(tmp_path) in data.found
    monkeypatch.setattr(doctor, "ROOMY_DISK", 1e18)
    assert "REASONKIT_DATA" in doctor.check_disk()[1].mend


def test_versions_that_differ_between_nodes_are_broken_and_the_newest_is_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old, new = (
        cluster_survey.Node(address, "host", 4, ("H200", "H200"), {"python": "3.11.7", "ray": ray})
        for address, ray in (("10.0.0.1", "2.9.0"), ("10.0.0.2", "2.60.0"))
    )
    link = cluster_survey.Link("10.0.0.1", "10.0.0.2", 1.25)
    monkeypatch.setattr(cluster_survey, "survey", lambda: ([old, new], [link]))
    checks = {check.name: check for check in doctor.check_cluster()}
    assert checks["node 10.0.0.1"].found == "host, 4 CPU cores, 2 × H200"
    assert checks["ray"].state == "broken"
    assert checks["ray"].found == "differs: 2.9.0 on 10.0.0.1, 2.60.0 on 10.0.0.2"
    assert checks["ray"].mend == "pip install ray==2.60.0   on every node"
    assert checks["10.0.0.1 to 10.0.0.2"].found == "1.25 GB/s through Ray"
    assert "python" not in checks
